"""What a fit, an evaluation and a comparison of routers leave, as values."""

from __future__ import annotations

from msgspec import Struct

from tiercel.routing.curves import Costs, RouterFigures
from tiercel.routing.path import Step
from tiercel.stats.intervals import Interval

__all__ = ["ComparisonResult", "GateSummary", "Operating", "RouteResult", "RoutedPair", "verdict_of_route"]


class RoutedPair(Struct, frozen=True, kw_only=True):
    """The two models and what they do alone."""

    weak_model: str
    strong_model: str
    rows: int
    weak_quality: Interval
    """Mean score of the weak model, in [0, 1]."""
    strong_quality: Interval
    better: float
    """Share of rows where the strong answer is better."""
    worse: float
    """Share of rows where the weak answer is better."""
    costs: Costs
    """Mean cost of a call, in USD unless `costs_from` is "assumed"."""
    costs_from: str
    """log, prices, options or assumed."""
    left_out: int
    """Rows without a scored answer of both models."""


class GateSummary(Struct, frozen=True, kw_only=True):
    """How a gate is made."""

    stage: str
    """pre or post."""
    signals: tuple[str, ...]
    combined_by: str
    """Name of the set of combiners that was chosen on training rows."""


class Operating(Struct, frozen=True, kw_only=True):
    """A policy at its thresholds, on rows that its gates were not fitted on."""

    weak_share: float
    """Share of requests that the weak model's answer serves."""
    escalated_share: float
    """Share for which both models are asked."""
    direct_share: float
    """Share that goes to the strong model at once."""
    quality: Interval
    """Mean score of the answers that are used."""
    excess_loss: Interval
    """Mean loss against the strong model, over all requests; in [-1, 1]."""
    cost: float
    """Mean cost of a request, calls to the weak model that were for nothing included."""
    strong_cost: float
    """Mean cost with the strong model alone."""

    @property
    def saved(self) -> float:
        """Share of the strong model's cost that is saved; below 0 where asking twice costs more."""
        return 1 - self.cost / self.strong_cost


class ComparisonResult(Struct, frozen=True, kw_only=True):
    """Routers side by side, each judged on rows that it was not fitted on."""

    pair: RoutedPair
    folds: int
    routers: list[RouterFigures]
    curves: dict[str, list[tuple[float, float]]]
    """Share of calls to the strong model and quality, by router."""


class RouteResult(Struct, frozen=True, kw_only=True):
    """A fitted or evaluated policy."""

    kind: str
    """fit or evaluate."""
    pair: RoutedPair
    gating: str
    gates: list[GateSummary]
    training_rows: int
    judged_rows: int
    """Rows that the gates were not fitted on: of the certificate at a fit, all of the traffic at an evaluation."""
    max_loss: float
    confidence: float
    statement: str
    """Of the certificate."""
    step: Step | None
    """Certified thresholds; None when nothing is certified."""
    operating: Operating | None
    """None when nothing is certified."""
    routers: list[RouterFigures]
    curves: dict[str, list[tuple[float, float]]]
    cost_curve: list[tuple[float, float]]
    """Mean cost and quality at each step of the policy's path."""
    cautions: list[str]
    private_share: float | None = None
    """Share of the requests that hold personal data and stay with the weak model; None without that rule."""


def verdict_of_route(result: RouteResult) -> str:
    """The outcome in one sentence."""
    pair, at = result.pair, result.operating
    if at is None:
        return (
            f"No part of this traffic can be certified to stay with {pair.weak_model} at a loss of at most "
            f"{100 * result.max_loss:.3g} % against {pair.strong_model}; every request goes to {pair.strong_model}."
        )
    cost = f"{100 * at.saved:.0f} % less" if at.saved >= 0 else f"{-100 * at.saved:.0f} % more"
    return (
        f"{pair.weak_model} answers {100 * at.weak_share:.0f} % of the requests, which costs {cost} than "
        f"{pair.strong_model} alone and loses at most {100 * result.max_loss:.3g} % of quality, "
        f"with {100 * result.confidence:.3g} % confidence."
    )
