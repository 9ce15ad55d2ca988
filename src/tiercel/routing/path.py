"""Both gates together: thresholds that grow looser along one fixed path, so that one certificate covers them.

A step holds three thresholds on the probability that delegating pays: p from the gate on the request, q from the gate
on the answer.

    p <= low                     the weak model answers
    p >= high, and above low     the strong model answers; the weak one is not asked
    else                         the weak model is asked; its answer is used when q <= post

Along a path no threshold ever falls, so a request whose weak answer is used at one step keeps it at all later ones. The
first such step is then a score like any other, and learn-then-test on that score (`calibration.py`) tests whole steps:
two gates and three thresholds cost no more error than one.

Source for testing along a path of efficient settings: Laufer-Goldshtein et al., "Efficiently controlling multiple risks
with Pareto testing", 2023.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.curves import Costs

__all__ = [
    "MUST_STAY",
    "NEVER",
    "STRICTEST",
    "Decision",
    "Gating",
    "Step",
    "accepted",
    "decide",
    "fine_levels",
    "path_scores",
    "plan_path",
    "step_at",
    "step_cost",
]

Floats = NDArray[np.float64]

NEVER = 2.0
"""A threshold above every probability."""
MUST_STAY = -1.0
"""In the place of a probability on the request's gate: the cheaper answer is used whatever the thresholds are."""
_PRE_LEVELS = 24
_POST_LEVELS = 32
_SINGLE_LEVELS = 150
_MOST_ROWS = 2_000
_BEYOND = 1.5
"""Bounds up to which a path is made cheap; it must not trade cost there for cost where no bound will be met."""
_FAR_WEIGHT = 0.02
"""What loss beyond that weighs against loss within."""


class Gating(StrEnum):
    """Which gates decide."""

    PRE = "pre"
    POST = "post"
    BOTH = "both"


class Decision(StrEnum):
    """What becomes of a request."""

    WEAK = "weak"
    """The weak model's answer is used."""
    STRONG = "strong"
    """The strong model is asked at once."""
    ESCALATED = "escalated"
    """The weak model was asked, then the strong one."""


class Step(Struct, frozen=True, kw_only=True):
    """One setting of the thresholds."""

    low: float
    """At or below it on the request's gate, the weak answer is used unread."""
    high: float
    """At or above it on the request's gate, the weak model is not asked."""
    post: float
    """At or below it on the answer's gate, the weak answer is used."""


STRICTEST = Step(low=MUST_STAY, high=MUST_STAY, post=MUST_STAY)
"""Nobody is asked but the strong model, save for what must stay with the weak one."""


def accepted(step: Step, pre: Floats, post: Floats) -> NDArray[np.bool_]:
    """Whether the weak answer is used, shape (n,).

    Args:
        step: the thresholds.
        pre: of the gate on the request, shape (n,).
        post: of the gate on the answer, shape (n,).
    """
    return (pre <= step.low) | ((pre < step.high) & (post <= step.post))


def decide(step: Step, pre: Floats, post: Floats) -> list[Decision]:
    """What becomes of each of n requests; arguments as for `path_scores`."""
    use = accepted(step, pre, post)
    spared = (pre >= step.high) & ~use
    return [
        Decision.WEAK if u else Decision.STRONG if s else Decision.ESCALATED for u, s in zip(use, spared, strict=True)
    ]


def step_cost(step: Step, pre: Floats, post: Floats, costs: Costs) -> float:
    """Mean cost of a request, calls to the weak model that were for nothing included."""
    use = accepted(step, pre, post)
    spared = (pre >= step.high) & ~use
    escalated = ~use & ~spared
    return float(
        use.mean() * costs.weak + spared.mean() * costs.strong + escalated.mean() * (costs.weak + costs.strong)
    )


def path_scores(path: tuple[Step, ...], pre: Floats, post: Floats) -> Floats:
    """How early on the path a request's weak answer is used, shape (n,): 1 at its first step, 0 for never.

    Args:
        path: of m steps.
        pre: of the gate on the request, shape (n,).
        post: of the gate on the answer, shape (n,); any numbers where no gate reads answers.
    """
    first = np.full(len(pre), len(path))
    for number in range(len(path) - 1, -1, -1):
        first[accepted(path[number], pre, post)] = number
    return 1 - first / len(path)


def step_at(path: tuple[Step, ...], threshold: float | None) -> Step | None:
    """The step that accepts exactly the requests whose `path_scores` are at least `threshold`; None without one."""
    if threshold is None:
        return None
    return path[min(int((1 - threshold) * len(path) + 1e-9), len(path) - 1)]


