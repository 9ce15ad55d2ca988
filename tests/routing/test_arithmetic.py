from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.routing.arithmetic import evaluate, find_sums, numbers_in


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("9 * $2 = $18", [True]),
        ("<<80000+50000=130000>>130,00", [True]),
        ("16 - 3 = 12 eggs", [False]),
        ("16 eggs - 3 eggs = 13 eggs", [True]),
        ("10 / 3 = 3.33", [True]),
        ("10 / 3 = 3.34", [False]),
        ("20% of 50 = 10", [True]),
        ("20% * 50 = 11", [False]),
        ("10 / 50 = 20%", [True]),
        ("(2 + 3) * 4 = 20, so 20 + 1 = 22", [True, False]),
        ("$1,200 + $300 = $1,500", [True]),
        ("3 x 4 = 12 and 12 \u00d7 2 = 25", [True, False]),
        ("x = 5", []),
        ("5 = 5", []),
        ("1 / 0 = 3", []),
        ("", []),
    ],
)
def test_sums_are_found_and_judged_to_the_digit_that_is_shown(text: str, right: list[bool]) -> None:
    assert [s.right for s in find_sums(text)] == right


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from("+-*/"))
def test_a_sum_of_two_numbers_is_what_python_makes_of_it(a: int, b: int, sign: str) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
    assert evaluate(f"{a} {sign} {b}") == pytest.approx(value)


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    for found in find_sums(text + "= 3" + text):
        assert isinstance(found.right, bool)


@pytest.mark.parametrize("text", ["7", "1 + + ", "import os", "2 ** 9", "1 + 2)"])
def test_what_is_no_sum_has_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_precedence_and_signs_are_those_of_arithmetic() -> None:
    assert evaluate("2 + 3 * 4 - 8 / 2") == 10
    assert evaluate("-(2 - 5) * 2") == 6
    assert numbers_in("1,200 pens at $2.50, 3 left") == [1200, 2.5, 3]
