from __future__ import annotations

import json
import pickle
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.test_personal_data import TEXTS, Names
from tiercel.datasets.personal_data import KINDS, Span
from tiercel.datasets.redaction import Mode, Redactor, Session, StreamRestorer
from tiercel.errors import ConfigurationError

ALL = Redactor(KINDS)


def session_of(*texts: str) -> Session:
    session = Redactor().session()
    for text in texts:
        session.redact(text)
    return session


def test_each_distinct_value_gets_one_placeholder_of_its_kind() -> None:
    session = Redactor().session()
    text = "ada@example.org wrote to bob@example.org and to ada@example.org from 81.2.69.142"
    assert session.redact(text) == "<EMAIL_1> wrote to <EMAIL_2> and to <EMAIL_1> from <IP_1>"
    assert session.redact("cc bob@example.org") == "cc <EMAIL_2>"
    assert session.counts == {"email": 2, "ip": 1}


def test_a_value_is_hidden_also_where_nothing_near_says_what_it_is() -> None:
    session = Redactor().session()
    assert session.redact("Phone 467 3395 is right") == "Phone <PHONE_1> is right"
    assert session.redact("467 3395, not 467 33951 or 1467 3395") == "<PHONE_1>, not 467 33951 or 1467 3395"


@given(TEXTS)
def test_what_was_taken_out_of_any_text_can_be_put_back(text: str) -> None:
    session = ALL.session()
    assert session.restore(session.redact(text)) == text


@given(TEXTS)
def test_redacting_twice_changes_nothing(text: str) -> None:
    session = ALL.session()
    once = session.redact(text)
    assert session.redact(once) == once
    assert ALL.session().redact(once) == once


@given(TEXTS)
def test_no_value_that_was_found_is_left_in_the_text(text: str) -> None:
    session = ALL.session()
    redacted = session.redact(text)
    for placeholder in session.placeholders:
        value = session.restore(placeholder)
        bare = re.sub(r"<[A-Z_]+_\d+>", "\0", redacted)
        assert not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", bare)


@given(TEXTS, st.lists(st.integers(0, 80), max_size=8), st.booleans())
def test_a_stream_cut_anywhere_is_put_together_as_the_whole_would_be(text: str, cuts: list[int], as_json: bool) -> None:
    session = ALL.session()
    sent = session.redact(text)
    if as_json:
        sent = json.dumps({"to": sent})
    places = [0, *sorted(min(c, len(sent)) for c in cuts), len(sent)]
    restorer = StreamRestorer(session, json=as_json)
    got = "".join(restorer.feed(sent[a:b]) for a, b in pairwise(places)) + restorer.close()
    assert (json.loads(got)["to"] if as_json else got) == text


def test_no_more_is_held_than_the_beginning_of_a_placeholder() -> None:
    restorer = StreamRestorer(session_of("ada@example.org"))
    assert [restorer.feed(d) for d in ("a <", "E", "MAIL", "_1", "> b <", "B", " < EMAIL <EMAIL_", "2>")] == [
        "a ",
        "",
        "",
        "",
        "ada@example.org b ",
        "<B",
        " < EMAIL ",
        "<EMAIL_2>",
    ]
    assert restorer.feed("<EMA") == ""
    assert restorer.close() == "<EMA"
    assert restorer.close() == ""


def test_values_are_escaped_where_they_go_into_json() -> None:
    session = Redactor(["secret"]).session()
    value = "-----BEGIN PRIVATE KEY-----\nMIIEowaB3dE5gH7jK9mN1pQ2rS4tU\n-----END PRIVATE KEY-----"
    assert session.redact(value) == "<SECRET_1>"
    for arguments in ('{"k": "<SECRET_1>"}', '{"k": "\\u003cSECRET_1\\u003e"}', '{"k": "\\u003CSECRET_1\\u003E"}'):
        assert json.loads(session.restore_json(arguments)) == {"k": value}
        for cut in range(len(arguments)):
            restorer = StreamRestorer(session, json=True)
            parts = restorer.feed(arguments[:cut]), restorer.feed(arguments[cut:]), restorer.close()
            assert json.loads("".join(parts)) == {"k": value}
    escaped = '{"k": "\\\\u003cSECRET_1>"}'
    assert session.restore_json(escaped) == escaped


def test_a_placeholder_that_the_text_brought_along_is_not_given_out() -> None:
    session = Redactor().session()
    text = "Write <EMAIL_1> for ada@example.org, and EMAIL_2 too"
    redacted = session.redact(text)
    assert redacted == "Write <EMAIL_1> for <EMAIL_3>, and EMAIL_2 too"
    assert session.restore(redacted) == text


def test_only_the_exact_placeholder_is_put_back() -> None:
    session = session_of("ada@example.org")
    for text in ("EMAIL_1", "<email_1>", "<EMAIL_01>", "<EMAIL_2>", "< EMAIL_1>", "[EMAIL_1]"):
        assert session.restore(text) == text
    assert session.restore("<<EMAIL_1>>") == "<ada@example.org>"


def test_a_value_that_reads_like_a_placeholder_is_not_put_back_twice() -> None:
    class Tricky:
        name, kinds = "tricky", ("x",)

        def find(self, text: str) -> list[Span]:
            return [Span(start=0, end=len(text), kind="x")] if text == "boo <EMAIL_1> far" else []

    session = Redactor(["x", "email"], [Tricky()]).session()
    redacted = session.redact("boo <EMAIL_1> far")
    assert redacted == "<X_1><EMAIL_1><X_2>"
    assert session.restore(redacted) == "boo <EMAIL_1> far"


def test_a_recogniser_is_taken_by_name_too() -> None:
    redactor = Redactor(recognisers=[f"{Names.__module__}:Names"])
    assert redactor.session().redact("Ada Lovelace: ada@example.org") == "<PERSON_1>: <EMAIL_1>"
    with pytest.raises(ConfigurationError, match="unknown kind"):
        Redactor(["person"])


def test_a_session_shows_no_value_and_is_not_pickled() -> None:
    session = session_of("ada@example.org, card 4111111111111111")
    restorer = StreamRestorer(session)
    restorer.feed("<EMAIL_1")
    shown = repr(session) + str(session) + repr(restorer) + f"{session.redact('x')}"
    assert "ada" not in shown and "4111" not in shown
    assert "email: 1" in repr(session)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(session)


def test_nothing_can_be_put_back_once_it_is_forgotten() -> None:
    session = session_of("ada@example.org")
    session.forget()
    assert session.restore("<EMAIL_1>") == "<EMAIL_1>"
    assert session.counts == {"email": 1}
    assert Redactor(mode=Mode("one-way")).mode is Mode.ONE_WAY


def test_the_key_that_a_value_stands_under_tells_what_it_is() -> None:
    session = Redactor().session()
    assert session.redact("3660170548", "phone") == "<PHONE_1>"
    assert session.redact("8005550100 7", "total") == "8005550100 7"
    assert session.redact("ada@example.org", "bob@example.org") == "<EMAIL_1>"
