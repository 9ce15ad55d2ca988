"""`tiercel watch`: whether the certificates still hold, from the record of audits."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import print_json
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.routing.input_drift import DriftStatus
    from tiercel.routing.monitor import MonitorStatus
    from tiercel.store.database import Database

__all__ = ["register"]

_STANDINGS = {"within": "within", "unknown": "unknown", "broken": "sent back to the frontier"}
_LONGEST = 120
"""Characters of a request that are shown."""


def watch(
    store: options.Store = None,
    config: options.Config = None,
    follow: Annotated[float | None, typer.Option(help="Show it again every so many seconds, until Ctrl-C.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Write the record too, for `tiercel certificate verify --audits` and for other verifiers."),
    ] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Show how the workloads stand whose accepted answers are audited: loss, audits, error budget, verdicts.

    Exit code 3 when a bound is broken, so that a script can act on it.
    """
    from tiercel.flows.storage import check_output, moved_into
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.drift_book import with_input_drift
    from tiercel.store.database import open_database

    if follow is not None and not 0.1 <= follow <= 86_400:
        raise ConfigurationError(f"--follow is {follow}; give seconds from 0.1 to 86400")
    location = options.store_of(store, config)
    if record is not None:
        check_output(record, [Path(location)], what=f"--record {record}", role="the store")
    with closing(open_database(location, migrate=False)) as database:
        book = AuditBook(database)
        while True:
            book.catch_up()
            found = with_input_drift(database, [book.monitor(name).status() for name in book.workloads])
            if json_output:
                print_json(found)
            else:
                _show(database, found)
            if follow is None:
                break
            time.sleep(follow)
        if record is not None:
            with moved_into(record, "--record") as aside:
                rows = book.export(aside)
            print(f"{rows:,} rows of the record are in {record}", file=sys.stderr)
    if any(status.send_back or status.segments_sent_back for status in found):
        raise typer.Exit(3)


def _show(database: Database, found: list[MonitorStatus]) -> None:
    if not found:
        print("no workload is audited yet; serve a bundle with [monitor] enabled")
        return
    for status in found:
        loss = status.whole.excess_loss
        state = "sent back to the frontier" if status.send_back else status.standing
        print(f"{status.workload}: {state} (epoch {status.epoch}, bound {status.max_loss:.2%})")
        if status.requests:
            print(f"  requests      {status.requests:,}, {status.offload or 0:.1%} of them answered by the student")
        print(f"  excess loss   {loss.value:.2%} [{loss.low:.2%}, {loss.high:.2%}], valid at every look")
        counts = status.counts
        missing = counts.failed + counts.expired
        print(
            f"  audits        {counts.drawn:,} drawn, {counts.booked:,} booked, {status.waiting:,} waiting, "
            f"{missing:,} without a result (counted as losses)"
            + (f", {counts.taken_up:,} taken up from gateways that ended" if counts.taken_up else "")
        )
        for name, segment in status.segments.items():
            loss, state = segment.excess_loss, _STANDINGS[segment.standing]
            print(f"  segment       {name!r}: {state}, {loss.value:.2%} [{loss.low:.2%}, {loss.high:.2%}]")
        days = status.days_to_within
        if status.standing == "unknown" and days is not None:
            print(f"  within        in about {days:.1f} days, if all goes on like this")
        print(f"  error budget  {status.budget_left:.4f} of {status.budget.total:g} left for later bundles")
        if status.frontier_log10 is not None:
            print(f"  frontier      {_frontier(status)} (e-value on anchors 10^{status.frontier_log10:.1f})")
        if status.input_drift is not None:
            _show_inputs(database, status.input_drift)
        if status.send_back or status.segments_sent_back:
            print(f"  cause         {status.cause}; recovery needs a new certificate: run a pilot on newer traffic")


def _frontier(status: MonitorStatus) -> str:
    return "answers anchors worse than it did" if "frontier" in status.cause else "answers anchors as it did"


def _show_inputs(database: Database, drift: DriftStatus) -> None:
    what = f"changed: {', '.join(drift.signals)}" if drift.drifted else "like those of the certificate"
    print(f"  requests are  {what} ({drift.pairs:,} compared in this round)")
    for example in drift.examples:
        print(f"    new         {example.trace} (similarity {example.similarity:.2f}){_shown(database, example.trace)}")


def _shown(database: Database, trace: str) -> str:
    """The end of what a request says, where the store keeps it: as it was redacted, sampled and deleted."""
    import msgspec

    from tiercel.store.entries import find

    entry = find(database, trace)
    if entry is None or entry.content is None:
        return ""
    texts = [m.get("content") for m in msgspec.json.decode(entry.content.request).get("messages") or ()]
    text = next((t for t in reversed(texts) if isinstance(t, str)), "")
    plain = "".join(c if c.isprintable() else " " for c in text)
    return f": {plain[:_LONGEST]}" if plain.strip() else ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(watch)
