"""Paired tests keep their level, see what is there, and agree with exact ones."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from tiercel.stats.paired import auroc_fall_pvalue, loss_rise_pvalue
from tiercel.stats.ranking import auroc


@pytest.mark.parametrize(("rises", "falls"), [(0, 0), (8, 0), (7, 0), (0, 8), (9, 3), (5, 5)])
def test_losses_of_0_and_1_are_compared_by_mcnemars_exact_test(rises: int, falls: int) -> None:
    first = np.array([1.0] * rises + [0.0] * falls + [1.0, 0.0])
    second = np.array([0.0] * rises + [1.0] * falls + [1.0, 0.0])
    exact = stats.binomtest(rises, rises + falls, alternative="greater").pvalue if rises + falls else 1.0
    assert loss_rise_pvalue(first, second) == pytest.approx(exact)


def test_graded_losses_are_compared_as_all_flips_of_their_signs_would() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.random(9) * 0.8 + 0.2, rng.random(9)
        apart = first - second
        sums = [float(np.dot(signs, np.abs(apart))) for signs in product((-1, 1), repeat=9)]
        exact = float(np.mean(np.array(sums) >= apart.sum() - 1e-12))
        assert loss_rise_pvalue(first, second) == pytest.approx(exact, abs=0.02)


def test_equal_systems_are_rarely_told_apart_by_losses() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        pair = np.clip(rng.random((60, 1)) + 0.3 * rng.normal(size=(60, 2)), 0, 1)
        hits += loss_rise_pvalue(pair[:, 0], pair[:, 1]) <= 0.05
    # Standard error 1.1 points.
    assert hits / 400 <= 0.085


def scored(rng: np.random.Generator, noise: tuple[float, float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two systems of one ability that err on rows of their own; what they say of themselves is noisier in one."""
    ease = rng.normal(size=120)
    made = []
    for extra in noise:
        right = ease + 0.5 * rng.normal(size=120) > -1
        made.append((ease + extra * rng.normal(size=120), right))
    return made


def test_equal_rankings_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(2)
    found = [auroc_fall_pvalue(*scored(rng, (0.5, 0.5)), draws=99) for _ in range(200)]
    # Standard error 1.5 points.
    assert np.mean(np.array(found) <= 0.05) <= 0.1


def test_a_worse_ranking_is_seen_and_a_better_one_is_not() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        poor, good = scored(rng, (4.0, 0.2))
        assert auroc(*good) > auroc(*poor) + 0.1
        assert auroc_fall_pvalue(poor, good, draws=199) <= 0.01
        assert auroc_fall_pvalue(good, poor, draws=199) == 1.0


def test_rows_without_an_error_show_no_fall() -> None:
    right = np.ones(30, dtype=np.bool_)
    scores = np.arange(30.0)
    assert auroc_fall_pvalue((scores, right), (scores, right)) == 1.0
    assert auroc_fall_pvalue((scores, right), (scores, scores > 10)) == 1.0
