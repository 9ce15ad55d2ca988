"""Figures of routers: by hand where that can be done, by simulation where it can't."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import DataError
from tiercel.routing.curves import Costs, bootstrap_interval, oracle_scores, quality_curve, router_figures

# Four requests: the strong model gains on two, loses on one.
WEAK = np.array([0.0, 1.0, 0.0, 1.0])
STRONG = np.array([1.0, 1.0, 1.0, 0.0])
COSTS = Costs(weak=1.0, strong=11.0)


def test_a_curve_is_the_quality_after_each_request_in_the_order_of_the_scores() -> None:
    curve = quality_curve(np.array([0.9, 0.5, 0.7, 0.1]), WEAK, STRONG)
    assert curve.share == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert curve.quality == pytest.approx([0.5, 0.75, 1.0, 1.0, 0.75])
    assert curve.gap == pytest.approx(0.25)
    assert curve.recovered() == pytest.approx([0, 1, 2, 2, 1])
    # Trapezoids of width .25: .125 + .375 + .5 + .375.
    assert curve.apgr() == pytest.approx(1.375)
    assert curve.cpt(0.5) == pytest.approx(0.125)
    assert curve.cpt(1.0) == pytest.approx(0.25)


def test_equal_scores_are_taken_in_every_order_alike() -> None:
    curve = quality_curve(np.zeros(4), WEAK, STRONG)
    assert curve.apgr() == pytest.approx(0.5)
    assert (curve.cpt(0.5), curve.cpt(0.8)) == (pytest.approx(0.5), pytest.approx(0.8))
    part = quality_curve(np.array([1.0, 1.0, 0.0, 0.0]), WEAK, STRONG)
    assert part.at(0.5) == pytest.approx(0.75)
    assert part.at(0.25) == pytest.approx(0.625)


def test_the_call_threshold_is_the_first_crossing_even_where_the_curve_falls_again() -> None:
    weak, strong = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0])
    curve = quality_curve(np.array([4.0, 3.0, 2.0, 1.0]), weak, strong)
    assert curve.recovered() == pytest.approx([0, 0.5, 0, 0.5, 1])
    assert curve.cpt(0.5) == pytest.approx(0.25)
    assert curve.cpt(0.8) == pytest.approx(0.9)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    curve = quality_curve(np.arange(4.0), WEAK, WEAK)
    assert np.isnan(curve.apgr())
    assert np.isnan(curve.cpt(0.5))
    worse = quality_curve(np.arange(4.0), STRONG, WEAK)
    assert np.isnan(worse.cpt(0.5))


def test_budgets_buy_fewer_calls_behind_a_gate_that_reads_answers() -> None:
    behind = Costs(weak=1.0, strong=11.0, weak_always=True)
    assert COSTS.budget_share(np.array([1.0, 6.0, 11.0])) == pytest.approx([0, 0.5, 1])
    assert behind.budget_share(np.array([1.0, 6.5, 11.0])) == pytest.approx([0, 0.5, 10 / 11])
    assert behind.of_share(np.array([0.0, 1.0])) == pytest.approx([1, 12])
    # A straight curve from quality .5 to .75 has the mean error of its middle.
    straight = quality_curve(np.zeros(4), WEAK, STRONG)
    assert straight.error_cost_area(COSTS) == pytest.approx(0.375, abs=1e-6)
    assert straight.error_cost_area(behind) == pytest.approx(0.5 - 0.25 * 5 / 11, abs=1e-6)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=40),
    st.integers(0, 1_000),
)
def test_no_order_beats_the_oracle_and_reversing_an_order_mirrors_it(
    pairs: list[tuple[float, float]], seed: int
) -> None:
    weak, strong = (np.array(v) for v in zip(*pairs, strict=True))
    scores = np.random.default_rng(seed).normal(size=weak.size)
    best = quality_curve(oracle_scores(weak, strong), weak, strong)
    found, mirrored = quality_curve(scores, weak, strong), quality_curve(-scores, weak, strong)
    for share in np.linspace(0, 1, 11):
        assert found.at(share) <= best.at(share) + 1e-9
        # What one order sends first the other sends last.
        assert found.at(share) + mirrored.at(1 - share) == pytest.approx(weak.mean() + strong.mean())


@given(st.integers(0, 10_000))
def test_figures_depend_on_the_order_of_scores_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weak, strong, scores = rng.random(30), rng.random(30), rng.normal(size=30).round(1)
    found = quality_curve(scores, weak, strong)
    again = quality_curve(np.exp(scores) * 7, weak, strong)
    mixed = rng.permutation(30)
    assert np.allclose(found.quality, again.quality)
    assert np.allclose(found.quality, quality_curve(scores[mixed], weak[mixed], strong[mixed]).quality)


def test_figures_are_refused_of_no_rows_and_of_scores_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match="finite"):
        quality_curve(np.array([0.1, np.nan]), WEAK[:2], STRONG[:2])
    with pytest.raises(DataError, match="at least one row"):
        quality_curve(np.empty(0), np.empty(0), np.empty(0))


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    truth = np.trapezoid([0.2, 0.9], [0, 1])
    covered = 0
    for draw in range(120):
        values = rng.random(60) < 0.55
        interval = bootstrap_interval(lambda r, v=values: np.array([v[r].mean()]), 60, resamples=200, seed=draw)[0]
        covered += interval.low <= truth <= interval.high
    assert 0.87 <= covered / 120 <= 1.0


def test_a_router_that_knows_half_of_the_value_is_between_random_and_oracle() -> None:
    rng = np.random.default_rng(4)
    weak, strong = (rng.random(1_500) < 0.6).astype(float), (rng.random(1_500) < 0.85).astype(float)
    known = oracle_scores(weak, strong) + rng.normal(size=1_500)
    found = router_figures("half", known, weak, strong, COSTS, resamples=100)
    blind = router_figures("blind", np.zeros(1_500), weak, strong, COSTS, resamples=100)
    best = router_figures("oracle", oracle_scores(weak, strong), weak, strong, COSTS, resamples=100)
    assert blind.apgr.value == pytest.approx(0.5) and blind.apgr.low == pytest.approx(0.5)
    assert blind.apgr.value < found.apgr.low < found.apgr.high < best.apgr.value
    assert found.cpt50.value < 0.5 < found.auroc_value.low
    assert best.auroc_value.value == 1.0
    assert best.error_cost.value < found.error_cost.value < blind.error_cost.value