def plan_path(gating: Gating, pre: Floats, post: Floats, costs: Costs, max_loss: float) -> tuple[Step, ...]:
    """The cheapest path from "all to the strong model" to "all to the weak one", judged on the gate's own rows.

    Of all ways to loosen one threshold after another over a grid of quantiles, the one with the least cost summed over
    the loss that it takes on; steps that are no cheaper than an earlier one are dropped. Loss is what the gate on the
    answer expects: outcomes themselves would lead the path around single rows.

    Args:
        gating: which gates there are.
        pre: of the gate on the request, shape (n,), from gates that were fitted without the row.
        post: of the gate on the answer, shape (n,), likewise.
        costs: of a call.
        max_loss: the bound that is to be certified: the path is made cheap up to there above all.
    """
    if gating == Gating.PRE:
        steps = [Step(low=t, high=t, post=-1.0) for t in _levels(pre, _SINGLE_LEVELS)]
    elif gating == Gating.POST:
        steps = [Step(low=-1.0, high=NEVER, post=t) for t in _levels(post, _SINGLE_LEVELS)]
        # Where nothing is accepted, asking the weak model is for nothing.
        steps[0] = STRICTEST
    else:
        rows = np.random.default_rng(0).permutation(len(pre))[:_MOST_ROWS]
        return _cheapest_path(pre[rows], post[rows], costs, max_loss)
    return _falling(steps, [step_cost(s, pre, post, costs) for s in steps])


def _levels(scores: Floats, most: int) -> list[float]:
    """Thresholds from "none" to "all", at most that many quantiles between."""
    inner = np.unique(np.quantile(scores, np.linspace(0, 1, most + 1)[1:-1], method="inverted_cdf"))
    return [-1.0, *(float(t) for t in inner), NEVER]


def fine_levels(scores: Floats, expected: Floats, reach: float, most: int) -> list[float]:
    """Thresholds from "none" to "all", most of them where the loss of accepting what lies below is within reach.

    Args:
        scores: that the thresholds are on, shape (n,).
        expected: loss of accepting each row, shape (n,).
        reach: mean loss up to which thresholds are close.
        most: thresholds between.
    """
    order = np.argsort(scores, kind="stable")
    lost = np.cumsum(expected[order]) / scores.size
    close = np.linspace(0, min(reach, float(lost[-1])), most // 2 + 1)[1:]
    places = np.searchsorted(lost, close).clip(max=scores.size - 1)
    return sorted({*(float(t) for t in scores[order][places]), *_levels(scores, most // 2)})


def _falling(steps: list[Step], costs: list[float]) -> tuple[Step, ...]:
    """The steps that are cheaper than all before them."""
    kept, least = list[Step](), np.inf
    for step, cost in zip(steps, costs, strict=True):
        if cost < least - 1e-12:
            kept.append(step)
            least = cost
    return tuple(kept)


def _cheapest_path(pre: Floats, post: Floats, costs: Costs, max_loss: float) -> tuple[Step, ...]:
    reach = _BEYOND * max_loss
    lows = highs = fine_levels(pre, post, reach, _PRE_LEVELS)
    posts = fine_levels(post, post, reach, _POST_LEVELS)
    shape = (len(lows), len(highs), len(posts))
    risk, cost = np.empty(shape), np.empty(shape)
    for at in np.ndindex(*shape):
        step = Step(low=lows[at[0]], high=highs[at[1]], post=posts[at[2]])
        risk[at] = float((post * accepted(step, pre, post)).mean())
        cost[at] = step_cost(step, pre, post, costs)
    weight = np.minimum(risk, reach) + _FAR_WEIGHT * risk
    total, came = np.full(shape, np.inf), np.full(shape, -1)
    total[0, 0, 0] = 0.0
    for at in np.ndindex(*shape):
        for axis in range(3):
            before = tuple(at[i] - (i == axis) for i in range(3))
            if before[axis] < 0 or not np.isfinite(total[before]):
                continue
            taken_on = float(weight[at] - weight[before]) + 1e-6
            reached = total[before] + taken_on * float(cost[at] + cost[before]) / 2
            if reached < total[at]:
                total[at], came[at] = reached, axis
    at = tuple(n - 1 for n in shape)
    steps, priced = list[Step](), list[float]()
    while True:
        steps.append(Step(low=lows[at[0]], high=highs[at[1]], post=posts[at[2]]))
        priced.append(float(cost[at]))
        axis = int(came[at])
        if axis < 0:
            break
        at = tuple(at[i] - (i == axis) for i in range(3))
    return _falling(steps[::-1], priced[::-1])
