from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.near_duplicates import NearDuplicateIndex, near_duplicate_groups
from tiercel.datasets.new_requests import Refusal, validate_new_requests

TRAIN = ["where is the parcel that i ordered last week", "please cancel my booking for tomorrow evening"]
PROTECTED = ["how do i return the shoes that do not fit me", "what does delivery to the islands cost"]


def test_each_reason_is_given_and_counted() -> None:
    new = [
        "could you explain how gift cards are redeemed",
        "How do I return the shoes  that do not fit me?",
        "where is the parcel that i ordered last weekend",
        "",
        " \n",
        "x " * 200,
        "could you explain how gift cards are redeemed?",
        "is there a discount for students in summer",
    ]
    found = validate_new_requests(new, TRAIN, PROTECTED)
    assert found.kept == (0, 7)
    assert dict(found.refused) == {
        1: Refusal.PROTECTED,
        2: Refusal.TRAINING,
        3: Refusal.EMPTY,
        4: Refusal.EMPTY,
        5: Refusal.OVERLONG,
        6: Refusal.REPEATED,
    }
    assert found.counts == {
        Refusal.EMPTY: 2,
        Refusal.SHORT: 0,
        Refusal.OVERLONG: 1,
        Refusal.LANGUAGE: 0,
        Refusal.PROTECTED: 1,
        Refusal.TRAINING: 1,
        Refusal.REPEATED: 1,
    }


def test_a_protected_row_is_named_before_a_training_row() -> None:
    found = validate_new_requests([TRAIN[0]], TRAIN, [TRAIN[0] + "."])
    assert found.refused == ((0, Refusal.PROTECTED),)


def test_a_chain_through_training_rows_does_not_refuse_a_stranger() -> None:
    """Groups hold through others; a new request is refused for a pair alone."""
    words = [f"word{i}" for i in range(40)]
    chain = [" ".join([*(f"new{i}" for i in range(4 * j)), *words[4 * j :]]) for j in range(11)]
    assert set(near_duplicate_groups(chain).tolist()) == {0}
    found = validate_new_requests([chain[-1]], chain[:5], [chain[0]])
    assert found.kept == (0,)


def test_the_longest_that_is_allowed() -> None:
    text = "some words that are new to all " * 4
    assert validate_new_requests([text], ["abc"], []).kept == ()
    assert validate_new_requests([text], ["abc"], [], most_characters=500).kept == (0,)
    assert validate_new_requests([text], [], []).kept == (0,)
    assert validate_new_requests([], TRAIN, PROTECTED).kept == ()


def test_a_language_that_no_training_row_has_is_refused_however_often_it_comes() -> None:
    rng = random.Random(0)
    english = "where is my parcel order please cancel the booking for tomorrow refund card shoes late delivery"
    german = "warum wurde meine bestellung nicht geliefert ich warte schon seit vorgestern auf das paket"
    words, foreign = english.split(), german.split()
    train = [" ".join(rng.choices(words, k=9)) for _ in range(80)]
    new = [" ".join(rng.choices(foreign, k=12)) for _ in range(60)]
    new += ["где моя посылка которую я заказал на прошлой неделе", " ".join(rng.choices(words, k=10))]
    found = validate_new_requests(new, train, [])
    assert found.kept == (61,)
    assert found.counts[Refusal.LANGUAGE] == 61


def test_a_fragment_is_too_short_and_few_training_rows_say_nothing_of_language() -> None:
    assert validate_new_requests(["a b"], TRAIN, []).refused == ((0, Refusal.SHORT),)
    assert validate_new_requests(["wo ist denn das paket geblieben"], TRAIN, []).kept == (0,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*TRAIN, *PROTECTED, "a fresh request about something", "", "ok"]), max_size=8))
def test_every_request_is_kept_or_refused_once_and_none_kept_is_known(new: list[str]) -> None:
    found = validate_new_requests(new, TRAIN, PROTECTED)
    assert sorted([*found.kept, *(n for n, _ in found.refused)]) == list(range(len(new)))
    assert sum(found.counts.values()) == len(found.refused)
    kept = [new[i] for i in found.kept]
    assert len(set(kept)) == len(kept)
    assert not set(kept) & {*TRAIN, *PROTECTED, ""}


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_an_index_finds_what_is_similar_and_only_that(threshold: float) -> None:
    index = NearDuplicateIndex(threshold)
    assert index.find(TRAIN[0]) is None
    for text in [*PROTECTED, *TRAIN]:
        index.add(text)
    assert len(index) == 4
    assert index.find(TRAIN[1].upper()) == 3
    assert index.find("nothing of the kind") is None
    near = TRAIN[0].replace("last week", "on monday")
    assert (index.find(near) == 2) == (threshold == 0.5)
