"""`tiercel route`: fit, evaluate and compare routers on recorded answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress, print_json
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.flows.routing_embedding import KeptEmbeddings
    from tiercel.report.routing_result import ComparisonResult, RouteResult
    from tiercel.routing.curves import RouterFigures
    from tiercel.routing.signal import Signal
    from tiercel.stats.intervals import Interval

__all__ = ["register", "route"]

route = typer.Typer(
    help="Route between models by recorded answers: gates, thresholds, a certificate.", no_args_is_help=True
)

Traffic = Annotated[
    list[Path], typer.Argument(help="Files of traffic whose rows have `responses` of several models with scores.")
]
Weak = Annotated[str, typer.Option(help="The cheaper model, by its name in the log or a part of it.")]
Strong = Annotated[str, typer.Option(help="The dearer model, likewise.")]
WeakCost = Annotated[float | None, typer.Option(help="Cost of a call to it; from the log or price table if left out.")]
StrongCost = Annotated[float | None, typer.Option(help="Cost of a call to it, in the same unit.")]
Also = Annotated[
    str | None,
    typer.Option(help="Models with commas between whose answers are there too, to compare the weak one's with."),
]
SignalFile = Annotated[
    Path | None, typer.Option("--signals", help="A Python file of yours with signals; it is run, so trust it.")
]
SignalNames = Annotated[
    str | None,
    typer.Option("--use", help="Names of signals with commas between; all that the traffic allows if left out."),
]
Encoder = Annotated[
    str | None, typer.Option(help="Pretrained encoder for embeddings: a folder, a name on the hub, or none.")
]
Cache = Annotated[Path | None, typer.Option(help="File (.npz) that keeps embeddings between runs.")]
Rejects = Annotated[Path | None, typer.Option(help="File for rows that can't be used.")]
Seed = Annotated[int, typer.Option(help="Of splits, folds and trees.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(route, name="route")


def _own(signals: Path | None) -> dict[str, type[Signal]]:
    from tiercel.routing.signal import load_signal_file

    return load_signal_file(signals) if signals is not None else {}


def _embeddings(stack: ExitStack, folder: Path | None, cache: Path | None) -> KeptEmbeddings | None:
    from tiercel.flows.routing_embedding import KeptEmbeddings, open_encoder

    return None if folder is None else stack.enter_context(KeptEmbeddings(open_encoder(folder), cache))


def _prepared(encoder: str | None, progress: TerminalProgress) -> Path | None:
    from tiercel.flows.routing_embedding import prepare_encoder

    return None if encoder == "none" else prepare_encoder(encoder, progress)


def _names(text: str | None) -> tuple[str, ...] | None:
    found = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    return found or None


@route.command()
def fit(
    traffic: Traffic,
    weak: Weak,
    strong: Strong,
    stage: Annotated[
        str, typer.Option(help="What gates read: pre (request), post (request and answer) or both.")
    ] = "both",
    max_loss: Annotated[float, typer.Option(help="Largest loss against the strong model, over all requests.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    out: Annotated[Path, typer.Option(help="Folder for policy, certificate and report.")] = Path("route"),
    weak_cost: WeakCost = None,
    strong_cost: StrongCost = None,
    also: Also = None,
    signals: SignalFile = None,
    use: SignalNames = None,
    encoder: Encoder = None,
    cache: Cache = None,
    prices: options.Prices = None,
    rejects: Rejects = None,
    seed: Seed = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Fit gates on recorded answers, certify their thresholds, write a policy and its report; exit 3 if none holds."""
    from tiercel.flows.routing import RouteSettings, fit_route
    from tiercel.flows.routing_traffic import pair_of, read_recording
    from tiercel.providers.prices import PriceTable
    from tiercel.report.routing_result import verdict_of_route
    from tiercel.routing.path import Gating

    if stage not in list(Gating):
        raise ConfigurationError(f"--stage is {stage!r}; choose pre, post or both")
    own = _own(signals)
    settings = RouteSettings(
        gating=Gating(stage), max_loss=max_loss, confidence=confidence, seed=seed, signals=_names(use)
    )
    with TerminalProgress() as progress, ExitStack() as stack:
        recording = read_recording(traffic, progress, rejects=rejects)
        folder = _prepared(encoder, progress)
        recorded = pair_of(
            recording,
            weak,
            strong,
            progress,
            embed=_embeddings(stack, folder, cache),
            weak_cost=weak_cost,
            strong_cost=strong_cost,
            prices=PriceTable(options.price_file(prices)),
            also=_names(also) or (),
        )
        policy, result = fit_route(recorded, settings, out, progress, encoder=folder, own=own)
    if json_output:
        print_json(result)
    else:
        print(verdict_of_route(result))
        _print_result(result)
        print(f"report: {out / 'report.html'}")
        print(f"next:   tiercel route evaluate {out} OTHER_TRAFFIC")
    if policy.record.threshold is None:
        raise typer.Exit(3)


