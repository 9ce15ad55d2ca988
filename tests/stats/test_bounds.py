"""P-values hold their level at the boundary, exactly or in simulation, and reject when the mean is far below it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tiercel.stats.bounds import (
    betting_log_wealth,
    betting_pvalue,
    binomial_cdf,
    binomial_pvalue,
    hoeffding_bentkus_pvalue,
)

DRAWS = 1_500


def _slack(level: float, draws: int = DRAWS) -> float:
    """Three and a half standard errors: a valid p-value fails this once in four thousand seeds."""
    return level + 3.5 * float(np.sqrt(level * (1 - level) / draws))


@pytest.mark.parametrize("n", [1, 7, 50, 1_000, 200_000])
@pytest.mark.parametrize("p", [1e-6, 0.01, 0.3, 0.5, 0.97])
def test_binomial_cdf_is_scipys(n: int, p: float) -> None:
    for k in {0, 1, n // 100, int(n * p), n // 2, n - 1} - {n}:
        assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-7, abs=1e-290)


def test_binomial_cdf_at_the_edges() -> None:
    assert binomial_cdf(-1, 10, 0.5) == 0.0
    assert binomial_cdf(10, 10, 0.5) == 1.0
    assert binomial_cdf(0, 0, 0.5) == 1.0
    assert binomial_cdf(3, 10, 0.0) == 1.0
    assert binomial_cdf(9, 10, 1.0) == 0.0


def test_a_pvalue_of_no_rows_is_one() -> None:
    assert binomial_pvalue(0, 0, 0.05) == 1.0
    assert hoeffding_bentkus_pvalue(0.0, 0, 0.05) == 1.0
    assert betting_pvalue(np.array([]), 0.05) == 1.0


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_exact_type_one_error_of_binomial_and_hoeffding_bentkus(n: int, bound: float, level: float) -> None:
    errors = np.arange(n + 1)
    chance = stats.binom.pmf(errors, n, bound)
    exact = np.array([binomial_pvalue(k, n, bound) for k in errors.tolist()])
    hb = np.array([hoeffding_bentkus_pvalue(k / n, n, bound) for k in errors.tolist()])
    assert chance[exact <= level].sum() <= level * (1 + 1e-9)
    assert chance[hb <= level].sum() <= level * (1 + 1e-9)
    # An exact test rejects as soon as one more error would break the level.
    assert exact == pytest.approx(stats.binom.cdf(errors, n, bound), rel=1e-9)


def test_hoeffding_bentkus_is_the_formula_of_its_source() -> None:
    mean, n, bound = 0.02, 300, 0.06
    relative = mean * np.log(mean / bound) + (1 - mean) * np.log((1 - mean) / (1 - bound))
    bentkus = np.e * stats.binom.cdf(np.ceil(n * mean), n, bound)
    assert hoeffding_bentkus_pvalue(mean, n, bound) == pytest.approx(min(np.exp(-n * relative), bentkus))
    assert hoeffding_bentkus_pvalue(0.5, 300, 0.06) == 1.0


def _draws(kind: str, mean: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Losses of exactly this mean, and the lowest loss of their range."""
    if kind == "zero-one":
        return (rng.random(n) < mean).astype(float), 0.0
    if kind == "beta":
        return rng.beta(2 * mean, 2 * (1 - mean), n), 0.0
    if kind == "rare and fractional":
        return (rng.random(n) < 2 * mean) * rng.uniform(0, 1, n), 0.0
    gained = 0.1
    draws = rng.random(n)
    return np.where(draws < gained, -1.0, np.where(draws < 2 * gained + mean, 1.0, 0.0)), -1.0


@pytest.mark.parametrize("kind", ["zero-one", "beta", "rare and fractional", "signed"])
def test_type_one_error_of_betting_at_the_boundary(kind: str) -> None:
    rng = np.random.default_rng(11)
    bound, level = 0.08, 0.1
    hits = 0
    for _ in range(DRAWS):
        losses, low = _draws(kind, bound, 150, rng)
        hits += betting_pvalue(losses, bound, low, 1.0) <= level
    assert hits / DRAWS <= _slack(level)


