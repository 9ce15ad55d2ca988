"""Reading traffic into memory, grouped by workload, and choosing the one to work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tiercel.datasets.contract import content_key
from tiercel.datasets.importing import ImportCounts, RejectFile, read_traffic
from tiercel.datasets.sources import CsvColumns
from tiercel.datasets.templates import TemplateIndex, WorkloadKey
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.progress import Progress
from tiercel.types import Example

__all__ = ["Traffic", "read_tests", "read_workload", "warn_of_gaps"]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The examples of one workload.

    Attributes:
        key: what makes them one workload.
        examples: in the order of the files.
        counts: of the whole import.
        others: rows of each other workload in the files, largest first.
        duplicates: rows of this workload that repeat another exactly and were dropped.
        repeats: how often each row came again with the same answer and was dropped, by `content_key`; rows that carry
            the id of another are its copies and not counted; rows without ids are taken for requests of their own.
    """

    key: WorkloadKey
    examples: list[Example]
    counts: ImportCounts
    others: list[int]
    duplicates: int = 0
    repeats: Counter[bytes] = field(default_factory=Counter[bytes])


@dataclass(kw_only=True)
class _Rows:
    """All that can be used of some files, of whatever workload; `dropped` counts every exact duplicate."""

    counts: ImportCounts = field(default_factory=ImportCounts)
    examples: list[Example] = field(default_factory=list[Example])
    dropped: Counter[bytes] = field(default_factory=Counter[bytes])
    repeats: Counter[bytes] = field(default_factory=Counter[bytes])


def read_workload(
    paths: Sequence[Path],
    progress: Progress,
    *,
    rejects: Path | None = None,
    workload: str | None = None,
    format_name: str = "auto",
    columns: CsvColumns | None = None,
) -> Traffic:
    """Read files and pick one workload.

    Args:
        paths: of traffic.
        progress: is warned of what was left out.
        rejects: file for the rows that can't be used.
        workload: number (from 1, as `tiercel workloads` lists them) or fingerprint; None for the largest.
        format_name: as for `read_traffic`.
        columns: as for `read_traffic`.

    Raises:
        DataError: no row can be used.
        ConfigurationError: there is no such workload.
    """
    read, index = _read(paths, progress, rejects, format_name, columns), TemplateIndex()
    numbers = [index.add(example) for example in read.examples]
    names = ", ".join(str(p) for p in paths)
    rows = [0] * len(index.keys)
    for number in numbers:
        rows[number] += 1
    order = sorted(range(len(rows)), key=lambda i: -rows[i])
    chosen = _choose(workload, order, index.keys, names)
    others = [rows[i] for i in order if i != chosen]
    if others and workload is None:
        progress.warn(
            f"{names} holds {len(rows)} workloads; this one has {rows[chosen]} of {len(numbers)} rows, "
            "choose another with --workload (see: tiercel workloads)"
        )
    kept = [e for e, number in zip(read.examples, numbers, strict=True) if number == chosen]
    own = [content_key(e) for e in kept] if read.dropped else []
    return Traffic(
        key=index.keys[chosen],
        examples=kept,
        counts=read.counts,
        others=others,
        duplicates=sum(read.dropped[key] for key in own),
        repeats=Counter({key: read.repeats[key] for key in own if key in read.repeats}),
    )


def read_tests(
    path: Path,
    key: WorkloadKey,
    progress: Progress,
    *,
    rejects: Path | None = None,
    format_name: str = "auto",
    columns: CsvColumns | None = None,
) -> list[Example]:
    """The rows of a test file that belong to a workload, whatever else the file holds; perhaps none.

    Args:
        path: of the test file.
        key: of the workload.
        progress: is warned of what was left out.
        rejects: file for the rows that can't be used.
        format_name: as for `read_traffic`.
        columns: as for `read_traffic`.

    Raises:
        DataError: no row can be used.
    """
    examples = _read([path], progress, rejects, format_name, columns).examples
    own = [e for e in examples if key.covers(e)]
    if own and len(own) < len(examples):
        progress.warn(f"{len(examples) - len(own)} of {len(examples)} rows of {path} are of another workload, left out")
    return own


def _read(
    paths: Sequence[Path],
    progress: Progress,
    rejects: Path | None,
    format_name: str,
    columns: CsvColumns | None,
) -> _Rows:
    """All rows of the files, with warnings of those that can't be used; `DataError` where none can."""
    read, ids = _Rows(), set[int]()
    counts = read.counts

    def dropped(example: Example) -> None:
        key = content_key(example)
        read.dropped[key] += 1
        if hash(example.id) not in ids or example.id.startswith("row-"):
            ids.add(hash(example.id))
            read.repeats[key] += 1

    with RejectFile(rejects) as reject_file:
        for example in read_traffic(
            paths, counts, reject_file, format_name=format_name, columns=columns, dropped=dropped
        ):
            ids.add(hash(example.id))
            read.examples.append(example)
    if not read.examples:
        names = ", ".join(str(p) for p in paths)
        reason = counts.reasons.most_common(1)[0][0] if counts.reasons else "no rows"
        raise DataError(f"{names}: none of {counts.read} rows can be used; the most frequent reason: {reason}")
    if counts.rejected:
        reason, times = counts.reasons.most_common(1)[0]
        where = f", listed in {rejects}" if rejects else ""
        progress.warn(f"{counts.rejected} of {counts.read} rows were set aside{where}; most often ({times}): {reason}")
    warn_of_gaps(counts, progress)
    return read


def warn_of_gaps(counts: ImportCounts, progress: Progress) -> None:
    """Warn of what an import finds missing in rows that it keeps or waits for."""
    if counts.unmatched:
        progress.warn(f"{counts.unmatched} rows of a batch have no other half; give both its input and its output file")
    if counts.tool_calls_without_tools:
        progress.warn(
            f"{counts.tool_calls_without_tools} answers call tools that the log does not list; log the tools of each "
            "request too, so that workloads are told apart by them"
        )


def _choose(workload: str | None, order: list[int], keys: list[WorkloadKey], names: str) -> int:
    if workload is None:
        return order[0]
    if workload.isdigit() and len(workload) < 6 and 1 <= int(workload) <= len(order):
        return order[int(workload) - 1]
    for number, key in enumerate(keys):
        if key.fingerprint == workload:
            return number
    raise ConfigurationError(f"{names} has no workload {workload!r}; list them with: tiercel workloads")
