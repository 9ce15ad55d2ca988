"""Two-sided confidence intervals for rates and bounded means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.stats.bounds import betting_pvalue, binomial_cdf

__all__ = ["Interval", "bisect", "mean_interval", "rate_interval", "rate_upper"]


class Interval(Struct, frozen=True, kw_only=True):
    """An estimate with its confidence interval, all in the unit of the estimate."""

    value: float
    low: float
    high: float


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The point of [low, high] where `holds` turns from true (left) to false (right)."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def rate_upper(successes: int, n: int, alpha: float) -> float:
    """One-sided exact upper limit of a rate at level `1 - alpha` (Clopper and Pearson, 1934)."""
    if successes >= n:
        return 1.0
    return bisect(lambda p: binomial_cdf(successes, n, p) > alpha, 0.0, 1.0)


def rate_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a rate after `successes` of `n` (Clopper and Pearson, 1934); [0, 1] when `n` is 0."""
    if n == 0:
        return Interval(value=float("nan"), low=0.0, high=1.0)
    alpha = (1 - confidence) / 2
    low = 1.0 - rate_upper(n - successes, n, alpha)
    return Interval(value=successes / n, low=low, high=rate_upper(successes, n, alpha))


def mean_interval(
    values: NDArray[np.float64], low: float, high: float, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of the mean of bounded values, by inverting the betting test on both sides.

    Args:
        values: float array of shape (n,), each in [low, high].
        low: smallest value that can occur.
        high: largest value that can occur.
        confidence: probability that the interval covers the mean.
        seed: of the shuffle that fixes the order of the bets.
    """
    if values.size == 0:
        return Interval(value=float("nan"), low=low, high=high)
    mean = float(values.mean())
    if (low, high) == (0.0, 1.0) and np.isin(values, (0.0, 1.0)).all():
        return rate_interval(int(values.sum()), values.size, confidence)
    alpha = (1 - confidence) / 2
    mixed = np.random.default_rng(seed).permutation(values)
    upper = bisect(lambda m: betting_pvalue(mixed, m, low, high) > alpha, mean, high)
    lower = -bisect(lambda m: betting_pvalue(-mixed, m, -high, -low) > alpha, -mean, -low)
    return Interval(value=mean, low=lower, high=upper)
