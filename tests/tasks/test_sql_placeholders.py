from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tiercel.tasks.sql_placeholders import NAMES, Placeholders
from tiercel.tasks.sql_values import ColumnValues

STATES = ("Mississippi", "New York", "Ohio")
VALUES = ColumnValues(
    columns={
        "state": STATES,
        "border": STATES,
        "city": ("New York", "New York Mills", "O'Fallon", "usa"),
        "river": ("Mississippi", "Red"),
        "peak": ("Mount Red", "Mount Ohio"),
    },
    kinds={"state": "state", "border": "state", "city": "city", "river": "river", "peak": "peak"},
)
PLACEHOLDERS = Placeholders(VALUES)


def test_a_value_that_may_be_of_several_kinds_bears_them_all() -> None:
    request, query = PLACEHOLDERS.hide_row(
        "rivers in mississippi, or New York?", "SELECT r FROM t WHERE border IN ('Mississippi', 'New York')"
    )
    assert request == "rivers in river/state xa, or city/state xb?"
    assert query == "SELECT r FROM t WHERE border IN ('xa', 'xb')"


def test_the_longest_value_counts_and_keeps_its_name() -> None:
    hidden = PLACEHOLDERS.hide("is new york mills in new york, or New  York Mills in ohio")
    assert hidden.text == "is city xa in city/state xb, or city xa in state xc"


def test_a_value_is_put_back_as_its_column_spells_it() -> None:
    hidden = PLACEHOLDERS.hide("how high is mount red near o'fallon")
    assert hidden.text == "how high is peak xa near city xb"
    query = "SELECT h FROM p WHERE river = \"xa\" OR peak = 'xa' OR city = 'xb' OR name = 'xc' OR a LIKE '%xb%'"
    restored = PLACEHOLDERS.restore(query, hidden)
    assert restored == (
        "SELECT h FROM p WHERE river = \"Red\" OR peak = 'Mount Red' OR city = 'O''Fallon' OR name = 'xc' "
        "OR a LIKE '%O''Fallon%'"
    )
    assert PLACEHOLDERS.hide_row("how high is mount red near o'fallon", restored) == (hidden.text, query)


def test_words_that_requests_use_as_words_are_left_alone() -> None:
    requests = [f"{what} in the usa" for what in ("rivers", "states", "towns", "peaks", "lakes")] + ["size of ohio"]
    queries = ["SELECT 1"] * 5 + ["SELECT size FROM s WHERE state = 'Ohio'"]
    placeholders = PLACEHOLDERS.without_words(requests, queries)
    assert placeholders.hide("size of ohio in the usa").text == "size of state xa in the usa"
    assert PLACEHOLDERS.hide("size of ohio in the usa").text == "size of state xa in the city xb"
    # Four requests say too little.
    assert PLACEHOLDERS.without_words(requests[:4], queries[:4]).values.words == frozenset()


def test_a_name_that_the_request_has_as_a_word_is_passed_over() -> None:
    hidden = PLACEHOLDERS.hide("xa and xb in ohio")
    assert hidden.text == "xa and xb in state xc"
    assert PLACEHOLDERS.restore("SELECT a FROM t WHERE b = 'xa' AND state = 'xc'", hidden).endswith("state = 'Ohio'")


def test_more_values_than_names_are_read_as_they_stand() -> None:
    cities = tuple(f"town{letter}" for letter in "abcdefghij")
    many = Placeholders(ColumnValues(columns={"city": cities}, kinds={"city": "city"}))
    hidden = many.hide(" ".join(cities))
    assert tuple(hidden.values) == NAMES
    assert hidden.text.endswith("city xh towni townj")


def test_values_come_through_a_file() -> None:
    values = msgspec.structs.replace(VALUES, words=frozenset({"usa"}))
    assert msgspec.json.decode(msgspec.json.encode(values), type=ColumnValues) == values


@given(st.lists(st.sampled_from([*STATES, "Red", "mount red", "and", "'", "xa", "?"]), max_size=12), st.data())
def test_a_query_comes_back_as_it_was(words: list[str], data: st.DataObject) -> None:
    request = " ".join(words)
    named = [w for w in words if w in STATES] or ["Ohio"]
    value = data.draw(st.sampled_from(named))
    query = f"SELECT a FROM t WHERE state = '{value}' AND b = 'left'"
    text, hidden_query = PLACEHOLDERS.hide_row(request, query)
    hidden = PLACEHOLDERS.hide(request)
    assert hidden.text == text
    assert PLACEHOLDERS.restore(hidden_query, hidden) == query
