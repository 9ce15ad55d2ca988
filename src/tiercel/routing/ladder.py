"""Ladders of any number of tiers, cheapest first, with abstention as a last one, under one certificate.

At each tier but the last a gate gives the probability that a dearer tier's answer would be better. A request climbs
until a tier's probability is at or below that tier's threshold. Where even the dearest tier is expected to be wrong,
with a probability at or above `abstain`, nobody answers: where all tiers fail climbing does not pay, so that without
this the cheapest wrong answer would be used.

Thresholds grow looser along one fixed path, none ever falls, so that a request never climbs higher at a later step.
Which tier answers differs from step to step, so a step's loss is that of its own tiers, and each is tested by itself.

Gates that read answers ask a tier before they judge it; those that read requests alone send each to its tier at once,
and are paid for that tier only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.calibration import choose_method
from tiercel.routing.path import NEVER, fine_levels
from tiercel.stats.bounds import betting_pvalue, binomial_pvalue
from tiercel.stats.testing import fallback_test

__all__ = [
    "ABSTAINED",
    "LadderPlan",
    "LadderStep",
    "asked_shares",
    "certify_ladder",
    "ladder_costs",
    "ladder_losses",
    "plan_ladder",
    "tiers_chosen",
]

Floats = NDArray[np.float64]
Tiers = NDArray[np.int64]

ABSTAINED = -1
"""In the place of a tier: nobody answers."""
_LEVELS = 24
_MOST_STEPS = 150
_REACH = 1.5
"""Bounds of loss up to which thresholds lie close together."""
_STARTS = (0.0, 0.1, 0.2, 0.35, 0.5)
"""Shares of the bound at whose loss on the gates' rows tests start."""


class LadderStep(Struct, frozen=True, kw_only=True):
    """One setting of all thresholds of m tiers."""

    thresholds: tuple[float, ...]
    """At or below it a tier's answer is used; one for each tier but the last, m - 1."""
    abstain: float = NEVER
    """At or above it, on the probability that the last tier is wrong, nobody answers."""


class LadderPlan(Struct, frozen=True, kw_only=True):
    """What is fixed before a row of the certificate is looked at."""

    path: tuple[LadderStep, ...]
    """Strictest first: all requests climb to the last tier at its first step."""
    max_loss: float
    """The bound on the excess loss over the last tier."""
    confidence: float
    method: str
    """binomial or betting, as in `calibration.TestPlan`."""
    levels: tuple[float, ...]
    """Level of each step's test; sums to 1 - confidence."""
    abstention_loss: float = 1.0
    """What saying nothing costs, in [0, 1]; 1 is as bad as a wrong answer."""

    @property
    def may_abstain(self) -> bool:
        """Whether any step leaves requests without an answer."""
        return any(step.abstain < NEVER for step in self.path)


def tiers_chosen(step: LadderStep, scores: Floats, hopeless: Floats | None = None) -> Tiers:
    """The tier that answers each request, shape (n,); `ABSTAINED` where nobody does.

    Args:
        step: the thresholds.
        scores: probability that climbing pays, by tier but the last, shape (n, m - 1).
        hopeless: probability that the last tier is wrong, shape (n,); None not to abstain.
    """
    stays = scores <= np.array(step.thresholds)
    top = scores.shape[1]
    chosen = np.where(stays.any(axis=1), stays.argmax(axis=1), top)
    if hopeless is None:
        return chosen
    return np.where(hopeless >= step.abstain, ABSTAINED, chosen)


def ladder_losses(chosen: Tiers, losses: Floats, abstention_loss: float = 1.0) -> Floats:
    """Loss of the tiers that were chosen less that of the last tier, shape (n,).

    Args:
        chosen: tier of each request, shape (n,).
        losses: of each tier, shape (n, m), in [0, 1].
        abstention_loss: what saying nothing costs, in [0, 1]; 1 is as bad as a wrong answer.
    """
    own = losses[np.arange(len(chosen)), np.maximum(chosen, 0)]
    return np.where(chosen == ABSTAINED, abstention_loss, own) - losses[:, -1]


def ladder_costs(chosen: Tiers, costs: Sequence[float], *, climbs: bool = True) -> float:
    """Mean cost of a request, calls that were for nothing included.

    Args:
        chosen: tier of each request, shape (n,).
        costs: of a call to each tier, m.
        climbs: whether a request is shown to all tiers on its way; who abstains has then asked the first one.
    """
    each = np.asarray(costs, dtype=np.float64)
    each = np.cumsum(each) if climbs else each
    silent = each[0] if climbs else 0.0
    return float(np.where(chosen == ABSTAINED, silent, each[np.maximum(chosen, 0)]).mean())


def asked_shares(chosen: Tiers, tiers: int, *, climbs: bool = True) -> Floats:
    """Share of the requests that each of m tiers is asked, shape (m,); arguments as for `ladder_costs`."""
    last = np.where(chosen == ABSTAINED, 0 if climbs else ABSTAINED, chosen)
    return np.array([((last >= t) if climbs else (last == t)).mean() for t in range(tiers)])


