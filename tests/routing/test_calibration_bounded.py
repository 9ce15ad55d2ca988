"""The guarantee for losses between 0 and 1 and for rows of few users: the whole procedure, over many draws."""

from __future__ import annotations

import numpy as np
import pytest

from tiercel.routing.calibration import TestPlan, calibrate, plan_tests

LEVEL = 0.1


def _allowed(draws: int) -> float:
    return LEVEL + 3 * float(np.sqrt(LEVEL * (1 - LEVEL) / draws))


SIZES = np.array([1 / 3, 0.5, 1.0])
"""What a wrong answer loses, as field F1 has it."""
SHARES = {"mostly whole": np.array([0.05, 0.05, 0.9]), "mostly part": np.array([0.5, 0.4, 0.1])}
ERROR = 0.4


def _draw(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a grid of 20 and losses; the chance to lose falls as the score rises."""
    scores = rng.integers(1, 21, n) / 20
    lost = rng.random(n) < ERROR * (1 - scores)
    return scores, np.where(lost, rng.choice(SIZES, n, p=SHARES[kind]), 0.0)


def _risk(kind: str, threshold: float) -> float:
    points = np.arange(1, 21) / 20
    return float((ERROR * (1 - points) * (points >= threshold)).sum() / 20 * (SIZES @ SHARES[kind]))


@pytest.mark.parametrize("kind", SHARES)
def test_losses_like_field_f1_keep_their_bound_with_the_method_chosen_on_the_gates_rows(kind: str) -> None:
    rng = np.random.default_rng(31)
    draws, bound = 60, 0.06
    broken = tuned = 0
    for _ in range(draws):
        plan = plan_tests(*_draw(kind, 120, rng), max_loss=bound, confidence=1 - LEVEL, rows=250)
        assert plan.method in ("betting", "hoeffding-bentkus", "binomial")
        scores, losses = _draw(kind, 250, rng)
        found = calibrate(plan, scores, losses).threshold
        broken += found is not None and _risk(kind, found) > bound
        means = [float((losses * (scores >= t)).mean()) for t in plan.grid]
        tuned += _risk(kind, plan.grid[int(np.flatnonzero(np.array(means) <= bound)[-1])]) > bound
    assert broken / draws <= _allowed(draws)
    assert tuned / draws > 0.25, "a threshold that is merely tuned would pass too: the test tells nothing"


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus", "wealth"])
def test_each_method_keeps_its_level_where_the_risk_is_just_above_the_bound(method: str) -> None:
    rng = np.random.default_rng(32)
    draws, bound = 600, 0.1
    plan = TestPlan(max_loss=bound, confidence=1 - LEVEL, method=method, grid=(1.0, 0.5), levels=(LEVEL, 0.0))
    broken = 0
    for _ in range(draws):
        losses = np.where(rng.random(200) < 0.1005 / 0.5, rng.beta(2, 2, 200), 0.0)
        broken += calibrate(plan, np.full(200, 0.7), losses).threshold is not None
    assert broken / draws <= _allowed(draws)


@pytest.mark.parametrize("method", ["betting", "hoeffding-bentkus", "wealth", "binomial"])
def test_each_method_certifies_a_small_partial_loss(method: str) -> None:
    rng = np.random.default_rng(33)
    losses = np.where(rng.random(500) < 0.03, 0.5, 0.0)
    plan = TestPlan(max_loss=0.1, confidence=0.9, method=method, grid=(1.0, 0.5), levels=(0.1, 0.0))
    assert calibrate(plan, np.full(500, 0.7), losses).offload == 1.0


def test_the_method_is_the_one_that_certifies_most_of_the_gates_rows() -> None:
    rng = np.random.default_rng(34)
    scores = rng.integers(1, 21, 300) / 20
    small = np.where(rng.random(300) < 0.5, 0.05, 0.0)
    assert plan_tests(scores, small, max_loss=0.1, confidence=0.9, rows=300).method == "betting"
    # So few rows that betting, which spreads its stake, certifies nothing even without an error.
    rare = np.zeros(300)
    rare[0] = 0.5
    assert plan_tests(scores, rare, max_loss=0.1, confidence=0.9, rows=30).method != "betting"
    # Without the number of rows nothing is tried.
    assert plan_tests(scores, rare, max_loss=0.1, confidence=0.9).method == "betting"


def test_losses_that_are_all_equal_have_a_defined_outcome() -> None:
    rng = np.random.default_rng(35)
    scores = rng.random(400)
    for value, answered in ((0.0, 1.0), (0.02, 1.0), (0.5, 0.0)):
        excess = np.full(400, value)
        plan = plan_tests(scores[:100], excess[:100], max_loss=0.1, confidence=0.9, rows=300)
        found = calibrate(plan, scores[100:], excess[100:])
        if answered:
            assert found.offload == answered
        else:
            assert found.estimate < 0.1


USERS, EACH = 60, 20


def _users(rng: np.random.Generator, users: int = USERS) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of the users, those who ask most, lose 60 % of their requests, the others nothing."""
    bad = rng.random(users) < 0.1
    sizes = np.where(bad, EACH, rng.integers(1, EACH + 1, users))
    clusters = np.repeat(np.arange(users), sizes)
    return (rng.random(clusters.size) < 0.6 * bad[clusters]).astype(float), clusters


MEAN = 0.6 * 0.1 * EACH / (0.1 * EACH + 0.9 * (EACH + 1) / 2)
"""Mean loss over requests."""


def test_rows_of_few_users_break_the_naive_certificate_and_not_the_one_that_counts_users() -> None:
    rng = np.random.default_rng(36)
    draws, bound = 400, MEAN - 0.001
    common = {"max_loss": bound, "confidence": 1 - LEVEL, "grid": (1.0, 0.5)}
    naive = TestPlan(method="binomial", levels=(LEVEL, 0.0), **common)
    counted = {
        method: TestPlan(method=method, levels=(LEVEL, 0.0), cluster="user", cap=EACH, **common)
        for method in ("betting", "hoeffding-bentkus", "wealth")
    }
    broken = dict.fromkeys(["naive", *counted], 0)
    for _ in range(draws):
        losses, clusters = _users(rng)
        scores = np.full(losses.size, 0.7)
        broken["naive"] += calibrate(naive, scores, losses).threshold is not None
        for method, plan in counted.items():
            broken[method] += calibrate(plan, scores, losses, clusters).threshold is not None
    assert broken["naive"] / draws > 2 * LEVEL
    assert all(broken[method] / draws <= _allowed(draws) for method in counted)


def test_counting_users_certifies_what_is_far_below_the_bound() -> None:
    losses, clusters = _users(np.random.default_rng(37), users=300)
    plan = plan_tests(
        np.full(100, 0.7), np.zeros(100), max_loss=3 * MEAN, confidence=0.9, rows=300, cluster="user", cap=EACH
    )
    assert plan.method != "binomial"
    found = calibrate(plan, np.full(losses.size, 0.7), losses, clusters)
    assert (found.offload, found.estimate) == (1.0, pytest.approx(losses.mean()))


def test_clusters_and_a_plan_that_counts_them_need_each_other() -> None:
    plan = TestPlan(max_loss=0.1, confidence=0.9, method="betting", grid=(0.5,), levels=(0.1,), cap=3)
    with pytest.raises(ValueError, match="need each other"):
        calibrate(plan, np.ones(3), np.zeros(3))
