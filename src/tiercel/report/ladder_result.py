"""What a fit or an evaluation of a ladder leaves, as values."""

from __future__ import annotations

from msgspec import Struct

from tiercel.report.routing_result import GateSummary
from tiercel.report.verdict import exact_percent, percent
from tiercel.routing.curves import RouterFigures
from tiercel.routing.ladder import LadderStep
from tiercel.stats.intervals import Interval

__all__ = ["LadderOperating", "LadderResult", "ShorterLadder", "TierSummary", "verdict_of_ladder"]


class TierSummary(Struct, frozen=True, kw_only=True):
    """One model of a ladder."""

    model: str
    cost: float
    """Mean cost of a call, in USD unless the result's `costs_from` is "assumed"."""
    quality: Interval
    """Mean score on all rows, in [0, 1]."""
    answers: float | None
    """Share of the requests that its answer serves; None when nothing is certified."""
    asked: float | None
    """Share of the requests that it is asked."""


class LadderOperating(Struct, frozen=True, kw_only=True):
    """A ladder at its certified step, on rows that its gates were not fitted on."""

    unanswered: float
    """Share of the requests that nobody answers."""
    quality: Interval
    """Mean score; of a request that nobody answers, 1 less the loss of abstaining."""
    answered_quality: float
    """Mean score of the answers that are used; NaN where there are none."""
    excess_loss: Interval
    """Mean loss against the last tier, over all requests; in [-1, 1]."""
    cost: float
    """Mean cost of a request, calls that were for nothing included."""
    last_cost: float
    """Mean cost with the last tier alone."""

    @property
    def saved(self) -> float:
        """Share of the last tier's cost that is saved; below 0 where asking several costs more."""
        return 1 - self.cost / self.last_cost


class ShorterLadder(Struct, frozen=True, kw_only=True):
    """The same bound certified, on the same rows, for a ladder that leaves tiers out."""

    models: tuple[str, ...]
    cost: float
    """Mean cost of a request at its certified step; of the last tier alone where nothing is certified."""
    quality: float
    certified: bool


class LadderResult(Struct, frozen=True, kw_only=True):
    """A fitted or evaluated ladder."""

    kind: str
    """fit or evaluate."""
    tiers: list[TierSummary]
    costs_from: str
    """log, prices, options or assumed."""
    gating: str
    """pre or post."""
    gates: list[GateSummary]
    training_rows: int
    judged_rows: int
    """Rows that the gates were not fitted on: of the certificate at a fit, all of the traffic at an evaluation."""
    left_out: int
    """Rows without a scored answer of all tiers."""
    max_loss: float
    confidence: float
    statement: str
    """Of the certificate."""
    step: LadderStep | None
    """Certified thresholds; None when nothing is certified."""
    abstention_loss: float | None
    """None where the ladder always answers."""
    operating: LadderOperating | None
    """None when nothing is certified."""
    routers: list[RouterFigures]
    """The gate of each tier, as a router between that tier and the last."""
    cost_curve: list[tuple[float, float]]
    """Mean cost and quality at each step of the path."""
    shorter: list[ShorterLadder]
    """Ladders with fewer tiers; empty at an evaluation, and where the ladder may abstain."""
    cautions: list[str]


def verdict_of_ladder(result: LadderResult) -> str:
    """The outcome in one sentence."""
    at, last = result.operating, result.tiers[-1].model
    if at is None:
        return (
            f"No part of this traffic can be certified to stay below {last} at a loss of at most "
            f"{exact_percent(result.max_loss)} against it; every request goes to {last}."
        )
    first, *others = ((t.model, percent(t.answers or 0.0, 0)) for t in result.tiers)
    shares = ", ".join([f"{first[0]} answers {first[1]} of the requests", *(f"{m} {s}" for m, s in others)])
    silent = f", nobody {percent(at.unanswered, 0)}" if result.abstention_loss is not None else ""
    cost = f"{percent(abs(at.saved), 0)} {'less' if at.saved >= 0 else 'more'}"
    return (
        f"{shares}{silent}; that costs {cost} than {last} alone and loses at most {exact_percent(result.max_loss)} of "
        f"quality, with {exact_percent(result.confidence)} confidence."
    )
