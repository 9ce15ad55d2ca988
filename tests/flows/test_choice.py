"""Which of the trained candidates becomes the bundle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tiercel.flows.candidates import Candidate, Stage
from tiercel.flows.pilot import _choose


def candidate(name: str, offload: float, wrong: int, rows: int = 800, rung: str = "") -> Candidate:
    loss = np.zeros(rows)
    loss[np.random.default_rng(len(name)).permutation(rows)[:wrong]] = 1.0
    responder: Any = SimpleNamespace(rung=rung or name)
    return Candidate(
        name=name,
        responder=responder,
        stage=Stage(train_seconds=0.0),
        responses={},
        losses={"gate": loss},
        size_bytes=0,
        expected_offload=offload,
    )


def test_the_one_that_takes_over_clearly_more_is_chosen() -> None:
    assert _choose([candidate("cheap", 0.6, 10), candidate("dear", 0.7, 12)]).name == "dear"


def test_among_equals_in_offload_one_that_is_clearly_less_right_is_left_out() -> None:
    found = _choose([candidate("cheap", 0.93, 24), candidate("middle", 0.935, 14), candidate("dear", 0.93, 13)])
    assert found.name == "middle"


def test_among_equals_the_cheapest_is_chosen() -> None:
    assert _choose([candidate("cheap", 0.93, 13), candidate("dear", 0.94, 13)]).name == "cheap"
    assert _choose([candidate("cheap", 0.0, 400), candidate("dear", 0.0, 400)]).name == "cheap"


def test_a_better_but_cheaper_one_stands_for_all() -> None:
    assert _choose([candidate("cheap", 0.93, 5), candidate("dear", 0.94, 20)]).name == "cheap"


def test_of_the_forms_of_a_rung_the_one_that_loses_least_is_taken() -> None:
    forms = [candidate("tuned", 0.94, 13, rung="encoder"), candidate("twins", 0.93, 12, rung="encoder")]
    assert _choose(forms).name == "twins"
    assert _choose([candidate("linear", 0.93, 13), *forms]).name == "linear"
    assert _choose([*forms, candidate("pair", 0.9, 0, rung="encoder")]).name == "twins"
