"""`tiercel plan`: how many rows a certificate takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options

if TYPE_CHECKING:
    from tiercel.flows.planning import CertificatePlan

__all__ = ["plan", "register"]


def plan(
    max_loss: Annotated[float, typer.Option(help="Largest loss that you allow, over all requests.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    expected_loss: Annotated[
        float,
        typer.Option(help="Loss you expect: over all requests, or of the answers that are used with --offload."),
    ] = 0.01,
    offload: Annotated[float | None, typer.Option(help="Share of the requests that the student is to answer.")] = None,
    segments: Annotated[int, typer.Option(help="Segments that are to be certified, each by itself.")] = 1,
    json_output: options.JsonOutput = False,
) -> None:
    """Say how many rows a certificate takes: for calibration, and audits after deployment.

    Exact for losses of 0 and 1; nothing is read or written.
    """
    from tiercel.flows.planning import plan_rows

    found = plan_rows(
        max_loss=max_loss,
        confidence=confidence,
        expected_loss=expected_loss,
        offload=offload,
        segments=segments,
    )
    if json_output:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        _table(found)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(plan)


def _table(found: CertificatePlan) -> None:
    from rich.console import Console
    from rich.table import Table

    from tiercel.report.verdict import exact_percent

    def shown(rows: int | None) -> str:
        return "no number" if rows is None else f"{rows:,}"

    several = found.segments > 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ["chance", "calibration rows", *(["in all"] if several else []), "traffic of a pilot", "audits"]
    for name in heads:
        table.add_column(name, justify="right")
    for row in found.rows:
        together = [shown(row.calibration_in_all)] if several else []
        traffic = "more than it sets aside" if row.calibration is not None and row.traffic is None else None
        table.add_row(
            f"{row.chance:.0%}", shown(row.calibration), *together, traffic or shown(row.traffic), shown(row.audits)
        )
    console = Console(highlight=False, markup=False)
    each = f", of each of {found.segments} segments, all of which hold together" if several else ""
    console.print(
        f"loss at most {exact_percent(found.max_loss)} with {exact_percent(found.confidence)} confidence{each}, "
        f"{exact_percent(found.expected_loss)} expected over all requests",
        soft_wrap=True,
    )
    console.print(table)
    if found.expected_loss >= found.max_loss:
        console.print("the loss expected is no smaller than the bound: allow more, or let the student answer less")
        return
    console.print(f"without an error: {found.fewest:,} calibration rows{' of each segment' if several else ''}")
