"""The guarantee itself: over many draws the certified threshold breaks the bound no more often than it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tiercel.routing.calibration import METHODS, TestPlan, calibrate, choose_method, plan_tests
from tiercel.stats.bounds import betting_pvalue

DRAWS, LEVEL, BOUND = 300, 0.05, 0.06
ALLOWED = LEVEL + 3 * float(np.sqrt(LEVEL * (1 - LEVEL) / DRAWS))


@dataclass(frozen=True)
class World:
    """Scores are uniform; what a row loses depends on its score alone, so the true risk is an integral."""

    lost: Callable[[np.ndarray], np.ndarray]
    gained: Callable[[np.ndarray], np.ndarray]
    size: float = 1.0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        scores, chance = rng.random(n), rng.random(n)
        lost, gained = self.lost(scores), self.gained(scores)
        size = self.size if self.size == 1 else rng.uniform(0, 2 * self.size, n)
        return scores, np.where(chance < lost, size, np.where(chance < lost + gained, -1.0, 0.0))

    def risk(self, threshold: float) -> float:
        points = np.linspace(threshold, 1, 2_001)
        return float(np.trapezoid(self.size * self.lost(points) - self.gained(points), points))


def _none(s: np.ndarray) -> np.ndarray:
    return 0 * s


ZERO_ONE = World(lambda s: 0.3 * (1 - s), _none)
FRACTIONAL = World(lambda s: 0.6 * (1 - s), _none, size=0.4)
SIGNED = World(lambda s: 0.4 * (1 - s), lambda s: 0.05 + 0 * s)
# The risk rises above the bound, falls below it and rises again as the threshold falls.
BUMPY = World(
    lambda s: np.where(s > 0.8, 0.45, np.where(s < 0.3, 0.5, 0.0)), lambda s: np.where((s > 0.5) & (s < 0.8), 0.2, 0)
)


def _thin(plan: TestPlan, keep: int = 24) -> TestPlan:
    """The same plan on fewer thresholds, so that a test is fast."""
    chosen = sorted(
        {*np.linspace(0, len(plan.grid) - 1, keep).astype(int).tolist(), *np.flatnonzero(plan.levels).tolist()}
    )
    return TestPlan(
        max_loss=plan.max_loss,
        confidence=plan.confidence,
        method=plan.method,
        grid=tuple(plan.grid[i] for i in chosen),
        levels=tuple(plan.levels[i] for i in chosen),
    )


def _tuned(scores: np.ndarray, excess: np.ndarray, grid: tuple[float, ...]) -> float:
    """What most would do: the loosest threshold whose mean loss on the rows at hand is within the bound."""
    return min((t for t in grid if (excess * (scores >= t)).mean() <= BOUND), default=1.0)


@pytest.mark.parametrize(
    ("world", "method"),
    [(ZERO_ONE, "binomial"), (FRACTIONAL, "betting"), (SIGNED, "betting"), (BUMPY, "betting")],
    ids=["zero-one", "fractional", "signed", "bumpy"],
)
def test_the_bound_is_broken_no_more_often_than_the_certificate_says(world: World, method: str) -> None:
    rng = np.random.default_rng(81)
    broken = tuned_broken = certified = 0
    for _ in range(DRAWS):
        plan = _thin(plan_tests(*world.draw(300, rng), max_loss=BOUND, confidence=1 - LEVEL, method=method))
        scores, excess = world.draw(300, rng)
        result = calibrate(plan, scores, excess)
        certified += result.offload > 0
        broken += result.threshold is not None and world.risk(result.threshold) > BOUND + 1e-9
        tuned_broken += world.risk(_tuned(scores, excess, plan.grid)) > BOUND + 1e-9
    assert broken / DRAWS <= ALLOWED
    assert tuned_broken / DRAWS > 0.25
    # A procedure that certifies nothing would keep every bound.
    assert certified / DRAWS > (0.2 if world is BUMPY else 0.9)


def test_signed_losses_certify_more_than_their_losses_alone_where_the_student_often_wins() -> None:
    rng = np.random.default_rng(82)
    world = World(lambda s: 0.12 * (1 - s) + 0.02, lambda s: 0.1 + 0 * s)
    gate, rows = world.draw(2_000, rng), world.draw(2_000, rng)
    offload = {
        m: calibrate(_thin(plan_tests(*gate, max_loss=0.03, confidence=0.95, method=m)), *rows).offload
        for m in ("binomial", "betting")
    }
    assert offload["betting"] > offload["binomial"] + 0.2


def test_binomial_pvalues_count_what_is_lost_and_not_what_is_gained() -> None:
    plan = TestPlan(max_loss=0.1, confidence=0.9, method="binomial", grid=(1.0, 0.5, 0.0), levels=(0.1, 0.0, 0.0))
    scores = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.3, *[0.2] * 60])
    excess = np.array([1.0, 0.0, -1.0, 0.25, 1.0, 0.0, *[0.0] * 60])
    result = calibrate(plan, scores, excess)
    assert result.pvalues == pytest.approx([stats.binom.cdf(k, 66, 0.1) for k in (0, 2, 3)])
    assert result.certified == (True, True, True)
    assert (result.threshold, result.offload) == (0.0, 1.0)
    assert result.estimate == pytest.approx(excess.mean())


def test_the_answer_whose_score_is_the_threshold_is_used() -> None:
    plan = TestPlan(max_loss=0.5, confidence=0.9, method="binomial", grid=(1.0, 0.5), levels=(0.1, 0.0))
    result = calibrate(plan, np.array([0.5, 0.49] * 10), np.array([0.0, 1.0] * 10))
    assert (result.threshold, result.offload, result.estimate) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_betting_pvalues_are_of_all_rows_in_their_order(low: float) -> None:
    rng = np.random.default_rng(83)
    scores, excess = rng.random(80), rng.uniform(low, 0.2, 80)
    plan = TestPlan(max_loss=0.1, confidence=0.9, method="betting", grid=(0.9, 0.4), levels=(0.1, 0.0))
    expected = [betting_pvalue(np.where(scores >= t, excess, 0.0), 0.1, -1.0, 1.0) for t in (0.9, 0.4)]
    assert calibrate(plan, scores, excess).pvalues == pytest.approx(expected)


def test_nothing_is_certified_of_no_rows_or_too_few() -> None:
    rng = np.random.default_rng(84)
    plan = plan_tests(rng.random(200), np.zeros(200), max_loss=0.05, confidence=0.95)
    for n in (0, 1, 58):
        result = calibrate(plan, rng.random(n), np.zeros(n))
        assert (result.threshold, result.offload, result.estimate) == (None, 0.0, 0.0)
    assert calibrate(plan, rng.random(59), np.zeros(59)).offload == 1.0


def test_a_student_that_is_always_wrong_answers_no_more_than_the_bound() -> None:
    rng = np.random.default_rng(85)
    plan = plan_tests(rng.random(200), np.ones(200), max_loss=0.05, confidence=0.95)
    result = calibrate(plan, rng.random(500), np.ones(500))
    assert result.offload == result.estimate < 0.05


def test_a_gain_on_calibration_rows_does_not_stop_a_plan_that_saw_none_on_the_gates() -> None:
    """The gate's rows hold fractional losses and no gain, so the method is for [0, 1]; then one row holds a gain."""
    rng = np.random.default_rng(85)
    plan = plan_tests(rng.random(100), np.where(rng.random(100) < 0.1, 0.5, 0.0), max_loss=0.1, confidence=0.9)
    assert plan.method == "betting"
    excess = np.where(rng.random(300) < 0.05, 0.5, 0.0)
    excess[7] = -0.5
    scores = rng.random(300)
    result = calibrate(plan, scores, excess)
    without = calibrate(plan, scores, np.maximum(excess, 0.0))
    # A gain may be counted or not; counted, it can only speak for the student.
    assert all(p <= w * (1 + 1e-9) for p, w in zip(result.pvalues, without.pvalues, strict=True))