def plan_ladder(
    scores: Floats,
    losses: Floats,
    costs: Sequence[float],
    *,
    max_loss: float,
    confidence: float,
    abstain: float = NEVER,
    hopeless: Floats | None = None,
    abstention_loss: float = 1.0,
    climbs: bool = True,
) -> LadderPlan:
    """Fix path, method and starts on the gates' own rows.

    The path loosens one tier's threshold at a time: the one that saves most cost for the loss that its gate expects.

    Args:
        scores: by gates that were fitted without the row, shape (n, m - 1).
        losses: of each tier, shape (n, m).
        costs: of a call to each tier, m.
        max_loss: the bound, in (0, 1).
        confidence: in (0, 1).
        abstain: threshold of abstention, the same at every step: it is no dial of cost but of trust.
        hopeless: probability that the last tier is wrong, shape (n,); None not to abstain.
        abstention_loss: what saying nothing costs, in [0, 1].
        climbs: as for `ladder_costs`.
    """
    grids = [fine_levels(column, np.maximum(column, 0.0), _REACH * max_loss, _LEVELS) for column in scores.T]
    at = [0] * len(grids)
    path = [_step(grids, at, abstain)]
    while any(a < len(g) - 1 for a, g in zip(at, grids, strict=True)):
        at = max(_neighbours(at, grids), key=lambda n: _worth(grids, at, n, scores, costs, climbs))
        path.append(_step(grids, at, abstain))
    if len(path) > _MOST_STEPS:
        kept = np.unique(np.linspace(0, len(path) - 1, _MOST_STEPS).round().astype(int))
        path = [path[i] for i in kept]
    excess = [ladder_losses(tiers_chosen(s, scores, hopeless), losses, abstention_loss) for s in path]
    return LadderPlan(
        path=tuple(path),
        max_loss=max_loss,
        confidence=confidence,
        method=choose_method(excess[len(path) // 2]),
        levels=_starts(np.array([e.mean() for e in excess]), max_loss, 1 - confidence),
        abstention_loss=abstention_loss,
    )


def _starts(risks: Floats, max_loss: float, delta: float) -> tuple[float, ...]:
    """Losses of a path of many tiers may fall and rise again, so the level is spread over steps that look safe."""
    levels = np.zeros(len(risks))
    safe = [int(np.flatnonzero(risks <= share * max_loss).max(initial=0)) for share in _STARTS]
    for place in (0, *safe[1:]):
        levels[place] += delta / len(_STARTS)
    return tuple(float(v) for v in levels)


def _step(grids: list[list[float]], at: list[int], abstain: float) -> LadderStep:
    return LadderStep(thresholds=tuple(g[i] for g, i in zip(grids, at, strict=True)), abstain=abstain)


def _neighbours(at: list[int], grids: list[list[float]]) -> list[list[int]]:
    """Settings with one threshold one level looser."""
    return [[a + (i == tier) for i, a in enumerate(at)] for tier in range(len(at)) if at[tier] < len(grids[tier]) - 1]


def _worth(
    grids: list[list[float]], at: list[int], then: list[int], scores: Floats, costs: Sequence[float], climbs: bool
) -> float:
    """Cost saved for each unit of loss that the gates expect of a step."""
    before, after = (tiers_chosen(_step(grids, a, NEVER), scores) for a in (at, then))
    saved = ladder_costs(before, costs, climbs=climbs) - ladder_costs(after, costs, climbs=climbs)
    return saved / (_expected(after, scores) - _expected(before, scores) + 1e-6)


def _expected(chosen: Tiers, scores: Floats) -> float:
    """Loss that the gates expect: each tier below the last by its probability that climbing pays."""
    padded = np.column_stack([scores, np.zeros(len(scores))])
    return float(padded[np.arange(len(chosen)), chosen].mean())


def certify_ladder(
    plan: LadderPlan, scores: Floats, losses: Floats, *, hopeless: Floats | None = None
) -> LadderStep | None:
    """The loosest step that keeps the bound with the plan's confidence; None where none does.

    Args:
        plan: fixed without these rows.
        scores: of the certificate's rows, shape (n, m - 1), in the order in which a bet is to see them.
        losses: of each tier on the same rows, shape (n, m).
        hopeless: probability that the last tier is wrong, shape (n,).
    """
    pvalues = list[float]()
    for step in plan.path:
        excess = ladder_losses(tiers_chosen(step, scores, hopeless), losses, plan.abstention_loss)
        if plan.method == "binomial":
            pvalues.append(binomial_pvalue(int((excess > 0).sum()), excess.size, plan.max_loss))
        else:
            pvalues.append(betting_pvalue(excess, plan.max_loss, -1.0, 1.0))
    passed = [i for i, hit in enumerate(fallback_test(pvalues, plan.levels)) if hit]
    return plan.path[passed[-1]] if passed else None