@route.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="Folder that `tiercel route fit` wrote.")],
    traffic: Traffic,
    out: Annotated[Path | None, typer.Option(help="File for the report as a page (.html).")] = None,
    weak_cost: WeakCost = None,
    strong_cost: StrongCost = None,
    also: Also = None,
    signals: SignalFile = None,
    cache: Cache = None,
    prices: options.Prices = None,
    rejects: Rejects = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Judge a policy on other recorded answers of the same two models."""
    from tiercel.flows.routing import evaluate_route
    from tiercel.flows.routing_policy import load_policy
    from tiercel.flows.routing_traffic import pair_of, read_recording
    from tiercel.flows.storage import write_file
    from tiercel.providers.prices import PriceTable
    from tiercel.report.routing_page import render_route_page
    from tiercel.report.routing_result import verdict_of_route

    found, certificate = load_policy(policy, _own(signals))
    folder = policy if any(g.needs_embeddings for g in found.gates.values()) else None
    with TerminalProgress() as progress, ExitStack() as stack:
        recorded = pair_of(
            read_recording(traffic, progress, rejects=rejects),
            found.record.weak_model,
            found.record.strong_model,
            progress,
            embed=_embeddings(stack, folder, cache),
            weak_cost=weak_cost if weak_cost is not None else found.record.costs.weak,
            strong_cost=strong_cost if strong_cost is not None else found.record.costs.strong,
            prices=PriceTable(options.price_file(prices)),
            also=_names(also) or (),
            group=False,
        )
        if weak_cost is None and strong_cost is None:
            recorded = replace(recorded, costs_from=found.record.costs_from)
        result = evaluate_route(found, certificate, recorded, progress)
    if out is not None:
        write_file(out, render_route_page(result).encode())
    if json_output:
        print_json(result)
        return
    print(verdict_of_route(result))
    _print_result(result)


@route.command()
def compare(
    traffic: Traffic,
    weak: Weak,
    strong: Strong,
    folds: Annotated[int, typer.Option(help="Parts that are judged in turn by routers fitted on the others.")] = 5,
    weak_cost: WeakCost = None,
    strong_cost: StrongCost = None,
    also: Also = None,
    signals: SignalFile = None,
    use: SignalNames = None,
    encoder: Encoder = None,
    cache: Cache = None,
    prices: options.Prices = None,
    rejects: Rejects = None,
    seed: Seed = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Print the table of routers: random, length, kNN, TF-IDF, gates trained on errors and on value, the oracle."""
    from tiercel.flows.routing import RouteSettings, compare_routers
    from tiercel.flows.routing_traffic import pair_of, read_recording
    from tiercel.providers.prices import PriceTable

    if not 2 <= folds <= 20:
        raise ConfigurationError(f"--folds is {folds}; choose from 2 to 20")
    own = _own(signals)
    with TerminalProgress() as progress, ExitStack() as stack:
        recording = read_recording(traffic, progress, rejects=rejects)
        recorded = pair_of(
            recording,
            weak,
            strong,
            progress,
            embed=_embeddings(stack, _prepared(encoder, progress), cache),
            weak_cost=weak_cost,
            strong_cost=strong_cost,
            prices=PriceTable(options.price_file(prices)),
            also=_names(also) or (),
        )
        settings = RouteSettings(folds=folds, seed=seed, signals=_names(use))
        result = compare_routers(recorded, settings, progress, own)
    if json_output:
        print_json(result)
    else:
        _print_comparison(result)


def _print_result(result: RouteResult) -> None:
    at = result.operating
    if at is not None:
        print(
            f"on {result.judged_rows:,} rows: quality {_shares(at.quality)}, excess loss {_shares(at.excess_loss, 2)}; "
            f"{100 * at.direct_share:.1f} % go to the strong model at once, for {100 * at.escalated_share:.1f} % both "
            "are asked"
        )
    _print_routers(result.routers)
    for caution in result.cautions:
        print(f"caution: {caution}")


def _print_comparison(result: ComparisonResult) -> None:
    pair = result.pair
    print(
        f"{pair.rows:,} rows: {pair.weak_model} {_shares(pair.weak_quality)}, {pair.strong_model} "
        f"{_shares(pair.strong_quality)}; the strong answer is better on {100 * pair.better:.1f} %"
    )
    _print_routers(result.routers)


def _print_routers(routers: list[RouterFigures]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns: dict[str, Callable[[RouterFigures], str]] = {
        "APGR": lambda f: _plain(f.apgr),
        "CPT(50)": lambda f: _shares(f.cpt50),
        "CPT(80)": lambda f: _shares(f.cpt80),
        "AUROC better": lambda f: _plain(f.auroc_value),
        "AUROC wrong": lambda f: _plain(f.auroc_error),
        "error over budgets": lambda f: _shares(f.error_cost),
    }
    table.add_column("router")
    for name in columns:
        table.add_column(name, justify="right")
    for figures in routers:
        table.add_row(figures.name, *(write(figures) for write in columns.values()))
    console = Console(highlight=False, markup=False)
    (console if console.is_terminal else Console(highlight=False, markup=False, width=170)).print(table)


def _plain(i: Interval) -> str:
    return f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" if math.isfinite(i.value) else "-"


def _shares(i: Interval, digits: int = 1) -> str:
    if not math.isfinite(i.value):
        return "-"
    return f"{100 * i.value:.{digits}f} % [{100 * i.low:.{digits}f}, {100 * i.high:.{digits}f}]"
