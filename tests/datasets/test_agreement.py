from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.agreement import answer_key, find_agreement

LONG = "could you please tell me where the parcel is that i ordered for my sister last week on your site"


def test_repeats_exact_and_near() -> None:
    requests = [LONG, LONG, LONG.upper(), LONG + "!", "something else entirely"]
    found = find_agreement(requests, ["status", "status", "Status ", "status", "status"])
    assert found.repeats.tolist() == [0, 0, 0, 0, 4]
    assert found.exact.tolist() == [False, True, False, False, False]
    assert not found.disputed.any()
    assert set(found.opponent.tolist()) == {-1}


def test_contradictions_name_the_minority_harder() -> None:
    requests = [LONG] * 5
    found = find_agreement(requests, ["a", "a", "b", "a", "a"])
    assert found.disputed.tolist() == pytest.approx([0.2, 0.2, 0.8, 0.2, 0.2])
    assert found.opponent.tolist() == [2, 2, 0, 2, 2]
    assert found.repeats.tolist() == [0, 0, 2, 0, 0]


def test_requests_that_differ_in_a_number_may_be_answered_differently() -> None:
    requests = [LONG + " order 100", LONG + " order 101", LONG + " order 100 "]
    found = find_agreement(requests, ["100", "101", "7"])
    assert found.opponent.tolist() == [2, -1, 0]


def test_a_task_brings_its_own_equality() -> None:
    answers = ['{"a": 1, "b": 2}', '{"b":2,"a":1}']
    assert find_agreement([LONG] * 2, answers).opponent.tolist() == [1, 0]
    same = find_agreement([LONG] * 2, answers, key=lambda a: json.dumps(json.loads(a), sort_keys=True))
    assert same.opponent.tolist() == [-1, -1]
    assert same.repeats.tolist() == [0, 0]
    assert answer_key(" A  b\n") == answer_key("a B")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([LONG, LONG + ".", "x 1", "x 2", ""]), st.sampled_from("abA")), max_size=12))
def test_what_holds_for_any_rows(rows: list[tuple[str, str]]) -> None:
    requests, answers = [r for r, _ in rows], [a for _, a in rows]
    found = find_agreement(requests, answers)
    for i in range(len(rows)):
        first = found.repeats[i]
        assert first <= i
        assert found.repeats[first] == first
        assert answer_key(answers[first]) == answer_key(answers[i])
        assert found.exact[i] == (rows[i] in rows[:i])
        assert (found.opponent[i] >= 0) == (found.disputed[i] > 0)
        if found.opponent[i] >= 0:
            assert answer_key(answers[found.opponent[i]]) != answer_key(answers[i])
