from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.alignment import aligned

_TOKENS = st.lists(st.sampled_from(["a", "b", "c", " ", "\n"]), max_size=16)


def _longest(ours: list[str], others: list[str]) -> int:
    """Length of the longest common subsequence, by the table of all beginnings."""
    row = [0] * (len(others) + 1)
    for x in ours:
        before = row[:]
        for j, y in enumerate(others):
            row[j + 1] = before[j] + 1 if x == y else max(row[j], before[j + 1])
    return row[-1]


@settings(max_examples=300)
@given(_TOKENS, _TOKENS)
def test_as_many_words_are_shared_as_can_be_and_in_order(mine: list[str], theirs: list[str]) -> None:
    pairs = aligned(mine, theirs, 100)
    assert all(mine[i] == theirs[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    ours, others = ([t for t in side if not t.isspace()] for side in (mine, theirs))
    shared = [i for i, _ in pairs if not mine[i].isspace()]
    assert len(shared) == _longest(ours, others)
    left_out = len(ours) + len(others) - 2 * len(shared)
    assert aligned(mine, theirs, left_out) == pairs
    assert left_out == 0 or aligned(mine, theirs, left_out - 1) == []


def test_a_variable_equals_nothing() -> None:
    assert aligned(["a", None, "b"], ["a", "x", "b"], 5) == [(0, 0), (2, 2)]


def test_blanks_go_with_the_words_beside_them() -> None:
    pairs = aligned(["to", " ", "Ada", " ", "now"], ["to", " ", "Bob", "\n", "now"], 5)
    assert pairs == [(0, 0), (1, 1), (4, 4)]
