from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.datasets.personal_data import (
    DEFAULT_KINDS,
    GROUPS,
    KINDS,
    Span,
    find,
    load_recogniser,
    resolve,
    resolve_kinds,
)
from tiercel.datasets.personal_data_text import fold
from tiercel.errors import ConfigurationError

FULL_WIDTH = "4111111111111111".translate({digit: digit + 0xFEE0 for digit in range(48, 58)})
PIECES = st.sampled_from(
    [
        "a@b.co",
        "4111111111111111",
        "phone",
        "+44",
        ".",
        "-",
        "(",
        ")",
        "020",
        "7946",
        "0958",
        "192.168.3.4",
        "fe80::1",
        "::",
        "https://x.io/a",
        "www.",
        "sk-",
        "password:",
        "hunter2x",
        "DE89370400440532013000",
        "460-89-9847",
        "\uff11\uff12\uff13",
        "\u200b",
        "é",
        "电话",
        "-",
        "/",
        "\n",
        "<",
        ">",
        "<EMAIL_1>",
        "born",
        "1.2.1980",
        "eyJ",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join) | st.text(max_size=60)


class Names:
    """Finds Ada and, as a whole, Ada Lovelace."""

    name = "names"
    kinds = ("person",)

    def find(self, text: str) -> list[Span]:
        return [
            Span(start=text.find(name), end=text.find(name) + len(name), kind=kind)
            for name, kind in (("Ada", "person"), ("Ada Lovelace", "person"), ("Ada", "unasked"))
            if name in text
        ]


class NoRecogniser:
    pass


def found(text: str, *kinds: str) -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end]) for s in find(text, kinds or KINDS)]


def test_several_kinds_in_one_text_come_in_order() -> None:
    text = "Ada <ada@example.org>, +44 20 7946 0958, from 81.2.69.142; card 4111 1111 1111 1111. See https://x.example/a?b=1."
    assert found(text) == [
        ("email", "ada@example.org"),
        ("phone", "+44 20 7946 0958"),
        ("ip", "81.2.69.142"),
        ("card", "4111 1111 1111 1111"),
        ("url", "https://x.example/a?b=1"),
    ]


def test_only_the_kinds_asked_for_are_found() -> None:
    text = "ada@example.org, 81.2.69.142, 460-89-9847"
    assert found(text, "ip") == [("ip", "81.2.69.142")]
    assert found(text, "national_id") == [("us_ssn", "460-89-9847")]
    assert find("https://example.org/page") == []
    assert "url" not in DEFAULT_KINDS


@pytest.mark.parametrize(
    "text",
    [
        f"card {FULL_WIDTH}",
        "card ٤١١١١١١١١١١١١١١١",
        "card 4111\u200b1111\u200b1111\u200b1111",
        "card 4111\u00a01111\u00a01111\u00a01111",
        "card 4111\u20131111\u20131111\u20131111",
        "卡号4111111111111111谢谢",
    ],
)
def test_a_card_is_found_however_its_characters_are_disguised(text: str) -> None:
    (span,) = find(text)
    assert span.kind == "card"
    folded = fold(text[span.start : span.end]).text
    assert "".join(c for c in folded if c.isdigit()) == "4111111111111111"


def test_hidden_characters_around_a_value_are_not_part_of_it() -> None:
    text = "to\u200b \u2060ada@exa\u200bmple.org\u200b!"
    assert found(text) == [("email", "ada@exa\u200bmple.org")]


def test_a_decomposed_letter_in_an_address_is_part_of_it() -> None:
    assert found("jose\u0301@example.org") == [("email", "jose\u0301@example.org")]
    assert found("我的邮箱是ada@example.org\uff0c谢谢") == [("email", "ada@example.org")]


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("born on 12/3/1980 in York", "12/3/1980"),
        ("DOB: 1980-03-12", "1980-03-12"),
        ("date of birth is March 12th, 1980", "March 12th, 1980"),
        ("geboren am 12.3.1980", "12.3.1980"),
    ],
)
def test_a_date_is_personal_where_a_word_calls_it_a_birth(text: str, date: str) -> None:
    assert found(text) == [("date_of_birth", date)]
    assert found(f"The shop opened on {date}.") == []


def test_of_overlapping_spans_the_longest_stays_then_the_more_specific() -> None:
    spans = [
        Span(start=0, end=9, kind="phone"),
        Span(start=0, end=9, kind="us_ssn"),
        Span(start=20, end=40, kind="url"),
        Span(start=25, end=30, kind="email"),
        Span(start=38, end=44, kind="ip"),
    ]
    assert [(s.start, s.kind) for s in resolve(spans)] == [(0, "us_ssn"), (20, "url")]
    assert found("https://ada@example.org/x", "url", "email") == [("url", "https://ada@example.org/x")]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.sampled_from(KINDS)), max_size=20))
def test_no_two_resolved_spans_overlap_and_each_span_left_out_overlaps_one(drawn: list[tuple[int, int, str]]) -> None:
    spans = [Span(start=a, end=a + n, kind=k) for a, n, k in drawn]
    kept = resolve(spans)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    assert all(s in kept or any(s.start < k.end and k.start < s.end for k in kept) for s in spans)


@given(TEXTS)
def test_spans_of_any_text_lie_in_it_in_order_without_overlap(text: str) -> None:
    spans = find(text, KINDS)
    assert all(0 <= s.start < s.end <= len(text) and s.kind in KINDS and 0 < s.score <= 1 for s in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))


def test_a_recogniser_adds_its_kinds_and_is_held_to_what_was_asked() -> None:
    text = "Ada Lovelace, ada@example.org"
    assert [(s.kind, s.start, s.end) for s in find(text, recognisers=[Names()])] == [
        ("person", 0, 12),
        ("email", 14, 29),
    ]
    assert find(text, ["phone"], [Names()]) == []
    with pytest.raises(ConfigurationError, match="'person'"):
        find(text, ["person"])


def test_a_recogniser_is_named_by_module_and_class() -> None:
    assert load_recogniser(f"{__name__}:Names").kinds == ("person",)
    for reference, message in {
        "nothing": "module:Class",
        "no.such.module:Names": "can't be loaded",
        f"{__name__}:Missing": "can't be loaded",
        f"{__name__}:NoRecogniser": "is no recogniser",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            load_recogniser(reference)


def test_groups_stand_for_their_kinds() -> None:
    assert resolve_kinds(["national_id", "email"]) == {*GROUPS["national_id"], "email"}
    assert resolve_kinds(["all"]) == set(KINDS)
    with pytest.raises(ConfigurationError, match=r"known: .*us_ssn"):
        resolve_kinds(["ssn"])


def test_a_span_does_not_show_what_it_covers() -> None:
    assert "ada" not in repr(find("ada@example.org"))