@pytest.mark.parametrize(
    ("excess", "method"),
    [
        ([0, 0, 1, 0], "binomial"),
        ([0.0] * 5, "binomial"),
        ([1] * 30 + [-1] * 3, "binomial"),
        ([1] * 8 + [-1] * 5, "betting"),
        ([1] * 2 + [-1] * 4, "binomial"),
        ([0, 0.5, 1], "betting"),
        ([0, 0.5, -1], "betting"),
        ([], "binomial"),
    ],
)
def test_the_method_follows_from_the_losses_of_the_gates_rows(excess: list[float], method: str) -> None:
    assert choose_method(np.array(excess, dtype=float)) == method
    assert method in METHODS


_SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]), max_size=40)


@settings(max_examples=80, deadline=None)
@given(_SCORES, st.sampled_from([*METHODS, None]), st.sampled_from([0.9, 0.95, 0.99]), st.integers(0, 9))
def test_a_plan_falls_strictly_and_spends_exactly_its_level(
    scores: list[float], method: str | None, confidence: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low = -1 if method in ("betting", None) else 0
    excess = rng.choice([low, 0, 0.0, 1.0], len(scores)).astype(float)
    plan = plan_tests(np.array(scores, dtype=float), excess, max_loss=0.1, confidence=confidence, method=method)
    assert plan.grid[0] == 1.0
    assert 0.0 <= plan.grid[-1] <= 1e-4
    assert all(a > b for a, b in zip(plan.grid, plan.grid[1:], strict=False))
    assert len(plan.levels) == len(plan.grid)
    assert min(plan.levels) >= 0
    assert sum(plan.levels) == pytest.approx(1 - confidence)
    assert plan.levels[0] > 0


def test_a_plan_for_losses_that_can_not_be_negative_has_one_start_and_for_signed_ones_up_to_five() -> None:
    rng = np.random.default_rng(86)
    scores = rng.random(1_000)
    one = plan_tests(scores, (rng.random(1_000) < 0.1).astype(float), max_loss=0.05, confidence=0.9)
    assert np.flatnonzero(one.levels).tolist() == [0]
    assert 150 <= len(one.grid) <= 202
    assert set(one.grid[1:-1]) <= set(scores.tolist())
    excess = np.where(rng.random(1_000) < 0.3 * (1 - scores), 1.0, np.where(rng.random(1_000) < 0.2, -1.0, 0.0))
    several = plan_tests(scores, excess, max_loss=0.05, confidence=0.9)
    assert several.method == "betting"
    assert 2 <= np.count_nonzero(several.levels) <= 5
