from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.tasks.labels import LabelSet, label_key, split_labels

SEPARATORS = ["json", ", ", "; ", " | ", "\n"]
_LABEL = st.text(st.characters(codec="utf-8", exclude_characters=",;|\n\r[]"), min_size=1, max_size=12)
_LABELS = st.lists(
    _LABEL.filter(lambda label: label.strip() and label_key(label)), min_size=1, max_size=8, unique_by=label_key
)


@settings(max_examples=80, deadline=None)
@given(_LABELS, st.data())
def test_one_label_is_parsed_from_what_is_rendered(labels: list[str], data: st.DataObject) -> None:
    found = LabelSet(labels=tuple(labels))
    number = data.draw(st.integers(0, len(labels) - 1))
    assert found.parse(found.render([number])) == (number,)


@settings(max_examples=120, deadline=None)
@given(_LABELS, st.sampled_from(SEPARATORS), st.data())
def test_several_labels_are_parsed_from_what_is_rendered(
    labels: list[str], separator: str, data: st.DataObject
) -> None:
    found = LabelSet(labels=tuple(labels), multi=True, separator=separator)
    numbers = data.draw(st.lists(st.integers(0, len(labels) - 1), unique=True))
    assert found.parse(found.render(numbers)) == tuple(sorted(numbers))


def test_an_answer_is_read_without_case_quotes_emphasis_and_closing_punctuation() -> None:
    found = LabelSet(labels=("Refund", "card  lost"))
    for text in ("refund", " REFUND.", '"Refund"', "**refund**", "`refund`!", "refund:\n"):
        assert found.parse(text) == (0,), text
    assert found.parse("Card lost") == (1,)
    for text in ("refunds", "refund please", "", "refund, card lost"):
        assert found.parse(text) is None, text


def test_blanks_of_every_kind_around_an_answer_are_set_aside() -> None:
    found = LabelSet(labels=("refund",))
    for text in ("refund\u00a0", "\u2003refund", "\x0brefund\f", "refund.\u00a0\n"):
        assert found.parse(text) == (0,), ascii(text)


def test_one_unknown_label_among_several_makes_the_answer_unknown() -> None:
    found = LabelSet(labels=("a", "b", "c"), multi=True)
    assert found.parse("c, A.") == (0, 2)
    assert found.parse("b, b,") == (1,)
    assert found.parse("a, d") is None
    assert found.parse("") == ()


def test_a_json_list_of_labels() -> None:
    found = LabelSet(labels=("größe", "a, b"), multi=True, separator="json")
    assert found.render([1, 0]) == '["a, b", "größe"]'
    assert found.parse(json.dumps(["GRÖSSE", "a, b"])) == (0, 1)
    assert found.parse("größe") == (0,)
    assert found.parse('["größe"') is None
    assert found.parse("[]") == ()


@pytest.mark.parametrize("separator", SEPARATORS[1:])
def test_parts_are_split_with_blanks_around_the_separator_or_none(separator: str) -> None:
    bare = separator.strip(" ")
    assert [p.strip() for p in split_labels(f"a{bare}b {bare}  c", separator)] == ["a", "b", "c"]


def test_targets_are_zero_and_one_and_nan_where_an_answer_does_not_parse() -> None:
    targets = LabelSet(labels=("a", "b", "c"), multi=True).targets(["b, c", "nonsense", ""])
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[0, 1, 1], [np.nan] * 3, [0, 0, 0]])


def test_the_decision_is_the_likeliest_label_or_all_at_one_half() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.5, 0.6, 0.49]])
    one, several = LabelSet(labels=("a", "b", "c")), LabelSet(labels=("a", "b", "c"), multi=True)
    np.testing.assert_array_equal(one.decide(p), [[0, 1, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(several.decide(p), [[0, 1, 0], [0, 0, 1], [1, 1, 0]])
