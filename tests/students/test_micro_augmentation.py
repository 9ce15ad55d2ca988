"""Swapped values: changed alike on both sides, with everything else left as it was."""

from __future__ import annotations

import json

import pytest

from tests.students.micro_rows import labelled, orders
from tiercel.students.micro_augmentation import ValueSwap

ROWS = orders(400)


def test_a_value_changes_in_request_and_answer_alike() -> None:
    swap = ValueSwap(ROWS, share=1.0)
    assert swap.fields == ["name"], "item and urgency have few values: they are part of the meaning"
    changed = 0
    for (request, answer), (new_request, new_answer) in zip(ROWS, swap(ROWS, seed=1), strict=True):
        old, new = json.loads(answer), json.loads(new_answer)
        assert request.replace(old["name"], new["name"]) == new_request
        assert old | {"name": new["name"]} == new
        changed += old != new
    assert changed > 0.9 * len(ROWS)


def test_new_words_appear_where_they_are_asked_for() -> None:
    known = {json.loads(a)["name"] for _, a in ROWS}
    for mixed, new in ((0.0, False), (1.0, True)):
        names = {json.loads(a)["name"] for _, a in ValueSwap(ROWS, share=1.0, mixed=mixed)(ROWS, seed=1)}
        assert bool(names - known) == new


def test_a_seed_gives_the_same_rows_and_each_epoch_others() -> None:
    swap = ValueSwap(ROWS)
    assert swap(ROWS, seed=3) == swap(ROWS, seed=3) != swap(ROWS, seed=4)
    same = sum(a == b for a, b in zip(ROWS, swap(ROWS, seed=3), strict=True))
    assert 0.4 < same / len(ROWS) < 0.62


def test_literals_of_sql_are_swapped_too() -> None:
    places = [f"{a}{b}" for a in ("ash", "oak", "elm", "fir", "yew") for b in ("ton", "ville", "burg", "mere", "ham")]
    rows = [(f"who lives in {p}", f"SELECT name FROM people WHERE city = '{p}' ;") for p in places]
    swap = ValueSwap(rows, share=1.0, mixed=0.0)
    assert swap.fields == ["city"]
    for request, answer in swap(rows, seed=0):
        place = request.removeprefix("who lives in ")
        assert answer == f"SELECT name FROM people WHERE city = '{place}' ;"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("ada and ada", '{"name": "ada"}'),
        ("adage", '{"name": "ada"}'),
        ("nobody", '{"name": "ada"}'),
        ("ada", '{"name": "ada", "again": "ada"}'),
        ("say \\ to ada", '{"name": "\\\\"}'),
    ],
)
def test_a_value_whose_place_is_unclear_stays(request_: str, answer: str) -> None:
    rows = [*ROWS, (request_, answer)]
    assert ValueSwap(rows, share=1.0)(rows, seed=0)[-1] == (request_, answer)


def test_labels_are_left_alone() -> None:
    rows = labelled(100)
    assert ValueSwap(rows, share=1.0)(rows, seed=0) == rows
