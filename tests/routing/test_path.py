"""Both gates along one path: nested, cheaper step by step, and certified as a whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tiercel.routing.calibration import calibrate, plan_tests
from tiercel.routing.curves import Costs
from tiercel.routing.path import (
    NEVER,
    Decision,
    Gating,
    Step,
    accepted,
    decide,
    path_scores,
    plan_path,
    step_at,
    step_cost,
)

COSTS = Costs(weak=1.0, strong=4.0)


def _world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of both gates and delegation values; the gate on the answer knows more."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    chance = 1 / (1 + np.exp(1.5 - 1.6 * hidden))
    value = (rng.random(n) < chance).astype(float) - (rng.random(n) < 0.03)
    asked, answered = hidden + rng.normal(size=n), hidden + 0.6 * rng.normal(size=n)
    # Means of what is hidden, given the request, and given request and answer.
    before, after = asked / 2, (asked + answered / 0.36) / (2 + 1 / 0.36)
    return 1 / (1 + np.exp(1.4 - 1.4 * before)), 1 / (1 + np.exp(1.5 - 1.5 * after)), value


def test_a_request_is_decided_as_its_step_says() -> None:
    step = Step(low=0.2, high=0.7, post=0.4)
    pre, post = np.array([0.1, 0.2, 0.5, 0.5, 0.7, 0.9]), np.array([0.9, 0.9, 0.4, 0.5, 0.1, 0.9])
    found = decide(step, pre, post)
    weak, strong, both = Decision.WEAK, Decision.STRONG, Decision.ESCALATED
    assert found == [weak, weak, weak, both, strong, strong]
    # 3 weak calls that serve, 1 for nothing; 3 strong calls.
    assert step_cost(step, pre, post, COSTS) == pytest.approx((4 * 1 + 3 * 4) / 6)


@pytest.mark.parametrize("gating", list(Gating))
def test_a_path_leads_from_all_strong_to_all_weak_and_every_step_is_cheaper(gating: Gating) -> None:
    pre, post, _ = _world(600, 1)
    path = plan_path(gating, pre, post, COSTS, 0.05)
    uses = [accepted(s, pre, post) for s in path]
    costs = [step_cost(s, pre, post, COSTS) for s in path]
    assert not uses[0].any() and costs[0] == COSTS.strong
    assert uses[-1].all() and costs[-1] == pytest.approx(COSTS.weak)
    for earlier, later in itertools.pairwise(uses):
        assert (later | ~earlier).all()
    assert all(a > b for a, b in itertools.pairwise(costs))


@pytest.mark.parametrize("gating", list(Gating))
def test_the_scores_threshold_and_the_step_accept_the_same_requests(gating: Gating) -> None:
    path = plan_path(gating, *_world(500, 2)[:2], COSTS, 0.05)
    pre, post, _ = _world(800, 3)
    scores = path_scores(path, pre, post)
    assert scores.min() >= 0 and scores.max() <= 1
    for threshold in [1.0, 1e-6, *np.unique(scores)[1:], 0.4321]:
        step = step_at(path, float(threshold))
        assert step is not None
        assert np.array_equal(accepted(step, pre, post), scores >= threshold)
    assert step_at(path, None) is None


@pytest.mark.parametrize(("loss", "least_gain"), [(0.03, 0.02), (0.08, -0.005)])
def test_both_gates_cost_less_than_either_or_what_the_better_one_does(loss: float, least_gain: float) -> None:
    costs = Costs(weak=1.0, strong=3.0)
    trained, judged = _world(4_000, 4), _world(20_000, 5)

    def cost_at(gating: Gating) -> float:
        path = plan_path(gating, *trained[:2], costs, loss)
        lost = [float((judged[2] * accepted(s, *judged[:2])).mean()) for s in path]
        return min(step_cost(s, *judged[:2], costs) for s, d in zip(path, lost, strict=True) if d <= loss)

    assert cost_at(Gating.BOTH) < min(cost_at(Gating.PRE), cost_at(Gating.POST)) - least_gain


def test_where_the_small_call_is_free_it_is_never_spared_for_long() -> None:
    free = Costs(weak=1e-6, strong=1.0)
    path = plan_path(Gating.BOTH, *_world(2_000, 6)[:2], free, 0.05)
    assert path[len(path) // 2].high >= 0.5


@pytest.mark.parametrize("gating", [Gating.PRE, Gating.BOTH])
def test_the_bound_of_a_path_is_broken_no_more_often_than_the_certificate_says(gating: Gating) -> None:
    truth = _world(60_000, 7)
    path = plan_path(gating, *_world(400, 8)[:2], COSTS, 0.06)
    broken = certified = 0
    true_scores = path_scores(path, *truth[:2])
    for draw in range(120):
        pre, post, value = _world(400, 100 + draw)
        plan = plan_tests(path_scores(path, pre, post), value, max_loss=0.06, confidence=0.9, method="binomial")
        pre, post, value = _world(400, 1_000 + draw)
        found = calibrate(plan, path_scores(path, pre, post), value)
        if found.threshold is not None:
            certified += 1
            broken += float((truth[2] * (true_scores >= found.threshold)).mean()) > 0.06
    assert certified > 60
    assert broken / 120 <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 120)


def test_scores_that_are_all_equal_leave_all_or_nothing() -> None:
    same = np.full(200, 0.3)
    path = plan_path(Gating.BOTH, same, same, COSTS, 0.05)
    assert set(np.unique(path_scores(path, same, same))) <= {0.0, *(1 - i / len(path) for i in range(len(path)))}
    assert accepted(path[-1], same, same).all() and path[-1].post <= NEVER
