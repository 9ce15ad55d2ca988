"""Choosing a threshold so that the marginal excess loss stays under a bound with high probability: learn, then test.

The grid of thresholds and the method of testing are fixed on rows of their own (the gate's); the p-values come from
calibration rows that nothing else has seen. See design/certificate.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from tiercel.stats.bounds import betting_log_wealth, betting_pvalue, binomial_pvalue, hoeffding_bentkus_pvalue
from tiercel.stats.clusters import cluster_losses
from tiercel.stats.testing import fallback_test

__all__ = ["METHODS", "Calibrated", "TestPlan", "calibrate", "choose_method", "decide", "plan_tests"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID = 200
LOOSEST = 1e-6
STARTS = 5
METHODS = ("binomial", "betting", "hoeffding-bentkus", "wealth")
TRIED = 16
"""Thresholds of the grid on which methods are compared."""
TRIALS = 10


class TestPlan(Struct, frozen=True, kw_only=True):
    """All that must be fixed before a calibration row is looked at."""

    __test__ = False  # for pytest: the name is the field's, not a test's

    max_loss: float
    """The bound on the marginal excess loss, epsilon."""
    confidence: float
    """1 - delta."""
    method: str
    """How p-values are made: "binomial" counts losses above 0 as 1 and gains as nothing, "hoeffding-bentkus" takes the
    mean of losses in [0, 1] and gains as nothing, "betting" takes all of [-1, 1] as it is, and "wealth" is betting
    whose p-value is one over an e-value."""
    grid: tuple[float, ...]
    """Thresholds on the gate's score, strictest first; an answer is used when its score is at or above."""
    levels: tuple[float, ...]
    """Level of each threshold's test; sums to delta. Thresholds with a level above 0 are the starts."""
    cluster: str | None = None
    """What names the cluster of a row, such as `user`; None where rows are taken as independent."""
    cap: int | None = None
    """Rows that a cluster counts as at most; None where rows are taken as independent."""


class Calibrated(Struct, frozen=True, kw_only=True):
    """The outcome of testing a plan on calibration rows."""

    threshold: float | None
    """The loosest certified threshold; None when none is, or when no calibration row passes it."""
    offload: float
    """Share of the calibration rows that are answered by the student; 0 without a threshold."""
    estimate: float
    """Mean excess loss on the calibration rows at the threshold."""
    pvalues: tuple[float, ...]
    """Of each threshold of the grid."""
    certified: tuple[bool, ...]


def choose_method(excess: Floats) -> str:
    """The most powerful valid method for excess losses like these of the gate's rows.

    The binomial test is exact for losses of 0 and 1. Gains (the frontier was wrong and the student right, on rows with
    a verified reference) and losses in between help only the betting test, which is a little weaker for the rest.
    """
    if not np.isin(excess, (-1.0, 0.0, 1.0)).all():
        return "betting"
    gained, lost = int((excess < 0).sum()), int((excess > 0).sum())
    return "betting" if gained > 0.5 * lost and gained >= 5 else "binomial"


def plan_tests(
    scores: Floats,
    excess: Floats,
    *,
    max_loss: float,
    confidence: float,
    method: str | None = None,
    rows: int | None = None,
    cluster: str | None = None,
    cap: int | None = None,
) -> TestPlan:
    """Fix grid, starts and method on the gate's rows.

    With losses that can't be negative the risk rises as the threshold falls, so do the p-values, and one start at the
    strictest threshold with all of the level is the most powerful choice: no answer passes it, so it is rejected as
    soon as there are rows enough to certify anything. With signed losses the risk may dip, and five starts spread over
    the thresholds that look safe keep one bump from ending the search.

    Args:
        scores: of the gate's rows, shape (n,).
        excess: loss of using the student's answer less the frontier's, shape (n,), in [-1, 1].
        max_loss: the bound, in (0, 1).
        confidence: in (0, 1).
        method: of `METHODS`; chosen by `choose_method` when None.
        rows: independent rows (or clusters) that calibration will have; with it, methods for losses between 0 and 1 are
            tried on draws of so many of the gate's rows, and the one that certifies most is taken.
        cluster: what names the cluster of a row, where rows of one are not independent.
        cap: rows that a cluster counts as at most.
    """
    candidates = np.unique(scores)[::-1] if scores.size else np.array([0.5])
    if candidates.size > GRID:
        candidates = candidates[np.linspace(0, candidates.size - 1, GRID).round().astype(int)]
    # The loosest threshold lies just above 0, which is the score of what may never be answered.
    grid = (1.0, *(float(c) for c in candidates if LOOSEST < c < 1.0), LOOSEST)

    def plan(method: str, grid: tuple[float, ...] = grid) -> TestPlan:
        return TestPlan(
            max_loss=max_loss,
            confidence=confidence,
            method=method,
            grid=grid,
            levels=_levels(method, grid, scores, excess, max_loss, 1 - confidence),
            cluster=cluster,
            cap=cap,
        )

    if method is None:
        method = choose_method(excess)
        if cap is not None and method == "binomial":
            method = "betting"  # what a cluster loses is no longer 0 or 1
        if method == "betting" and rows and scores.size:
            few = tuple(grid[i] for i in np.unique(np.linspace(0, len(grid) - 1, TRIED).round().astype(int)))
            names = (
                ("betting", "hoeffding-bentkus") if cap is not None else ("betting", "hoeffding-bentkus", "binomial")
            )
            method = _most_certified([plan(name, few) for name in names], scores, excess, rows)
    return plan(method)


