"""Routers, policies and ladders as text on a terminal, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from tiercel.report.ladder_result import LadderResult, verdict_of_ladder
from tiercel.report.routing_result import ComparisonResult, GateSummary, RouteResult, verdict_of_route
from tiercel.routing.curves import RouterFigures
from tiercel.stats.intervals import Interval

__all__ = ["print_comparison", "print_ladder", "print_route", "print_table"]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print columns, the first `left` of them flush left; wide enough for all where nobody looks on."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    (console if console.is_terminal else Console(highlight=False, markup=False, width=170)).print(table)


def print_route(result: RouteResult) -> None:
    """Print a policy of two models: the verdict, what it does, its gates, the routers."""
    print(verdict_of_route(result))
    at = result.operating
    if at is not None:
        print(
            f"on {result.judged_rows:,} rows: quality {_shares(at.quality)}, excess loss {_shares(at.excess_loss, 2)}; "
            f"{100 * at.direct_share:.1f} % go to the strong model at once, for {100 * at.escalated_share:.1f} % both "
            "are asked"
        )
    if result.private_share is not None:
        print(f"{100 * result.private_share:.1f} % hold personal data and stay with {result.pair.weak_model}")
    _print_gates(result.gates)
    _print_routers(result.routers)
    for caution in result.cautions:
        print(f"caution: {caution}")


def print_comparison(result: ComparisonResult) -> None:
    """Print two models and the table of routers between them."""
    pair = result.pair
    print(
        f"{pair.rows:,} rows: {pair.weak_model} {_shares(pair.weak_quality)}, {pair.strong_model} "
        f"{_shares(pair.strong_quality)}; the strong answer is better on {100 * pair.better:.1f} %"
    )
    _print_routers(result.routers)


def print_ladder(result: LadderResult) -> None:
    """Print a ladder: the verdict, what each tier does, its gates, what fewer tiers would cost."""
    print(verdict_of_ladder(result))
    at, last = result.operating, result.tiers[-1]
    if at is not None:
        print(
            f"on {result.judged_rows:,} rows: quality {_shares(at.quality)}, excess loss {_shares(at.excess_loss, 2)}, "
            f"cost {100 * at.cost / last.cost:.1f} % of {last.model} alone"
        )
    rows = [
        [t.model, f"{100 * t.cost / last.cost:.1f} %", _shares(t.quality), _share(t.asked), _share(t.answers)]
        for t in result.tiers
    ]
    if result.abstention_loss is not None:
        rows.append(["nobody", "", "", "", _share(None if at is None else at.unanswered)])
    print_table(("tier", "cost", "quality alone", "asked", "its answer is used"), rows)
    _print_gates(result.gates)
    if result.shorter:
        shorter = [
            [
                ", ".join(s.models),
                f"{100 * s.cost / last.cost:.1f} %" if s.certified else "not certified",
                _share(s.quality),
            ]
            for s in result.shorter
        ]
        print_table(("with fewer tiers", "cost", "quality"), shorter)
    for caution in result.cautions:
        print(f"caution: {caution}")


def _print_gates(gates: Sequence[GateSummary]) -> None:
    for gate in gates:
        print(f"gate {gate.stage}: {', '.join(gate.signals)}; combined by {gate.combined_by}")


def _print_routers(routers: Sequence[RouterFigures]) -> None:
    columns: dict[str, Callable[[RouterFigures], str]] = {
        "APGR": lambda f: _plain(f.apgr),
        "CPT(50)": lambda f: _shares(f.cpt50),
        "CPT(80)": lambda f: _shares(f.cpt80),
        "AUROC better": lambda f: _plain(f.auroc_value),
        "AUROC wrong": lambda f: _plain(f.auroc_error),
        "error over budgets": lambda f: _shares(f.error_cost),
    }
    rows = [[f.name, *(write(f) for write in columns.values())] for f in routers]
    print_table(("router", *columns), rows)


def _plain(i: Interval) -> str:
    return f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" if math.isfinite(i.value) else "-"


def _shares(i: Interval, digits: int = 1) -> str:
    if not math.isfinite(i.value):
        return "-"
    return f"{100 * i.value:.{digits}f} % [{100 * i.low:.{digits}f}, {100 * i.high:.{digits}f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
