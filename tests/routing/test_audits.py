"""Draws can be repeated, have the probability that is written down, and spend the budget."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError, DataError
from tiercel.routing.audits import (
    AuditRule,
    draw_audit,
    epoch_key,
    excess_loss,
    key_commitment,
    plan_audits,
    uniform_draw,
)

RULE = AuditRule(threshold=0.6, width=0.2, floor=0.05, top=0.5)
KEY = epoch_key(b"m" * 32, "tickets", 1)


def test_the_probability_falls_from_the_threshold_to_the_floor_and_is_never_zero() -> None:
    found = [RULE.propensity(score) for score in np.linspace(0.6, 1.0, 101).tolist()]
    assert found[0] == 0.5 and found[-1] == 0.05 == RULE.propensity(1e9)
    assert all(a >= b for a, b in pairwise(found))
    assert RULE.propensity(0.7) == pytest.approx(0.05 + 0.45 * 0.25)


@given(st.floats(0.6, 1e300), st.floats(1e-3, 1.0), st.floats(1e-9, 1e9))
def test_the_probability_stays_between_floor_and_top(score: float, floor: float, width: float) -> None:
    rule = AuditRule(threshold=0.6, width=width, floor=floor, top=1.0)
    assert floor <= rule.propensity(score) <= 1.0
    assert 1.0 / rule.propensity(score) <= rule.largest_weight


def test_what_is_not_accepted_is_not_audited() -> None:
    for score in (0.59, math.nan, -math.inf):
        with pytest.raises(DataError, match="below the threshold"):
            draw_audit(RULE, KEY, "t", score)


def test_the_share_of_audits_is_the_probability() -> None:
    n = 20_000
    hits = sum(draw_audit(RULE, KEY, f"trace {i}", 0.7).audited for i in range(n))
    p = RULE.propensity(0.7)
    assert abs(hits / n - p) < 3.5 * math.sqrt(p * (1 - p) / n)
    draws = np.sort([uniform_draw(KEY, str(i)) for i in range(n)])
    # Kolmogorov's distance at one in ten thousand.
    assert np.abs(draws - (np.arange(n) + 0.5) / n).max() < 2.23 / math.sqrt(n)


def test_a_draw_depends_on_key_and_trace_alone() -> None:
    assert uniform_draw(KEY, "a") == uniform_draw(KEY, "a") != uniform_draw(KEY, "b")
    others = [epoch_key(b"m" * 32, "tickets", 2), epoch_key(b"m" * 32, "mail", 1), epoch_key(b"n" * 32, "tickets", 1)]
    assert len({uniform_draw(key, "a") for key in [KEY, *others]}) == 4
    assert len({key_commitment(key) for key in [KEY, *others]}) == 4
    # Written down, so that a change of the hash is seen: old logs must stay verifiable.
    assert uniform_draw(bytes(32), "trace") == 0.1928624454522635
    with pytest.raises(ConfigurationError, match="16 bytes"):
        epoch_key(b"short", "tickets", 1)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.9, 1.0])
def test_a_plan_spends_the_budget_on_scores_like_those_given(share: float) -> None:
    scores = np.random.default_rng(0).beta(5, 2, 3_000).tolist()
    rule = plan_audits(scores, 0.5, share=share)
    accepted = [s for s in scores if s >= 0.5]
    assert np.mean([rule.propensity(s) for s in accepted]) == pytest.approx(share, rel=1e-9)
    assert rule.propensity(0.5) >= rule.propensity(0.99) > 0


def test_a_plan_with_equal_scores_or_none_is_even() -> None:
    for scores in ([], [0.7] * 50, [0.1] * 50, [0.5] * 50):
        rule = plan_audits(scores, 0.5, share=0.1)
        assert {rule.propensity(s) for s in (0.5, 0.7, 1.0)} == {0.1}


@pytest.mark.parametrize(("share", "floor"), [(0.0, None), (1.1, None), (0.1, 0.2), (0.1, 0.0), (math.nan, None)])
def test_a_budget_out_of_range_is_refused(share: float, floor: float | None) -> None:
    with pytest.raises(ConfigurationError, match="give 0 <"):
        plan_audits([0.9], 0.5, share=share, floor=floor)


@pytest.mark.parametrize(
    "change", [{"floor": 0.0}, {"floor": 0.6}, {"top": 1.01}, {"width": 0.0}, {"threshold": math.nan}]
)
def test_a_rule_that_contradicts_itself_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="0 < floor <= top <= 1"):
        AuditRule(**({"threshold": 0.6, "width": 0.2, "floor": 0.05, "top": 0.5} | change))


@pytest.mark.parametrize(
    ("student", "frontier"), [(1.01, 0.0), (-0.1, 0.0), (0.0, 2.0), (math.nan, 0.0), (0.0, math.nan)]
)
def test_a_loss_out_of_range_is_refused(student: float, frontier: float) -> None:
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        excess_loss(student, frontier)
