from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.tasks.sql_results import same_rows

_CELL = st.none() | st.integers(-3, 3) | st.floats(-10, 10) | st.text("ab", max_size=2) | st.binary(max_size=2)


@st.composite
def _tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    width = draw(st.integers(1, 3))
    return draw(st.lists(st.tuples(*[_CELL] * width), max_size=6))


@pytest.mark.parametrize(
    ("got", "wanted", "same"),
    [
        ([], [], True),
        ([], [(1,)], False),
        ([(1,)], [(1,), (1,)], False),
        ([(1, "a")], [(1,)], False),
        ([(None,)], [(None,)], True),
        ([(None,)], [(0,)], False),
        ([("1",)], [(1,)], False),
        ([(1,)], [(1.0,)], True),
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(100.0,)], [(100.001,)], False),
        ([(2**53 + 1,)], [(2**53,)], False),
        ([(math.nan,)], [(math.nan,)], True),
        ([(math.inf,)], [(-math.inf,)], False),
        ([(Decimal("1.50"),)], [(1.5,)], True),
        ([(Decimal(10) ** 20,)], [(10**20,)], True),
        ([("a", 1), ("b", 2)], [("a", 2), ("b", 1)], False),
        ([(1, "a")], [("a", 1)], False),
        ([([1, {"b": 2}],)], [([1, {"b": 2}],)], True),
        ([(b"x",)], [("x",)], False),
    ],
)
def test_what_is_the_same_result(got: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]], same: bool) -> None:
    assert same_rows(got, wanted, ordered=False) is same
    assert same_rows(got, wanted, ordered=True) is same
    assert same_rows(wanted, got, ordered=False) is same


def test_order_counts_only_when_it_is_asked_for() -> None:
    rows = [(1, "a"), (2, "b"), (2, "b")]
    assert same_rows(rows[::-1], rows, ordered=False)
    assert not same_rows(rows[::-1], rows, ordered=True)


def test_numbers_that_nearly_tie_find_their_partners() -> None:
    ours = [(1.0, 5), (1.0 + 1e-9, 3)]
    theirs = [(1.0 + 1e-9, 5), (1.0, 3)]
    assert same_rows(ours, theirs, ordered=False)
    assert not same_rows(ours, [(1.0, 5), (1.0, 4)], ordered=False)


@settings(max_examples=150, deadline=None)
@given(_tables(), st.randoms(use_true_random=False), st.floats(-1e-9, 1e-9))
def test_shuffled_and_slightly_rounded_rows_are_the_same_and_one_changed_cell_is_not(
    rows: list[tuple[Any, ...]], rng: Any, rounding: float
) -> None:
    moved = [tuple(c + rounding if isinstance(c, float) else c for c in row) for row in rows]
    rng.shuffle(moved)
    assert same_rows(moved, rows, ordered=False)
    if rows:
        spoilt = [*moved[:-1], (*moved[-1][:-1], "another value")]
        assert not same_rows(spoilt, rows, ordered=False)