def _levels(
    method: str, grid: tuple[float, ...], scores: Floats, excess: Floats, max_loss: float, delta: float
) -> tuple[float, ...]:
    levels = np.zeros(len(grid))
    if method == "betting" and (excess < 0).any():
        risks = np.array([float((excess * (scores >= t)).mean()) if scores.size else 0.0 for t in grid])
        wanted = [0.0, 0.1, 0.2, 0.35, 0.5]
        places = [max(0, int(np.flatnonzero(risks <= share * max_loss).max(initial=0))) for share in wanted[:STARTS]]
        places[0] = 0
        for place in places:
            levels[place] += delta / len(places)
    else:
        levels[0] = delta
    return tuple(float(v) for v in levels)


def _most_certified(plans: list[TestPlan], scores: Floats, excess: Floats, rows: int) -> str:
    """The method whose plan certifies most offload on draws of the gate's rows; the first of equals.

    Clusters are not drawn: their plans are compared as if each row were one.
    """
    rng = np.random.default_rng(0)
    bare = [_bare(plan) for plan in plans]
    trials = max(4, min(TRIALS, 25_000 // rows))
    offload = np.zeros(len(plans))
    for _ in range(trials):
        drawn = rng.integers(0, scores.size, rows)
        offload += [calibrate(plan, scores[drawn], excess[drawn]).offload for plan in bare]
    return plans[int(np.argmax(np.round(offload / trials, 3)))].method


def _bare(plan: TestPlan) -> TestPlan:
    return structs.replace(plan, cluster=None, cap=None)


def calibrate(plan: TestPlan, scores: Floats, excess: Floats, clusters: Ints | None = None) -> Calibrated:
    """Test every threshold of the plan and take the loosest one that is certified.

    Args:
        plan: fixed without these rows.
        scores: of the calibration rows, shape (n,), in the order in which a bet is to see them.
        excess: of the same rows, shape (n,), in [-1, 1].
        clusters: numbers of the rows' clusters, shape (n,); needed where the plan has a cap.
    """
    if (plan.cap is None) != (clusters is None):
        raise ValueError("clusters and a plan with a cap need each other")
    pvalues = [_pvalue(plan, np.where(scores >= t, excess, 0.0), clusters) for t in plan.grid]
    return decide(plan, pvalues, scores, excess)


def decide(plan: TestPlan, pvalues: Sequence[float], scores: Floats, excess: Floats) -> Calibrated:
    """The outcome at the plan's levels, from the p-value of each threshold and the rows that gave them, shape (n,)."""
    certified = fallback_test(pvalues, plan.levels)
    passed = [i for i, hit in enumerate(certified) if hit]
    threshold = plan.grid[passed[-1]] if passed else None
    if threshold is not None and not (scores >= threshold).any():
        threshold = None  # true, but of a policy that never answers
    used = scores >= threshold if threshold is not None else np.zeros(len(scores), np.bool_)
    return Calibrated(
        threshold=threshold,
        offload=float(used.mean()) if len(scores) else 0.0,
        estimate=float((excess * used).mean()) if len(scores) else 0.0,
        pvalues=tuple(pvalues),
        certified=tuple(certified),
    )


def _pvalue(plan: TestPlan, losses: Floats, clusters: Ints | None) -> float:
    if plan.cap is not None and clusters is not None:
        losses = cluster_losses(losses, clusters, plan.max_loss, plan.cap)
    # Gains are not counted by two of the methods: max(d, 0) is at least d, so its bound holds for d too.
    if plan.method == "binomial":
        return binomial_pvalue(int((losses > 0).sum()), losses.size, plan.max_loss)
    if plan.method == "hoeffding-bentkus":
        mean = float(np.maximum(losses, 0.0).mean()) if losses.size else 0.0
        return hoeffding_bentkus_pvalue(mean, losses.size, plan.max_loss)
    if plan.method == "wealth":
        return min(1.0, float(np.exp(-max(0.0, betting_log_wealth(losses, plan.max_loss, -1.0, 1.0)))))
    return betting_pvalue(losses, plan.max_loss, -1.0, 1.0)
