from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from tiercel.stats.bounds import binomial_pvalue
from tiercel.stats.planning import chance_of_certificate, largest_allowed_errors, rows_for_chance, rows_needed


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("delta", [0.01, 0.1])
@pytest.mark.parametrize("n", [1, 10, 58, 59, 60, 500, 5_000])
def test_one_more_error_than_allowed_would_not_certify(n: int, bound: float, delta: float) -> None:
    allowed = largest_allowed_errors(n, bound, delta)
    assert allowed < n
    if allowed >= 0:
        assert stats.binom.cdf(allowed, n, bound) <= delta
    assert stats.binom.cdf(allowed + 1, n, bound) > delta


def test_no_rows_allow_no_errors() -> None:
    assert largest_allowed_errors(0, 0.05, 0.05) == -1


@pytest.mark.parametrize("expected", [0.0, 0.001, 0.01, 0.02, 0.03])
@pytest.mark.parametrize(("bound", "delta"), [(0.05, 0.05), (0.05, 0.1), (0.1, 0.01)])
def test_rows_needed_are_the_fewest_that_certify(expected: float, bound: float, delta: float) -> None:
    fewest = next(n for n in range(1, 5_000) if stats.binom.cdf(math.ceil(expected * n), n, bound) <= delta)
    assert rows_needed(expected, bound, delta) == fewest


def test_no_number_of_rows_certifies_a_loss_at_the_bound() -> None:
    assert rows_needed(0.05, 0.05, 0.05) is None
    assert rows_needed(0.06, 0.05, 0.05) is None
    assert rows_needed(0.049, 0.05, 0.05, most=10_000) is None


def test_planning_for_many_rows_leaves_no_hundreds_of_megabytes_behind() -> None:
    tracemalloc.start()
    try:
        rows = rows_needed(0.0496, 0.05, 0.05)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows is not None
    assert rows > 300_000
    assert held < 50 * 2**20


@pytest.mark.parametrize(("expected", "bound", "delta"), [(0.01, 0.05, 0.05), (0.0, 0.02, 0.1), (0.1, 0.3, 0.05)])
def test_the_chance_of_a_certificate_is_that_of_the_simulation(expected: float, bound: float, delta: float) -> None:
    rng = np.random.default_rng(3)
    for n in (80, 150, 313):
        errors = rng.binomial(n, expected, 20_000)
        had = np.array([binomial_pvalue(int(k), n, bound) <= delta for k in range(n + 1)])[errors].mean()
        assert chance_of_certificate(n, expected, bound, delta) == pytest.approx(had, abs=0.012)


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("expected", "bound", "delta"), [(0.01, 0.05, 0.05), (0.0, 0.02, 0.1), (0.1, 0.3, 0.05)])
def test_from_the_rows_found_on_every_number_is_enough_and_one_less_is_not(
    chance: float, expected: float, bound: float, delta: float
) -> None:
    rows = rows_for_chance(chance, expected, bound, delta)
    assert rows is not None
    brute = [chance_of_certificate(n, expected, bound, delta) for n in range(1, rows + 400)]
    assert brute[rows - 2] < chance
    assert min(brute[rows - 1 :]) >= chance


def test_no_number_of_rows_certifies_a_loss_at_the_bound_or_one_that_is_too_close() -> None:
    assert rows_for_chance(0.8, 0.02, 0.02, 0.05) is None
    assert rows_for_chance(0.8, 0.5, 0.02, 0.05) is None
    assert rows_for_chance(0.8, 0.0199, 0.02, 0.05, most=100_000) is None
    assert rows_for_chance(0.99, 0.0, 0.05, 0.05) == 59
