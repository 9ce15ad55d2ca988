"""Ladders of three tiers and abstention: decisions, costs, and the bound by simulation."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from tiercel.routing.ladder import (
    ABSTAINED,
    LadderStep,
    asked_shares,
    certify_ladder,
    ladder_costs,
    ladder_losses,
    plan_ladder,
    tiers_chosen,
)
from tiercel.routing.logistic import fit_logistic

COSTS = (0.2, 4.0, 20.0)


def _drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What two gates see, losses of three tiers, and how likely the last one is wrong."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    chance = np.column_stack([1 / (1 + np.exp(-(1.6 * hard + shift))) for shift in (-1.0, -2.2, -4.0)])
    losses = (rng.random((n, 3)) < chance).astype(float)
    first, second = hard + 0.7 * rng.normal(size=n), hard + 0.6 * rng.normal(size=n)
    # The second gate knows what the first one knew: the mean of both by their precision.
    seen = np.column_stack([first, (first / 0.49 + second / 0.36) / (1 / 0.49 + 1 / 0.36)])
    return seen, losses, chance[:, 2]


@cache
def _gate(tier: int) -> tuple[float, float]:
    """Slope and offset of a calibrated gate."""
    seen, losses, _ = _drawn(20_000, 77)
    slope, offset = fit_logistic(seen[:, tier : tier + 1], losses[:, tier] > losses[:, 2], 1e-6)
    return float(slope[0]), offset


def _world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two gates, losses of three tiers, and how likely the last one is wrong."""
    seen, losses, hopeless = _drawn(n, seed)
    gates = np.array([_gate(tier) for tier in range(2)])
    return 1 / (1 + np.exp(-(seen * gates[:, 0] + gates[:, 1]))), losses, hopeless


def test_a_request_climbs_until_a_tier_is_safe_enough() -> None:
    scores = np.array([[0.1, 0.9], [0.3, 0.2], [0.9, 0.9], [0.2, 0.0]])
    step = LadderStep(thresholds=(0.2, 0.5))
    assert tiers_chosen(step, scores).tolist() == [0, 1, 2, 0]
    hopeless = np.array([0.1, 0.7, 0.9, 0.8])
    careful = LadderStep(thresholds=(0.2, 0.5), abstain=0.8)
    assert tiers_chosen(careful, scores, hopeless).tolist() == [0, 1, ABSTAINED, ABSTAINED]


def test_losses_and_costs_are_those_of_the_tiers_on_the_way() -> None:
    chosen = np.array([0, 1, 2, ABSTAINED])
    losses = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1]], dtype=float)
    assert ladder_losses(chosen, losses).tolist() == [1, -1, 0, 0]
    assert ladder_losses(chosen, losses, abstention_loss=0.25).tolist() == [1, -1, 0, -0.75]
    assert ladder_costs(chosen, COSTS) == pytest.approx((0.2 + 4.2 + 24.2 + 0.2) / 4)


def test_a_ladder_of_gates_on_requests_asks_one_tier_each() -> None:
    chosen = np.array([0, 1, 2, 2, ABSTAINED])
    assert asked_shares(chosen, 3).tolist() == [1.0, 0.6, 0.4]
    assert asked_shares(chosen, 3, climbs=False).tolist() == [0.2, 0.2, 0.4]
    assert ladder_costs(chosen, COSTS, climbs=False) == pytest.approx((0.2 + 4.0 + 20.0 + 20.0 + 0.0) / 5)


def test_the_level_is_spread_over_steps_and_is_no_more_than_there_is() -> None:
    scores, losses, _ = _world(600, 6)
    plan = plan_ladder(scores, losses, COSTS, max_loss=0.05, confidence=0.9)
    assert len(plan.levels) == len(plan.path) and sum(plan.levels) == pytest.approx(0.1)
    assert plan.levels[0] > 0 and sum(level > 0 for level in plan.levels) > 2


def test_a_path_never_sends_a_request_higher_and_ends_with_the_cheapest_tier() -> None:
    scores, losses, _ = _world(500, 1)
    path = plan_ladder(scores, losses, COSTS, max_loss=0.05, confidence=0.9).path
    chosen = [tiers_chosen(s, scores) for s in path]
    assert (chosen[0] == 2).all() and (chosen[-1] == 0).all()
    assert all((later <= earlier).all() for earlier, later in pairwise(chosen))


def test_three_tiers_cost_less_than_two_at_the_same_loss() -> None:
    scores, losses, _ = _world(6_000, 2)

    def least(path: list[tuple[float, float]]) -> float:
        return min(cost for cost, loss in path if loss <= 0.15)

    def seen(columns: list[int], costs: tuple[float, ...]) -> list[tuple[float, float]]:
        tiers = [*columns, 2]
        path = plan_ladder(scores[:, columns], losses[:, tiers], costs, max_loss=0.15, confidence=0.9).path
        chosen = [tiers_chosen(s, scores[:, columns]) for s in path]
        return [(ladder_costs(c, costs), float(ladder_losses(c, losses[:, tiers]).mean())) for c in chosen]

    three = seen([0, 1], COSTS)
    assert least(three) < least(seen([0], (0.2, 20.0)))
    assert least(three) < least(seen([1], (4.0, 20.0)))


def test_abstention_spares_calls_that_would_fail_anyway() -> None:
    scores, losses, hopeless = _world(4_000, 3)
    plain = tiers_chosen(LadderStep(thresholds=(0.1, 0.1)), scores)
    careful = tiers_chosen(LadderStep(thresholds=(0.1, 0.1), abstain=0.5), scores, hopeless)
    silent = careful == ABSTAINED
    assert 0 < silent.mean() < 0.2
    assert losses[silent, 2].mean() > 0.5 > losses[careful == 2, 2].mean()
    assert ladder_costs(careful, COSTS) < ladder_costs(plain, COSTS)


def test_the_bound_of_a_ladder_is_broken_no_more_often_than_said() -> None:
    truth_scores, truth_losses, _ = _world(60_000, 4)
    broken = moved = 0
    for draw in range(100):
        plan = plan_ladder(*_world(250, 100 + draw)[:2], COSTS, max_loss=0.08, confidence=0.9)
        scores, losses, _ = _world(400, 1_000 + draw)
        step = certify_ladder(plan, scores, losses)
        if step is None:
            continue
        chosen = tiers_chosen(step, truth_scores)
        moved += (chosen < 2).mean() > 0.2
        broken += float(ladder_losses(chosen, truth_losses).mean()) > 0.08
    assert moved > 60
    assert broken / 100 <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 100)


def test_without_rows_nothing_is_certified() -> None:
    scores, losses, _ = _world(200, 5)
    plan = plan_ladder(scores, losses, COSTS, max_loss=0.05, confidence=0.9)
    assert certify_ladder(plan, scores[:0], losses[:0]) is None
