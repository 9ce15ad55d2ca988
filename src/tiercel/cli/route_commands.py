"""`tiercel route`: fit, evaluate and compare routers on recorded answers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tiercel.cli import options
from tiercel.cli.route_options import (
    Also,
    Cache,
    Database,
    Rejects,
    SignalFile,
    Source,
    StrongCost,
    Traffic,
    WeakCost,
    names_of,
    numbers_of,
    open_embeddings,
    own_signals,
    with_source,
)
from tiercel.cli.terminal import TerminalProgress, print_json
from tiercel.errors import ConfigurationError

__all__ = ["register", "route"]

route = typer.Typer(
    help="Route between models by recorded answers: gates, thresholds, a certificate.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(route, name="route")


@route.command()
@with_source
def fit(
    source: Source,
    stage: Annotated[
        str | None,
        typer.Option(
            help="What gates read: pre (request), post (request and answer) or both; both for two models, post for a "
            "ladder if left out."
        ),
    ] = None,
    max_loss: Annotated[float, typer.Option(help="Largest loss against the dearest model, over all requests.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    abstention_loss: Annotated[
        float | None,
        typer.Option(
            help="Let a ladder say nothing where its last model would err: what that costs, from 0 to 1, where a wrong "
            "answer costs 1."
        ),
    ] = None,
    keep_private: Annotated[
        bool, typer.Option("--keep-private", help="Requests with personal data stay with the cheapest model.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for policy, certificate and report.")] = Path("route"),
    json_output: options.JsonOutput = False,
) -> None:
    """Fit gates on recorded answers, certify their thresholds, write a policy and its report; exit 3 if none holds.

    With --weak and --strong between two models; with --ladder between any number of them.
    """
    from tiercel.cli.route_tables import print_ladder, print_route
    from tiercel.flows.routing import fit_route
    from tiercel.flows.routing_files import check_policy_folder
    from tiercel.flows.routing_ladder import fit_ladder
    from tiercel.flows.routing_settings import RouteSettings
    from tiercel.routing.path import Gating

    if stage is not None and stage not in list(Gating):
        raise ConfigurationError(f"--stage is {stage!r}; choose pre, post or both")
    if abstention_loss is not None and source.ladder is None:
        raise ConfigurationError("--abstention-loss is for ladders; name the models with --ladder CHEAP,...,DEAR")
    settings = RouteSettings(
        gating=Gating(stage or ("both" if source.ladder is None else "post")),
        max_loss=max_loss,
        confidence=confidence,
        seed=source.seed,
        signals=names_of(source.use),
        keep_private=keep_private,
        abstention_loss=abstention_loss,
    )
    check_policy_folder(out, source.traffic)
    with source.open() as opened:
        further: dict[str, Any] = {"encoder": opened.encoder, "own": opened.own}
        if source.ladder is None:
            _, result = fit_route(opened.pair(), settings, out, opened.progress, **further)
            show = print_route
        else:
            _, result = fit_ladder(opened.tiers(), settings, out, opened.progress, **further)
            show = print_ladder
    if json_output:
        print_json(result)
    else:
        show(result)  # pyright: ignore[reportArgumentType]
        print(f"report: {out / 'report.html'}")
        print(f"next:   tiercel route evaluate {out} OTHER_TRAFFIC")
    if result.operating is None:
        raise typer.Exit(3)


@route.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="Folder that `tiercel route fit` wrote.")],
    traffic: Traffic,
    out: Annotated[Path | None, typer.Option(help="File for the report as a page (.html).")] = None,
    weak_cost: WeakCost = None,
    strong_cost: StrongCost = None,
    tier_costs: Annotated[
        str | None, typer.Option(help="Cost of a call to each model of a ladder, with commas between.")
    ] = None,
    also: Also = None,
    database: Database = None,
    signals: SignalFile = None,
    cache: Cache = None,
    prices: options.Prices = None,
    rejects: Rejects = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Judge a policy on other recorded answers of the same models."""
    from tiercel.flows.ladder_policy import is_ladder
    from tiercel.flows.routing_traffic import Surroundings, read_recording
    from tiercel.flows.storage import check_output, write_file
    from tiercel.providers.prices import PriceTable
    from tiercel.routing.sql_signals import query_on

    if out is not None:
        check_output(out, traffic, what=f"--out {out}")
    judge = _judge_ladder if is_ladder(policy) else _judge_pair
    with TerminalProgress() as progress, ExitStack() as stack:
        embedded = policy if (policy / "encoder.onnx").is_file() else None
        common: dict[str, Any] = {
            "surroundings": Surroundings(
                embed=open_embeddings(stack, embedded, cache),
                query=query_on(database) if database is not None else None,
            ),
            "prices": PriceTable(options.price_file(prices)),
            "also": names_of(also) or (),
            "group": False,
        }
        costs = (weak_cost, strong_cost) if judge is _judge_pair else numbers_of(tier_costs, "--tier-costs")
        recording = read_recording(traffic, progress, rejects=rejects)
        result, page, show = judge(policy, own_signals(signals), recording, costs, common, progress)
    if out is not None:
        write_file(out, page(result).encode())
    if json_output:
        print_json(result)
    else:
        show(result)


