"""The commands about what a gateway has stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress, print_json
from tiercel.cli.times import moment
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.flows.traces import CostReport, ForgetOutcome
    from tiercel.store.costs import CostLine

__all__ = ["costs", "export_traces", "forget", "register"]

Since = Annotated[str | None, typer.Option(help="From when on: 30m, 12h, 7d or 8w ago, or a date such as 2026-01-31.")]
Until = Annotated[str | None, typer.Option(help="Up to, not including: as --since.")]
_TIERS = ("cache", "student", "frontier", "none")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("export-traces")(export_traces)
    app.command()(costs)
    app.command()(forget)


def export_traces(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .jsonl or .jsonl.gz.")],
    store: options.Store = None,
    config: options.Config = None,
    workload: Annotated[str | None, typer.Option(help="Name of the workload; all when left out.")] = None,
    since: Since = None,
    until: Until = None,
    tier: Annotated[
        str, typer.Option(help="Who answered: frontier, student, cache, with commas between.")
    ] = "frontier",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many traces.")] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Write what the gateway captured as traffic that the other commands read."""
    from tiercel.flows.traces import export_to_file

    now = time.time()
    with TerminalProgress() as progress:
        counts = export_to_file(
            options.store_of(store, config),
            output,
            progress,
            workload=workload,
            since=moment(since, "--since", now),
            until=moment(until, "--until", now),
            tiers=cast("Any", _names(tier, "--tier", _TIERS)),
            limit=limit,
        )
    if json_output:
        print_json(counts)
        return
    print(f"{counts.written:,} traces written to {output}")
    if counts.rejected:
        print(f"{counts.rejected:,} set aside in {counts.rejects}")
    for reason, times in counts.reasons.most_common(5):
        print(f"  {times:,}: {reason}")
    print(f"next: tiercel workloads {output}")


def costs(
    store: options.Store = None,
    config: options.Config = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[
        str,
        typer.Option(help="What to split by: day, workload, key, tier, model, provider, bundle, api, user; total."),
    ] = "day,workload,tier",
    latency: Annotated[bool, typer.Option("--latency", help="Also show the median latency; takes longer.")] = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Show what answers cost, what the frontier would have cost, and what was saved."""
    from tiercel.flows.traces import report_costs
    from tiercel.store.costs import DIMENSIONS

    now = time.time()
    report = report_costs(
        options.store_of(store, config),
        since=moment(since, "--since", now),
        until=moment(until, "--until", now),
        by=() if by == "total" else cast("Any", _names(by, "--by", DIMENSIONS)),
        latency=latency,
    )
    if json_output:
        print_json(report)
    else:
        _show_costs(report, latency)


def forget(
    user: Annotated[str, typer.Argument(help="As the requests name the user.")],
    store: options.Store = None,
    config: options.Config = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="A bundle to look through; may be repeated. Those of tiercel.toml when left out."),
    ] = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Delete what the gateway captured of a user, and name the bundles that were trained on it.

    The ledger keeps its sums, without the user. Files that were exported before are yours to delete.
    """
    from tiercel.flows.traces import forget as forget_in

    bundles = bundle or options.served_bundles(config)
    outcome = forget_in(options.store_of(store, config), user, bundles=bundles)
    if json_output:
        print_json(outcome)
    else:
        _show_forgotten(outcome, looked=len(bundles))


def _names(value: str, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ConfigurationError(f"{option} {value!r}: choose from {', '.join(known)}, with commas between")
    return names


def _show_costs(report: CostReport, latency: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)
    if report.total is None:
        console.print("no requests in that time")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in report.lines[0].group:
        table.add_column(name)
    for name in ("requests", "errors", "tokens in", "cached", "out", "cost", "frontier", "saved", "unpriced"):
        table.add_column(name, justify="right")
    if latency:
        table.add_column("p50", justify="right")
    for line in report.lines:
        table.add_row(*(_plain(value) for value in line.group.values()), *_cells(line, latency))
    if report.lines[0].group:
        table.add_row("total", *[""] * (len(report.lines[0].group) - 1), *_cells(report.total, latency), style="bold")
    console.print(table)
    if report.total.unpriced:
        console.print(
            f"{report.total.unpriced:,} requests have no known price and are in no sum of money; "
            "give their prices to the gateway",
            soft_wrap=True,
        )


def _cells(line: CostLine, latency: bool) -> list[str]:
    from tiercel.report.verdict import usd

    amounts = (line.cost_usd, line.frontier_cost_usd, line.saved_usd)
    cells = [
        *(f"{n:,}" for n in (line.requests, line.errors, line.input_tokens, line.cached_input_tokens)),
        f"{line.output_tokens:,}",
        *("unknown" if amount is None else usd(amount) for amount in amounts),
        f"{line.unpriced:,}" if line.unpriced else "",
    ]
    if latency:
        cells.append("" if line.latency_p50_s is None else f"{line.latency_p50_s * 1000:,.1f} ms")
    return cells


def _plain(value: str | None) -> str:
    """Text that can't steer a terminal: clients choose the names of models."""
    return "-" if value is None else "".join(c if c.isprintable() else "?" for c in value)


def _show_forgotten(outcome: ForgetOutcome, looked: int) -> None:
    print(f"{len(outcome.trace_ids):,} traces of the user found, {outcome.contents:,} contents deleted")
    if not outcome.erased and outcome.contents:
        print("the bytes may stay in the database's files until it uses their space again; backups are yours to delete")
    for name, ids in outcome.bundles.items():
        print(f"{name} was trained on {len(ids):,} of them: run its pilot again without them")
    if outcome.trace_ids and looked and not outcome.bundles:
        print(f"none of {looked} bundles was trained on them")
    elif outcome.trace_ids and not looked:
        print("no bundle was looked through: name those in use with --bundle")
