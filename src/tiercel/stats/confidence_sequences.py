"""Confidence sequences: intervals for a mean that hold at every look, by inverting the betting test on demand.

A candidate mean lies in the interval while neither a gambler who bets that the mean is higher nor one who bets that it
is lower has got rich on it. Fixed bets make the capital a function of which values came how often, so nothing but a
tally has to be remembered between looks.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024, section 4; for
weighted values Waudby-Smith et al., "Anytime-valid off-policy inference for contextual bandits", 2024.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.stats.e_processes import LANES, MeanTest, bets_of
from tiercel.stats.intervals import Interval, bisect

__all__ = ["Tally", "mean_sequence", "observations_until"]

Floats = NDArray[np.float64]
_EDGE = 1e-9


class Tally(Struct, kw_only=True):
    """Which values came how often."""

    zeros: int = 0
    """Observations that were 0."""
    values: dict[float, int] = {}
    """How often each other value came."""

    def add(self, value: float) -> None:
        """Count one observation."""
        if value == 0:
            self.zeros += 1
        else:
            self.values[value] = self.values.get(value, 0) + 1

    @property
    def count(self) -> int:
        """All observations."""
        return self.zeros + sum(self.values.values())

    @property
    def mean(self) -> float:
        """Of all observations; NaN where there are none."""
        total = math.fsum(value * count for value, count in self.values.items())
        return total / self.count if self.count else math.nan

    def arrays(self) -> tuple[Floats, Floats]:
        """Values and their counts, the zeros among them, each of shape (n,)."""
        pairs = [(0.0, self.zeros), *sorted(self.values.items())]
        return np.array([v for v, _ in pairs]), np.array([c for _, c in pairs], np.float64)


def mean_sequence(
    tally: Tally, *, low: float, high: float, least: float, most: float, confidence: float = 0.95
) -> Interval:
    """The interval of a confidence sequence after the observations of a tally.

    With probability `confidence` the mean lies in the intervals of all looks at once, provided that each value's mean,
    given the values before it, is the same.

    Args:
        tally: what was observed.
        low: smallest value that can occur, at most 0.
        high: largest value that can occur, at least 0.
        least: the mean can't be below it, whatever the values; an IPW value is far larger than what it estimates.
        most: the mean can't be above it.
        confidence: of the whole sequence.

    Raises:
        DataError: a value is outside of the range.
    """
    if not tally.count:
        return Interval(value=math.nan, low=least, high=most)
    values, counts = tally.arrays()
    if not ((values >= low) & (values <= high)).all():
        raise DataError(f"a value outside [{low:g}, {high:g}]; check weights and losses")
    rich, edge = math.log(2 / (1 - confidence)), _EDGE * (high - low)

    def refuted(mean: float, alternative: Literal["above", "below"]) -> bool:
        # At the very ends of the range a bet would be infinite.
        inside = min(max(mean, low + edge), high - edge)
        test = MeanTest(bound=inside, alternative=alternative, low=low, high=high)
        return _log_capital(test, values, counts) >= rich

    # The capital of who bets on "higher" falls as the candidate grows, so each side has one end.
    mean = min(max(tally.mean, least), most)
    lower = bisect(lambda m: refuted(m, "above"), least, mean) if refuted(least, "above") else least
    upper = bisect(lambda m: not refuted(m, "below"), mean, most) if refuted(most, "below") else most
    return Interval(value=tally.mean, low=lower, high=upper)


def observations_until(test: MeanTest, tally: Tally, delta: float, *, log_capital: float = 0.0) -> float:
    """How many more observations like those of a tally will refute a test's hypothesis; infinity when they never will.

    Args:
        test: whose capital is to reach 1 / delta.
        tally: what future observations are expected to be like.
        delta: level.
        log_capital: natural logarithm of the capital that is already there; 0 for a test that starts now.
    """
    if not tally.count:
        return math.inf
    values, counts = tally.arrays()
    growth = float((np.log1p(np.outer(bets_of(test), values - test.bound)) @ (counts / counts.sum())).max())
    # A stake that is split over bets pays for finding the good one.
    missing = -math.log(delta) - log_capital + (math.log(LANES) if log_capital <= 0 else 0.0)
    if missing <= 0:
        return 0.0
    return missing / growth if growth > 0 else math.inf


def _log_capital(test: MeanTest, values: Floats, counts: Floats) -> float:
    logs = np.log1p(np.outer(bets_of(test), values - test.bound)) @ counts
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))
