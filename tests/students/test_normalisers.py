from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.students.normalisers import NORMALISERS, NOTHING, normalise


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "1,200.50", 1200.5),
        ("number", "$1,200", 1200),
        ("number", "two hundred", 200),
        ("number", "three hundred and twelve", 312),
        ("number", "twenty-one", 21),
        ("number", "two million five hundred thousand", 2_500_000),
        ("number", "a hundred", 100),
        ("number", "3rd", 3),
        ("number", "third", 3),
        ("number", "5k", 5000),
        ("number", "1.5k", 1500),
        ("number", "-4", -4),
        ("number", "book", NOTHING),
        ("number", "", NOTHING),
        ("number_text", "two", "2"),
        ("share", "15%", 0.15),
        ("share", "15 percent", 0.15),
        ("share", "15", NOTHING),
        ("iso_date", "May 3rd, 2024", "2024-05-03"),
        ("iso_date", "3 may 2024", "2024-05-03"),
        ("iso_date", "the 3rd of May", NOTHING),
        ("iso_date", "2024-5-3", "2024-05-03"),
        ("iso_date", "Mayor 3, 2024", NOTHING),
        ("clock", "7 pm", "19:00"),
        ("clock", "7:30 p.m.", "19:30"),
        ("clock", "12 am", "00:00"),
        ("clock", "19:05", "19:05"),
        ("clock", "25:00", NOTHING),
        ("clock", "13 pm", NOTHING),
        ("truth", "yes", True),
        ("truth", "without", False),
        ("truth", "perhaps", NOTHING),
        ("title", "new york", "New York"),
        ("underscores", "New  York", "new_york"),
        ("same", " As it is ", " As it is "),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    made = normalise(name, text)
    assert made is value or (made == value and type(made) is type(value))


@given(st.sampled_from(sorted(NORMALISERS)), st.text(max_size=40))
def test_any_text_gives_a_json_value_or_nothing(name: str, text: str) -> None:
    made = normalise(name, text)
    if made is not NOTHING:
        assert json.loads(json.dumps(made)) == made


@given(st.integers(0, 10**9))
def test_numbers_written_with_commas_are_read_back(value: int) -> None:
    assert normalise("number", f"{value:,}") == value