def _judge_pair(
    folder: Path, own: dict[str, Any], recording: Any, costs: Any, common: dict[str, Any], progress: TerminalProgress
) -> tuple[Any, Any, Any]:
    from tiercel.cli.route_tables import print_route
    from tiercel.flows.routing import evaluate_route
    from tiercel.flows.routing_policy import load_policy
    from tiercel.flows.routing_traffic import pair_of
    from tiercel.report.routing_page import render_route_page

    policy, certificate = load_policy(folder, own)
    record = policy.record
    weak, strong = (given if given is not None else kept for given, kept in zip(costs, record.costs.each, strict=True))
    models = (record.weak_model, record.strong_model)
    recorded = pair_of(recording, *models, progress, weak_cost=weak, strong_cost=strong, **common)
    if costs == (None, None):
        recorded = replace(recorded, costs_from=record.costs_from)
    return evaluate_route(policy, certificate, recorded, progress), render_route_page, print_route


def _judge_ladder(
    folder: Path, own: dict[str, Any], recording: Any, costs: Any, common: dict[str, Any], progress: TerminalProgress
) -> tuple[Any, Any, Any]:
    from tiercel.cli.route_tables import print_ladder
    from tiercel.flows.ladder_policy import load_ladder
    from tiercel.flows.routing_ladder import evaluate_ladder
    from tiercel.flows.routing_traffic import tiers_of
    from tiercel.report.ladder_page import render_ladder_page

    policy, certificate = load_ladder(folder, own)
    record = policy.record
    recorded = tiers_of(recording, record.tiers, progress, costs=costs or record.costs, **common)
    if costs is None:
        recorded = replace(recorded, costs_from=record.costs_from)
    return evaluate_ladder(policy, certificate, recorded, progress), render_ladder_page, print_ladder


@route.command()
@with_source
def compare(
    source: Source,
    folds: Annotated[int, typer.Option(help="Parts that are judged in turn by routers fitted on the others.")] = 5,
    json_output: options.JsonOutput = False,
) -> None:
    """Print the table of routers: random, length, kNN, TF-IDF, gates trained on errors and on value, the oracle.

    With --ladder a table for each model of it with the dearest one.
    """
    from tiercel.cli.route_tables import print_comparison
    from tiercel.flows.routing import compare_routers
    from tiercel.flows.routing_settings import RouteSettings

    if not 2 <= folds <= 20:
        raise ConfigurationError(f"--folds is {folds}; choose from 2 to 20")
    settings = RouteSettings(folds=folds, seed=source.seed, signals=names_of(source.use))
    with source.open() as opened:
        pairs = [opened.pair()] if source.ladder is None else opened.tiers().pairs()
        results = [compare_routers(pair, settings, opened.progress, opened.own) for pair in pairs]
    if json_output:
        print_json(results[0] if source.ladder is None else results)
        return
    for result in results:
        print_comparison(result)


@route.command(name="signals")
def list_signals(signals: SignalFile = None, json_output: options.JsonOutput = False) -> None:
    """List the signals that gates read, those of a file of yours too, and check that yours keep their promises."""
    from tiercel.cli.route_tables import print_table
    from tiercel.routing.signal import SIGNALS, make_signals
    from tiercel.routing.signal_check import check_signal

    own = own_signals(signals)
    for signal in own.values():
        check_signal(signal)
    found = make_signals((*SIGNALS, *own), own)
    rows = [
        {"name": s.name, "stage": str(s.stage), "cost": str(s.cost), "about": (type(s).__doc__ or "").split("\n")[0]}
        for s in found
    ]
    if json_output:
        print_json(rows)
    else:
        print_table(("signal", "reads", "costs", "what it tells"), [list(r.values()) for r in rows], left=4)
