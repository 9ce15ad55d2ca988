from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.curriculum import Curriculum, curriculum_helps, difficulty_of, plan_stages
from tiercel.errors import ConfigurationError, DataError


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=30), st.data())
def test_stages_part_the_rows_by_rising_score(scores: list[float], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(scores)))
    found = plan_stages(np.array(scores), stages)
    assert len(found) == stages
    assert sorted(np.concatenate(found).tolist()) == list(range(len(scores)))
    sizes = [part.size for part in found]
    assert max(sizes) - min(sizes) <= 1
    for part, harder in pairwise(found):
        assert max(scores[i] for i in part) <= min(scores[i] for i in harder)
    assert all((np.diff(part) > 0).all() for part in found)


def test_stages_that_make_no_sense() -> None:
    with pytest.raises(ConfigurationError, match="3 rows"):
        plan_stages(np.zeros(3), 4)
    with pytest.raises(ConfigurationError):
        plan_stages(np.zeros(3), 0)
    with pytest.raises(DataError, match="row 1"):
        plan_stages(np.array([0.0, np.nan]), 1)


def test_no_gain_is_rarely_called_one() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        both = rng.random(150) < 0.15
        flip = rng.random((2, 150)) < 0.05
        wrong += curriculum_helps(np.where(flip[0], ~both, both) * 1.0, np.where(flip[1], ~both, both) * 1.0).helps
    # One side of a 95 % interval: 2.5 % are expected at the most, and 8 of 100 are beyond chance.
    assert wrong <= 7


def test_a_gain_is_seen_and_rows_are_paired() -> None:
    rng = np.random.default_rng(1)
    without = (rng.random(2000) < 0.3).astype(float)
    cured = np.where(rng.random(2000) < 0.15, 0.0, without)
    found = curriculum_helps(cured, without)
    assert found.helps
    assert found.rows == 2000
    assert found.gain.low < found.gain.value == pytest.approx((without - cured).mean())
    assert not curriculum_helps(without, cured).helps
    # The same losses in another order: unpaired noise hides so small a gain.
    assert found.gain.low > curriculum_helps(rng.permutation(cured), without).gain.low


def test_losses_that_can_not_be_compared() -> None:
    with pytest.raises(DataError, match="same rows"):
        curriculum_helps(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="same rows"):
        curriculum_helps(np.zeros(0), np.zeros(0))
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(DataError, match=r"\[0, 1\]"):
            curriculum_helps(np.array([bad]), np.zeros(1))


def test_stages_open_one_after_the_other_and_a_pass_is_always_as_long() -> None:
    curriculum = Curriculum.of(np.arange(30.0), stages=3)
    rng = np.random.default_rng(0)
    for share, highest in ((0.0, 10), (0.24, 10), (0.25, 20), (0.49, 20), (0.5, 30), (1.0, 30)):
        rows = curriculum.rows(share, rng)
        assert len(rows) == 30
        assert set(rows.tolist()) == set(range(highest)), share
        assert curriculum.is_whole(share) == (highest == 30)
    assert sorted(curriculum.rows(0.9, rng).tolist()) == list(range(30))
    assert Curriculum.of(np.array([1.0, 0.0]), stages=3).stages[0].tolist() == [1]


def test_long_and_doubted_rows_come_last() -> None:
    texts, answers = ["a" * 9, "a", "aaaa", "bbbb"], ["x", "x", "x", "x"]
    assert np.argsort(difficulty_of(texts, answers), kind="stable").tolist() == [1, 2, 3, 0]
    plain = difficulty_of(texts, answers)
    assert plain[2] == plain[3]
    assert ((plain >= 0) & (plain <= 1)).all()
    assert difficulty_of(texts, answers, np.array([1, 0.1, 1, 1])).argmax() == 1
