from __future__ import annotations

import math

import pytest

from tests.conftest import calling, example
from tiercel.providers import recordings
from tiercel.providers.recordings import Question, Recordings, question_key
from tiercel.types import Answer, Example, Message, Response

HELLO = (Message(role="user", content="hello"),)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def ask(*messages: Message, **more: object) -> Question:
    return Question(messages=messages or HELLO, **more)  # type: ignore[arg-type]


class TestKey:
    @pytest.mark.parametrize(
        "other",
        [
            ask(Message(role="user", content="hello ")),
            ask(Message(role="system", content="hello")),
            ask(Message(role="system", content="x"), *HELLO),
            ask(*HELLO, *HELLO),
            ask(tools=[TOOL]),
            ask(response_format={"type": "json_object"}),
            ask(Message(role="user", content=[{"type": "image_url", "image_url": {"url": "data:"}}])),
        ],
    )
    def test_what_is_asked_otherwise_has_another_key(self, other: Question) -> None:
        assert question_key(other) != question_key(ask())

    @pytest.mark.parametrize(
        "same",
        [
            ask(Message(role="user", content=[{"type": "text", "text": "hello"}])),
            ask(tools=[]),
            ask(response_format={"type": "text"}),
            ask(model="any"),
        ],
    )
    def test_what_is_asked_in_other_words_has_the_same_key(self, same: Question) -> None:
        assert question_key(same) == question_key(ask())

    def test_the_order_of_keys_and_ids_of_calls_do_not_count(self) -> None:
        def told(arguments: str, id_: str) -> Question:
            (call,) = calling(("f", arguments)).tool_calls
            call = type(call)(function=call.function, id=id_)
            return ask(
                Message(role="assistant", tool_calls=(call,)),
                tools=[TOOL, {"type": "function", "function": {"parameters": {}, "name": "g"}}],
            )

        assert question_key(told('{"a": 1, "b": 2}', "x")) == question_key(told('{"b":2,"a":1}', "y"))
        assert question_key(told('{"a": 1}', "x")) != question_key(told('{"a": 2}', "x"))
        assert question_key(told("no json", "x")) != question_key(told("other", "x"))


class TestRecordings:
    def test_the_first_of_several_answers_counts(self) -> None:
        found = Recordings([example("hello", "one"), example("hello", "two")]).find(ask())
        assert found is not None
        assert found.answer.content == "one"

    def test_rows_without_any_answer_are_left_out(self) -> None:
        assert len(Recordings([example("hello"), example("hello", responses=(Response(model="m"),))])) == 0

    def test_a_reference_is_played_where_nothing_else_is(self) -> None:
        found = Recordings([example("hello", reference=Answer(content="right"))]).find(ask())
        assert found is not None
        assert found.answer.content == "right"

    def test_each_model_plays_its_own_answer_and_latency(self) -> None:
        rows = [
            example(
                "hello",
                "big",
                model="b",
                responses=(Response(model="s", content="small", latency_s=0.5), Response(model="b", latency_s=2.0)),
            )
        ]
        played = Recordings(rows)
        assert played.models == ["b", "s"]
        for model, content, latency in (("b", "big", 2.0), ("s", "small", 0.5), (None, "big", 2.0), ("x", "big", 2.0)):
            found = played.find(ask(model=model))
            assert found is not None
            assert (found.answer.content, found.latency_s) == (content, latency)

    @pytest.mark.parametrize("told", ["soon", None, -1, math.nan, math.inf])
    def test_a_latency_that_can_not_be_is_none(self, told: object) -> None:
        found = Recordings([example("hello", "hi", metadata={"latency_s": told})]).find(ask())
        assert found is not None
        assert found.latency_s == 0

    def test_the_last_user_message_is_enough(self) -> None:
        played = Recordings([Example(id="1", messages=HELLO, tools=[TOOL], answer=Answer(content="hi"))])
        assert played.find(ask()) is not None
        assert played.find(ask(Message(role="user", content="bye"))) is None
        assert played.first(ask(Message(role="user", content="bye"))) is not None


def test_the_public_names() -> None:
    assert recordings.__all__ == ["Question", "Recorded", "Recordings", "question_key"]
