"""Signals of answers: values of JSON have the tokens that spell them, labels the margin to the next label."""

from __future__ import annotations

import math

import pytest

from tiercel.engines.protocol import Generated, Token
from tiercel.flows.answer_confidence import FIRST_SIGNALS, answer_signals, field_logprobs, signal_names
from tiercel.types import Answer

JSON = '{"city": "New York", "days": [3, -1.5e2], "late": true, "note": null, "why": "a \\"quoted\\": one"}'


def tokens_of(*pieces: tuple[str, float]) -> tuple[Token, ...]:
    return tuple(Token(text=text, logprob=logprob) for text, logprob in pieces)


def told(text: str, tokens: tuple[Token, ...], finish: str = "stop") -> Generated:
    return Generated(
        answer=Answer(content=text), finish_reason=finish, input_tokens=1, output_tokens=len(tokens), tokens=tokens
    )


def test_a_value_has_the_tokens_that_spell_it_and_keys_have_none() -> None:
    tokens = tokens_of(
        ('{"city": "', -9.0),
        ("New", -1.0),
        (" York", -2.0),
        ('", "days": [', -0.25),
        ("3", -0.5),
        (", ", -9.0),
        ("-1.5", -0.125),
        ("e2", -0.125),
        ('], "late": ', -9.0),
        ("true", -4.0),
        (', "note": ', -9.0),
        ("null", -0.0),
        (', "why": ', -9.0),
        ('"a \\"quoted\\": one"', -3.0),
        ("}", -9.0),
    )
    # The quotes of a text are tokens of its neighbours here: they share a character with the value.
    assert field_logprobs(JSON, tokens) == [-9.0 - 1 - 2 - 0.25, -0.5, -0.25, -4.0, 0.0, -3.0]


def test_tokens_that_a_server_leaves_out_or_shows_as_nothing_move_no_value() -> None:
    text = '{"a": "東京", "b": 7}'
    tokens = tokens_of(
        (' {"a": ', -9.0), ('"', -0.5), ("\ufffd", -9.0), ("京", -0.5), ('", ', -0.5), ('"b": ', -9), ("7", -2)
    )
    assert field_logprobs(text, tokens) == [-1.5, -2.0]


@pytest.mark.parametrize("text", ["", "no JSON at all", "{}", '{"a": "broken off'])
def test_without_a_value_the_whole_answer_stands_for_it(text: str) -> None:
    tokens = tokens_of((text[:2], -1.0), (text[2:], -2.0))
    found = answer_signals(told(text, tokens))
    assert field_logprobs(text, tokens) == []
    assert found["weakest_field"] == found["mean_field"] == found["log_probability"] == -3.0


def test_the_weakest_and_the_mean_field_are_told_apart() -> None:
    tokens = tokens_of(('{"a": ', -1.0), ("1", -0.5), (', "b": ', -1.0), ("2", -3.5), ("}", -1.0))
    found = answer_signals(told('{"a": 1, "b": 2}', tokens))
    assert (found["weakest_field"], found["mean_field"], found["weakest_token"]) == (-3.5, -2.0, -3.5)


def test_quantiles_lie_between_the_weakest_token_and_the_middle() -> None:
    tokens = tokens_of(*((f"t{i}", -float(i)) for i in range(21)))
    found = answer_signals(told("x", tokens))
    assert (found["weakest_token"], found["tenth_token"], found["quarter_token"]) == (-20.0, -18.0, -15.0)


def label_told(*others: tuple[str, float]) -> float:
    token = Token(text="refund", logprob=-0.1, alternatives=tokens_of(("refund", -0.1), *others))
    return answer_signals(told("refund", (token,), "length"), ("refund", "praise", "account"))["label_margin"]


def test_a_labels_margin_is_to_the_next_label() -> None:
    assert label_told(("ref", -2.0), ("praise", -3.1), ("account", -5.0)) == pytest.approx(3.0)
    # No other label is among the alternatives: it is at least as far behind as the last of them.
    assert label_told(("ref", -2.0), ("the", -8.1)) == pytest.approx(8.0)
    assert label_told() == 0.0


@pytest.mark.parametrize("labels", [(), ("refund",)])
def test_what_was_not_answered_has_the_worst_of_each_signal(labels: tuple[str, ...]) -> None:
    found = answer_signals(None, labels)
    token = Token(text="x", logprob=-math.inf, alternatives=())
    assert set(found) == set(answer_signals(told("x", (token,)), labels))
    assert answer_signals(told("x", (token,)))["log_probability"] == found["log_probability"] == -30.0


def test_all_names_are_signals_and_the_first_rises_with_safety() -> None:
    known = {*answer_signals(None), "length", "familiarity", "sample_agreement"}
    for chosen in ({}, {"labels": True}, {"fields": True, "samples": True}):
        names = signal_names(**chosen)
        assert set(names) <= known
        assert len(set(names)) == len(names)
        assert names[0] == FIRST_SIGNALS[0] == "mean_logprob"
        assert "finished" in names