@pytest.mark.parametrize("kind", ["zero-one", "beta", "rare and fractional"])
def test_type_one_error_of_hoeffding_bentkus_at_the_boundary(kind: str) -> None:
    rng = np.random.default_rng(12)
    bound, level = 0.08, 0.1
    hits = sum(
        hoeffding_bentkus_pvalue(_draws(kind, bound, 150, rng)[0].mean(), 150, bound) <= level for _ in range(DRAWS)
    )
    assert hits / DRAWS <= _slack(level)


def test_type_one_error_of_hoeffding_bentkus_on_signed_losses_brought_to_the_unit_range() -> None:
    rng = np.random.default_rng(13)
    bound, level = 0.05, 0.1
    hits = 0
    for _ in range(DRAWS):
        losses, _ = _draws("signed", bound, 150, rng)
        hits += hoeffding_bentkus_pvalue((losses.mean() + 1) / 2, 150, (bound + 1) / 2) <= level
    assert hits / DRAWS <= _slack(level)


@pytest.mark.parametrize(("kind", "mean"), [("zero-one", 0.02), ("beta", 0.02), ("signed", -0.05)])
def test_betting_rejects_when_the_mean_is_far_below(kind: str, mean: float) -> None:
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(200):
        losses, low = _draws(kind, mean, 600, rng)
        hits += betting_pvalue(losses, 0.1, low, 1.0) <= 0.05
    assert hits >= 180


def test_betting_gains_from_a_small_variance_where_the_others_can_not() -> None:
    assert betting_pvalue(np.full(250, 0.04), 0.08) < 0.002
    assert hoeffding_bentkus_pvalue(0.04, 250, 0.08) > 0.02


def test_betting_is_the_largest_capital_of_its_bets() -> None:
    rng = np.random.default_rng(15)
    losses = rng.uniform(-1, 0.6, 40)
    bound, high = 0.1, 1.0
    bets = np.geomspace(1e-3, 0.98, 48) / (high - bound)
    capital, largest = np.ones(48), 1.0
    for loss in losses:
        capital = capital * (1 + bets * (bound - loss))
        largest = max(largest, capital.mean())
    assert betting_pvalue(losses, bound, -1.0, 1.0) == pytest.approx(1 / largest)


def test_betting_refuses_losses_outside_their_range() -> None:
    with pytest.raises(ValueError, match="outside"):
        betting_pvalue(np.array([0.2, -0.1]), 0.1)
    with pytest.raises(ValueError, match="outside"):
        betting_pvalue(np.array([0.2, 1.1]), 0.1)


@pytest.mark.parametrize("kind", ["zero-one", "beta", "rare and fractional", "signed"])
def test_final_wealth_is_an_evalue_at_the_boundary(kind: str) -> None:
    rng = np.random.default_rng(16)
    wealth = np.empty(DRAWS)
    for i in range(DRAWS):
        losses, low = _draws(kind, 0.08, 60, rng)
        wealth[i] = np.exp(betting_log_wealth(losses, 0.08, low, 1.0))
    assert wealth.mean() <= 1 + 3.5 * wealth.std() / np.sqrt(DRAWS)
    assert wealth.mean() > 0.5, "a mean of 1 is what the bets should have here"


def test_final_wealth_does_not_depend_on_the_order_and_is_never_above_the_largest() -> None:
    losses = np.random.default_rng(17).uniform(-1, 0.5, 80)
    final = betting_log_wealth(losses, 0.1, -1.0, 1.0)
    assert betting_log_wealth(losses[::-1].copy(), 0.1, -1.0, 1.0) == pytest.approx(final)
    assert betting_pvalue(losses, 0.1, -1.0, 1.0) <= np.exp(-final) * (1 + 1e-9)
    assert betting_log_wealth(np.zeros(0), 0.1) == 0.0
    with pytest.raises(ValueError, match="outside"):
        betting_log_wealth(np.array([1.2]), 0.1)
