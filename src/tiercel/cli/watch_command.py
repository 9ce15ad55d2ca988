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
    from tiercel.routing.monitor import MonitorStatus

__all__ = ["register"]


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
    from tiercel.routing.audit_book import AuditBook
    from tiercel.store.database import open_database

    if follow is not None and not 0.1 <= follow <= 86_400:
        raise ConfigurationError(f"--follow is {follow}; give seconds from 0.1 to 86400")
    with closing(open_database(options.store_of(store, config), migrate=False)) as database:
        book = AuditBook(database)
        while True:
            book.catch_up()
            found = [book.monitor(name).status() for name in book.workloads]
            _show(found, json_output=json_output)
            if follow is None:
                break
            time.sleep(follow)
        if record is not None:
            rows = book.export(record)
            print(f"{rows:,} rows of the record are in {record}", file=sys.stderr)
    if any(status.send_back or status.segments_sent_back for status in found):
        raise typer.Exit(3)


def _show(found: list[MonitorStatus], *, json_output: bool) -> None:
    if json_output:
        print_json(found)
        return
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
        )
        days = status.days_to_within
        if status.standing == "unknown" and days is not None:
            print(f"  within        in about {days:.1f} days, if all goes on like this")
        print(f"  error budget  {status.budget_left:.4f} of {status.budget.total:g} left for later bundles")
        if status.standing == "broken":
            print(f"  cause         {status.cause}; recovery needs a new certificate: run a pilot on newer traffic")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(watch)
