from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.near_duplicates import near_duplicate_groups, shingles

WORDS = [
    f"{a}{b}" for a in ("order", "parcel", "refund", "card", "account", "lost") for b in ("", "ed", "ing", "s", "er")
]


def _pieces(text: str) -> set[bytes]:
    data = " ".join(text.lower().split()).encode().ljust(5)
    return {data[i : i + 5] for i in range(len(data) - 4)}


def _similarity(a: str, b: str) -> float:
    one, two = _pieces(a), _pieces(b)
    return len(one & two) / len(one | two)


def _parts(groups: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(groups == g).tolist() for g in np.unique(groups)]


def _sentence(rng: np.random.Generator, words: int = 14) -> list[str]:
    return rng.choice(WORDS, words).tolist()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_shingles_are_the_distinct_runs_of_five_bytes(text: str) -> None:
    found = shingles(text)
    assert {int(v).to_bytes(5, "big") for v in found} == _pieces(text)
    assert found.tolist() == sorted(set(found.tolist()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(WORDS[:8]), min_size=1, max_size=6).map(" ".join) | st.text(max_size=12), max_size=10
    ),
    st.sampled_from([0.5, 0.7, 0.9]),
)
def test_groups_are_held_together_by_pairs_that_are_truly_similar(texts: list[str], threshold: float) -> None:
    """Whatever MinHash proposes, brute force confirms; equal texts are never parted."""
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    groups = near_duplicate_groups(texts, threshold)
    assert len(groups) == len(texts)
    for part in _parts(groups):
        assert groups[part[0]] == part[0]
        reached, left = {part[0]}, set(part[1:])
        while left:
            near = {i for i in left if any(_similarity(texts[i], texts[j]) >= threshold for j in reached)}
            assert near, f"{[texts[i] for i in left]} are tied to nothing in their group"
            reached |= near
            left -= near
    for i, text in enumerate(texts):
        first = next(j for j, t in enumerate(texts) if _pieces(t) == _pieces(text))
        assert groups[i] == groups[first]


def test_nearly_all_pairs_above_the_threshold_are_found() -> None:
    rng = np.random.default_rng(51)
    found = above = 0
    for _ in range(150):
        words = _sentence(rng)
        changed = [*words]
        changed[int(rng.integers(len(words)))] = "something"
        pair = [" ".join(words), " ".join(changed)]
        if _similarity(*pair) >= 0.7:
            above += 1
            found += len(_parts(near_duplicate_groups(pair))) == 1
    assert above > 80
    assert found / above > 0.96


def test_a_chain_of_small_changes_is_one_group_and_strangers_are_none() -> None:
    rng = np.random.default_rng(52)
    words = _sentence(rng, 30)
    chain = [" ".join(words)]
    for i in range(10):
        words = [*words[: i * 3], "changed", *words[i * 3 + 1 :]]
        chain.append(" ".join(words))
    strangers = ["Where is my parcel?", "Please close my account today.", "", "ok"]
    groups = near_duplicate_groups([strangers[0], *chain, *strangers[1:]])
    assert groups.tolist() == [0, *[1] * 11, 12, 13, 14]
    assert _similarity(chain[0], chain[-1]) < 0.7


@pytest.mark.parametrize("other", ["WHERE  is my\n parcel? ", "where is my parcel?"])
def test_case_and_blanks_do_not_matter(other: str) -> None:
    assert near_duplicate_groups(["Where is my parcel?", other]).tolist() == [0, 0]


def test_no_texts_and_empty_texts() -> None:
    assert near_duplicate_groups([]).tolist() == []
    assert near_duplicate_groups(["", " ", "x"]).tolist() == [0, 0, 2]


def test_long_texts_that_agree_so_far_are_duplicates_and_cost_no_more() -> None:
    text = "some words " * 30_000
    assert near_duplicate_groups([text, text + " and an end", "other"]).tolist() == [0, 0, 2]
    assert len(shingles(np.random.default_rng(53).bytes(300_000).hex())) <= 20_000
