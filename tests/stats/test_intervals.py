from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tiercel.stats.intervals import mean_interval, rate_interval, rate_upper


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 50), (1, 50), (25, 50), (49, 50), (50, 50), (3, 4_000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_the_rate_interval_is_clopper_and_pearsons(k: int, n: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    found = rate_interval(k, n, confidence)
    low = stats.beta.ppf(tail, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    assert (found.value, found.low, found.high) == pytest.approx((k / n, low, high), abs=1e-9)
    assert rate_upper(k, n, tail) == pytest.approx(high, abs=1e-9)


def test_an_interval_of_no_rows_says_nothing() -> None:
    rate, mean = rate_interval(0, 0), mean_interval(np.array([]), -1.0, 1.0)
    assert np.isnan(rate.value)
    assert (rate.low, rate.high) == (0.0, 1.0)
    assert np.isnan(mean.value)
    assert (mean.low, mean.high) == (-1.0, 1.0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_rate_interval_covers_exactly_as_often_as_it_says(rate: float) -> None:
    n, k = 60, np.arange(61)
    intervals = [rate_interval(int(i), n, 0.9) for i in k]
    covered = np.array([i.low <= rate <= i.high for i in intervals])
    assert stats.binom.pmf(k, n, rate)[covered].sum() >= 0.9


def _values(kind: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, float, float, float]:
    """Values, their range, their true mean."""
    if kind == "beta":
        return rng.beta(1, 4, n), 0.0, 1.0, 0.2
    if kind == "signed":
        return rng.choice([-1.0, 0.0, 0.5, 1.0], n, p=[0.05, 0.75, 0.1, 0.1]), -1.0, 1.0, 0.1
    if kind == "rarely negative":
        # Most samples hold no -1 at all: the range says that one may still come.
        return rng.choice([-1.0, 0.0], n, p=[0.02, 0.98]), -1.0, 1.0, -0.02
    return rng.choice([0.0, 1.0], n, p=[0.9, 0.1]), 0.0, 1.0, 0.1


@pytest.mark.parametrize("kind", ["beta", "signed", "rarely negative", "zero-one"])
def test_the_mean_interval_covers_as_often_as_it_says(kind: str) -> None:
    rng = np.random.default_rng(21)
    draws, confidence = 200, 0.9
    hits = 0
    for _ in range(draws):
        values, low, high, mean = _values(kind, rng, 50)
        found = mean_interval(values, low, high, confidence)
        assert low <= found.low <= found.value <= found.high <= high
        hits += found.low <= mean <= found.high
    assert hits / draws >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / draws)


def test_the_mean_interval_knows_its_range_even_when_all_values_are_zero() -> None:
    zeros = np.zeros(50)
    assert mean_interval(zeros, -1.0, 1.0).low < -0.05
    assert mean_interval(zeros, 0.0, 10.0).high > mean_interval(zeros, 0.0, 1.0).high


def test_the_mean_interval_narrows_with_rows_and_widens_with_confidence() -> None:
    values = np.random.default_rng(22).beta(2, 5, 800)
    few, many = mean_interval(values[:100], 0.0, 1.0), mean_interval(values, 0.0, 1.0)
    sure = mean_interval(values, 0.0, 1.0, confidence=0.999)
    assert many.high - many.low < few.high - few.low < 0.3
    assert sure.low < many.low < many.value < many.high < sure.high


def test_the_mean_interval_of_mirrored_values_is_mirrored() -> None:
    values = np.random.default_rng(23).uniform(-0.4, 0.9, 60)
    here, there = mean_interval(values, -1.0, 1.0), mean_interval(-values, -1.0, 1.0)
    assert (here.low, here.high) == pytest.approx((-there.high, -there.low), abs=1e-9)
