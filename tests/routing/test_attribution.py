from __future__ import annotations

import math

import numpy as np
import pytest

from tiercel.errors import DataError
from tiercel.routing.attribution import Anchors, attribute

FITTING = {"error": 0.02, "tolerance": 0.02, "shift": 0.05}


def decided(rates: dict[str, float], seed: int, most: int = 2_500) -> str:
    rng = np.random.default_rng(seed)
    anchors = {name: Anchors(**FITTING) for name in rates}
    for _ in range(most):
        for name, rate in rates.items():
            anchors[name].score(float(rng.random() < rate))
        if (cause := attribute(True, anchors)) != "undecided":
            return cause
    return "undecided"


@pytest.mark.parametrize(
    ("rates", "cause"),
    [
        ({"judge": 0.02}, "student"),
        ({"judge": 0.10}, "judge"),
        ({"judge": 0.02, "frontier": 0.02}, "student"),
        ({"judge": 0.02, "frontier": 0.10}, "frontier"),
    ],
)
def test_a_drift_of_the_judge_or_frontier_is_told_from_one_of_the_student(rates: dict[str, float], cause: str) -> None:
    found = [decided(rates, seed) for seed in range(60)]
    assert found.count(cause) >= 57


def test_nobody_is_accused_or_acquitted_without_evidence() -> None:
    anchors = {"judge": Anchors(**FITTING)}
    assert attribute(False, anchors) == "none"
    assert attribute(True, anchors) == "undecided"
    assert attribute(True, {}) == "student"
    for _ in range(60):
        anchors["judge"].score(1.0)
    assert attribute(False, anchors) == "judge"
    both = dict.fromkeys(("judge", "frontier"), anchors["judge"])
    assert attribute(True, both) == "judge and frontier"


def test_an_alarm_asks_for_anchors_that_were_scored_after_it() -> None:
    anchors = Anchors(**FITTING)
    for _ in range(1_000):
        anchors.score(0.0)
    assert anchors.acquitted
    anchors.begin_trial()
    assert not anchors.acquitted and not anchors.accused


def test_going_on_from_a_stored_state_gives_the_same() -> None:
    one = Anchors(**FITTING)
    for i in range(100):
        one.score(float(i % 9 == 0))
    other = Anchors(**FITTING).resume(one.state())
    for anchors in (one, other):
        anchors.score(1.0)
    assert one.state() == other.state()


def test_bad_input_is_refused() -> None:
    anchors = Anchors(**FITTING)
    before = anchors.state()
    for error in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match="outside"):
            anchors.score(error)
    assert anchors.state() == before
    for change in ({"error": -0.1}, {"tolerance": 0.0}, {"shift": 0.01}, {"error": 0.97}):
        with pytest.raises(DataError, match="can't tell a drift"):
            Anchors(**(FITTING | change))
