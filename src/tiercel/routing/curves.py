"""How good a router is: quality against the share of calls, and against cost, from recorded scores alone.

A router gives each request a score; requests of the highest scores go to the strong model first. With a share c of the
requests there, quality is q(c), and

    PGR(c)  = (q(c) - q(0)) / (q(1) - q(0))       performance gap recovered
    APGR    = the mean of PGR over all c in [0, 1]
    CPT(x)  = the smallest c with PGR(c) >= x     call-performance threshold

Source: Ong et al., "RouteLLM: learning to route LLMs with preference data", 2024, section 2.2. Requests of equal score
are taken in every order alike, so that a constant score is a random router: APGR .5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.stats.intervals import Interval
from tiercel.stats.ranking import auroc

__all__ = ["Costs", "Curve", "RouterFigures", "bootstrap_interval", "oracle_scores", "quality_curve", "router_figures"]

Floats = NDArray[np.float64]

RESAMPLES = 400
_LEVELS = (0.5, 0.8)


class Costs(Struct, frozen=True, kw_only=True):
    """Mean cost of a call to each model, in one unit of the caller's choice."""

    weak: float
    strong: float
    weak_always: bool = False
    """Whether the weak model is asked for escalated requests too, as it is behind a gate that reads its answer."""

    @property
    def each(self) -> tuple[float, float]:
        """Of the weak model and of the strong one."""
        return self.weak, self.strong

    def budget_share(self, budget: Floats) -> Floats:
        """The share of calls to the strong model that budgets, shape (n,), pay for."""
        step = self.strong if self.weak_always else self.strong - self.weak
        return np.clip((budget - self.weak) / step, 0.0, 1.0)

    def of_share(self, share: Floats) -> Floats:
        """Mean cost of a request at shares of calls to the strong model, shape (n,)."""
        return self.weak + share * (self.strong if self.weak_always else self.strong - self.weak)


class Curve(Struct, frozen=True, kw_only=True):
    """Quality as more requests go to the strong model; straight between its points."""

    share: Floats
    """Shape (m,): share of requests at the strong model, from 0 to 1."""
    quality: Floats
    """Shape (m,): mean score over all requests."""

    @property
    def gap(self) -> float:
        """Quality of the strong model less that of the weak one."""
        return float(self.quality[-1] - self.quality[0])

    def at(self, share: float) -> float:
        """Quality with `share` of the requests at the strong model."""
        return float(np.interp(share, self.share, self.quality))

    def recovered(self) -> Floats:
        """Performance gap recovered at each point, shape (m,); NaN where strong and weak are equally good."""
        return (self.quality - self.quality[0]) / self.gap if self.gap else np.full(self.share.size, np.nan)

    def apgr(self) -> float:
        """Mean share of the gap recovered over all shares of calls; NaN without a gap."""
        return float(np.trapezoid(self.recovered(), self.share))

    def cpt(self, level: float) -> float:
        """Smallest share of calls that recovers `level` of the gap; NaN unless the strong model is better."""
        if self.gap <= 0:
            return float("nan")
        found = self.recovered()
        after = int(np.argmax(found >= level - 1e-12))
        if after == 0:
            return 0.0
        low, high = found[after - 1], found[after]
        part = (level - low) / (high - low)
        return float(self.share[after - 1] + part * (self.share[after] - self.share[after - 1]))

    def error_cost_area(self, costs: Costs) -> float:
        """Mean error (1 - quality) over all budgets from the weak model's cost to the strong one's.

        The budgets are the same for a gate on the request and a gate on the answer, so the areas compare.
        """
        budgets = np.linspace(costs.weak, costs.strong, 513)
        errors = 1 - np.interp(costs.budget_share(budgets), self.share, self.quality)
        return float(np.trapezoid(errors, np.linspace(0, 1, 513)))


def quality_curve(scores: Floats, weak: Floats, strong: Floats, weights: Floats | None = None) -> Curve:
    """The curve of a router.

    Args:
        scores: shape (n,), the higher the sooner a request goes to the strong model.
        weak: score of the weak model's answers, shape (n,), in [0, 1].
        strong: the same of the strong model.
        weights: of each row, shape (n,); None for 1 each.

    Raises:
        DataError: a score is not finite, or there are no rows.
    """
    if not scores.size or not np.isfinite(scores).all():
        raise DataError("a router's scores must be finite and of at least one row")
    count = np.ones(scores.size) if weights is None else weights
    _, group = np.unique(-scores, return_inverse=True)
    size = np.bincount(group, count)
    gain = np.bincount(group, count * (strong - weak))
    total = float(size.sum())
    share = np.concatenate([[0.0], np.cumsum(size) / total])
    share[-1] = 1.0
    start = float((count * weak).sum()) / total
    return Curve(share=share, quality=start + np.concatenate([[0.0], np.cumsum(gain) / total]))


def oracle_scores(weak: Floats, strong: Floats) -> Floats:
    """The best order that there is: by what the strong model would gain, shape (n,)."""
    return strong - weak


class RouterFigures(Struct, frozen=True, kw_only=True):
    """A router on recorded rows, each figure with its bootstrap interval."""

    name: str
    rows: int
    apgr: Interval
    """Mean share of the gap that is recovered; a random order has .5."""
    cpt50: Interval
    """Share of calls to the strong model that recovers half of the gap."""
    cpt80: Interval
    auroc_value: Interval
    """Ranking of requests where the strong answer is better above all others."""
    auroc_error: Interval
    """Ranking of requests where the weak answer is wrong (score below .5) above all others."""
    error_cost: Interval
    """Mean error over all budgets from the weak model's cost to the strong one's."""


def router_figures(
    name: str, scores: Floats, weak: Floats, strong: Floats, costs: Costs, *, resamples: int = RESAMPLES, seed: int = 0
) -> RouterFigures:
    """All figures of a router with 95 % bootstrap intervals.

    Args:
        name: of the router.
        scores: shape (n,), the higher the sooner a request goes to the strong model.
        weak: score of the weak model's answers, shape (n,), in [0, 1].
        strong: the same of the strong model.
        costs: of a call.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    def figures(rows: NDArray[np.int64]) -> Floats:
        s, w, t = scores[rows], weak[rows], strong[rows]
        curve = quality_curve(s, w, t)
        areas = (curve.apgr(), *(curve.cpt(level) for level in _LEVELS))
        return np.array([*areas, auroc(s, t > w), auroc(s, w < 0.5), curve.error_cost_area(costs)])

    found = bootstrap_interval(figures, scores.size, resamples=resamples, seed=seed)
    names = ("apgr", "cpt50", "cpt80", "auroc_value", "auroc_error", "error_cost")
    return RouterFigures(name=name, rows=scores.size, **dict(zip(names, found, strict=True)))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], Floats],
    n: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Interval]:
    """Percentile intervals of statistics over rows drawn with replacement.

    Args:
        statistic: from row numbers, shape (n,), to the m statistics.
        n: rows.
        resamples: draws of n rows.
        seed: of the draws.
        confidence: probability that an interval covers, approximately.

    Returns:
        One interval a statistic. A draw that leaves a statistic undefined does not count for it.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    value = statistic(np.arange(n))
    rng = np.random.default_rng(seed)
    draws = np.stack([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    tail = (1 - confidence) / 2
    found = list[Interval]()
    for estimate, column in zip(value, draws.T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, (tail, 1 - tail)) if known.size else (math.nan, math.nan)
        found.append(Interval(value=float(estimate), low=float(low), high=float(high)))
    return found
