"""What a gateway's store is asked for: its traces as traffic, its costs, and that it forgets a user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import example_from
from tiercel.datasets.sources import RawRow
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.lineage import trained_on
from tiercel.flows.progress import Progress
from tiercel.flows.rejects import RejectFile, rejects_beside
from tiercel.flows.storage import check_output, make_folder, new_file
from tiercel.store.costs import CostLine, Dimension, costs
from tiercel.store.database import open_database
from tiercel.store.entries import Tier
from tiercel.store.export import export_traces
from tiercel.store.retention import forget_user, traces_of, user_hash, user_salt

__all__ = ["CostReport", "ExportCounts", "ForgetOutcome", "export_to_file", "forget", "report_costs"]


class ExportCounts(Struct, kw_only=True):
    """What became of the traces of an export."""

    written: int = 0
    rejected: int = 0
    """Traces that break the data contract, such as an answer with neither text nor tool calls."""
    reasons: Counter[str] = msgspec.field(default_factory=Counter[str])
    """Rejected traces by reason."""
    rejects: str | None = None
    """File that they are in; None where there are none."""


class CostReport(Struct, frozen=True, kw_only=True):
    """What answers cost."""

    lines: tuple[CostLine, ...]
    total: CostLine | None
    """Sums over all lines; None where there is no entry."""


class ForgetOutcome(Struct, frozen=True, kw_only=True):
    """What was forgotten of a user, and which bundles have learned from it."""

    user: str
    """Hash that stood for the user in the store."""
    trace_ids: tuple[str, ...]
    """All traces of the user, oldest first, also those whose content was gone already."""
    contents: int
    """How many contents were deleted now."""
    bundles: dict[str, tuple[str, ...]]
    """For each bundle that was trained on some of the traces: which. Train these again without them."""
    erased: bool
    """Whether the deleted bytes are in no file of the database any more; see `store.retention.Forgotten`."""


def export_to_file(
    store: str | Path,
    output: Path,
    progress: Progress,
    *,
    workload: str | None = None,
    since: float | None = None,
    until: float | None = None,
    tiers: Sequence[Tier] = ("frontier",),
    limit: int | None = None,
) -> ExportCounts:
    """Write captured traces as a file of the data contract, in bounded memory.

    Traces that break the contract go to NAME.rejects.jsonl beside the output, with their reason.

    Args:
        store: path or URL of the store.
        output: `.jsonl` or `.jsonl.gz`; appears when it is whole.
        progress: is told how many traces were written.
        workload: name; None for all.
        since: Unix time in seconds of the first trace; None for the oldest.
        until: Unix time in seconds that traces come before; None for no end.
        tiers: who answered.
        limit: number of traces to stop after; None for all.

    Raises:
        ConfigurationError: the output has another ending, or the store can't be opened.
        DataError: there is no trace to write.
        StorageError: the store can't be read or the file can't be written.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigurationError(f"--output is {output}; give a name that ends in .jsonl or .jsonl.gz")
    counts = ExportCounts()
    check_output(output, [Path(store)], role="the store")
    rejects = rejects_beside(output)
    encode = msgspec.json.Encoder().encode
    progress.stage("exporting")
    with closing(open_database(store, migrate=False)) as database:
        make_folder(output.parent, "--output")
        traces = export_traces(database, workload=workload, since=since, until=until, tiers=tiers, limit=limit)
        with RejectFile(rejects, [Path(store)], "--output") as reject_file, new_file(output, "--output") as stream:
            for number, trace in enumerate(traces, start=1):
                line = encode(trace)
                try:
                    example_from(trace)
                except DataError as error:
                    counts.rejected += 1
                    counts.reasons[str(error)] += 1
                    counts.rejects = str(rejects)
                    reject_file.add(RawRow(output, number, raw=line), str(error))
                    continue
                stream.write(line + b"\n")
                counts.written += 1
                if counts.written % 1_000 == 0:
                    progress.step(counts.written, limit or 0)
            if not counts.written:
                raise DataError(_nothing(database.url_shown, counts))
    return counts


def _nothing(shown: str, counts: ExportCounts) -> str:
    if counts.rejected:
        reason = counts.reasons.most_common(1)[0][0]
        return f"none of {counts.rejected} traces of {shown} can be used; the most frequent reason: {reason}"
    return (
        f"{shown} holds no such traces with content; widen --since, --until, --tier or --workload, or turn on capture"
    )


def report_costs(
    store: str | Path,
    *,
    since: float | None = None,
    until: float | None = None,
    by: Sequence[Dimension] = ("day", "workload", "tier"),
    latency: bool = False,
) -> CostReport:
    """Sum the ledger.

    Args:
        store: path or URL of the store.
        since: Unix time in seconds of the first entry; None for the oldest.
        until: Unix time in seconds that entries come before; None for no end.
        by: dimensions to split by.
        latency: also find medians, which takes longer.

    Raises:
        ConfigurationError: a dimension has no such name, or the store can't be opened.
        StorageError: the store can't be read.
    """
    with closing(open_database(store, migrate=False)) as database:
        lines = costs(database, since, until, by, latency=latency)
        total = costs(database, since, until, (), latency=latency)
    return CostReport(lines=tuple(lines), total=total[0] if total else None)


def forget(store: str | Path, user: str, *, bundles: Sequence[Path] = ()) -> ForgetOutcome:
    """Delete what the store holds of a user, and name the bundles that were trained on it.

    All bundles are read before anything is deleted: afterwards nothing leads from the user to the traces.

    Args:
        store: path or URL of the store.
        user: as requests name the user.
        bundles: to look through.

    Raises:
        BundleError: a bundle can't be read or does not say what it was trained on; nothing is deleted then.
        ConfigurationError: the store can't be opened.
        StorageError: the store can't be written.
    """
    with closing(open_database(store, migrate=False)) as database:
        hashed = user_hash(user, user_salt(database))
        traces = traces_of(database, hashed)
        taught = {str(bundle): trained_on(bundle, traces) for bundle in bundles}
        forgotten = forget_user(database, hashed)
    return ForgetOutcome(
        user=hashed,
        trace_ids=forgotten.trace_ids,
        contents=forgotten.contents,
        bundles={name: tuple(i for i in traces if i in ids) for name, ids in taught.items() if ids},
        erased=forgotten.erased,
    )
