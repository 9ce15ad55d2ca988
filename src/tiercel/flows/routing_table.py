"""Routers side by side: the plain ones that every gate has to beat, the gates, and the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.routing_traffic import Recorded
from tiercel.report.routing_result import RoutedPair
from tiercel.routing.curves import Costs, RouterFigures, oracle_scores, quality_curve, router_figures
from tiercel.routing.delegation import DelegationGate, Target
from tiercel.routing.exchange import Exchanges, Outcomes
from tiercel.routing.learned_signals import Neighbours, RequestWords
from tiercel.routing.request_signals import Length
from tiercel.routing.signal import Signal
from tiercel.stats.intervals import mean_interval

__all__ = [
    "ANSWER_GATE",
    "ORACLE",
    "REQUEST_GATE",
    "Router",
    "drawn_curve",
    "figures_of",
    "gate_router",
    "pair_summary",
    "plain_routers",
    "reads_answers",
]

Floats = NDArray[np.float64]
Router = Callable[[Exchanges, Outcomes, Exchanges], Floats]
"""From training exchanges, their outcomes and other exchanges to scores of the latter, shape (n,)."""

REQUEST_GATE, ANSWER_GATE, ORACLE = "request gate", "answer gate", "oracle"
_POINTS = 120


def plain_routers(*, embeddings: bool) -> dict[str, Router]:
    """Random, length, TF-IDF and, with embeddings, nearest neighbours."""

    def random(train: Exchanges, outcomes: Outcomes, test: Exchanges) -> Floats:
        # A constant is what random orders come to on average, without their noise.
        return np.zeros(len(test))

    def column(make: Callable[[], Signal], number: int) -> Router:
        def route(train: Exchanges, outcomes: Outcomes, test: Exchanges) -> Floats:
            return make().fit(train, outcomes).transform(test)[:, number]

        return route

    found: dict[str, Router] = {"random": random, "length": column(Length, 0), "TF-IDF": column(RequestWords, 0)}
    return found | ({"kNN": column(Neighbours, 1)} if embeddings else {})


def gate_router(make: Callable[[], Sequence[Signal]], target: Target, seed: int) -> Router:
    """A gate as a router: fitted anew on the training exchanges."""

    def route(train: Exchanges, outcomes: Outcomes, test: Exchanges) -> Floats:
        return DelegationGate(make(), target=target, seed=seed).fit(train, outcomes).score(test)

    return route


def reads_answers(name: str) -> bool:
    """Whether a router of the tables reads answers, so that the weak model is asked for every request."""
    return name.startswith(ANSWER_GATE)


def figures_of(
    scores: Mapping[str, Floats], outcomes: Outcomes, costs: Costs, seed: int
) -> tuple[list[RouterFigures], dict[str, list[tuple[float, float]]]]:
    """Figures and curves of routers on the same rows, the oracle's added."""
    routers, curves = list[RouterFigures](), dict[str, list[tuple[float, float]]]()
    for name, s in {**scores, ORACLE: oracle_scores(outcomes.weak, outcomes.strong)}.items():
        priced = Costs(weak=costs.weak, strong=costs.strong, weak_always=reads_answers(name))
        routers.append(router_figures(name, s, outcomes.weak, outcomes.strong, priced, seed=seed))
        curves[name] = drawn_curve(s, outcomes)
    return routers, curves


def drawn_curve(scores: Floats, outcomes: Outcomes) -> list[tuple[float, float]]:
    """Some points of a curve of quality against share of calls, ends included."""
    curve = quality_curve(scores, outcomes.weak, outcomes.strong)
    shares = np.linspace(0, 1, min(_POINTS, curve.share.size))
    return [(float(s), curve.at(float(s))) for s in shares]


def pair_summary(recorded: Recorded) -> RoutedPair:
    """The two models alone."""
    outcomes = recorded.outcomes
    return RoutedPair(
        weak_model=recorded.weak_model,
        strong_model=recorded.strong_model,
        rows=len(recorded.exchanges),
        weak_quality=mean_interval(outcomes.weak, 0.0, 1.0),
        strong_quality=mean_interval(outcomes.strong, 0.0, 1.0),
        better=float((outcomes.value > 0).mean()),
        worse=float((outcomes.value < 0).mean()),
        costs=recorded.costs,
        costs_from=recorded.costs_from,
        left_out=recorded.left_out,
    )
