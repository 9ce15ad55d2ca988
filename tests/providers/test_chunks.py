from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.providers.chats import Json, anything, broken, completions, few, pieces_of
from tiercel.errors import UnreadableAnswerError
from tiercel.providers.chunks import assemble, chunks_of


def chunk(delta: Json, finish: str | None = None, index: int = 0, **more: Any) -> Json:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | more


def call(index: int | None, arguments: str | None = None, **more: Any) -> Json:
    function = {"arguments": arguments} if arguments is not None else {}
    name = {"name": more.pop("name")} if "name" in more else {}
    return ({} if index is None else {"index": index}) | more | {"function": function | name}


def calls_of(*deltas: list[Json]) -> list[tuple[str, str, str]]:
    whole = assemble([chunk({"tool_calls": d}) for d in deltas])
    found = whole["choices"][0]["message"]["tool_calls"]
    return [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in found]


@few
@given(completions(3))
def test_a_completion_taken_apart_and_put_together_is_the_same(completion: Json) -> None:
    chunks = list(chunks_of(completion))
    assert assemble(chunks) == completion
    for part in chunks:
        ChatCompletionChunk.model_validate(part)
    ChatCompletion.model_validate(completion)


@few
@given(completions())
def test_usage_comes_only_where_it_is_asked_for(completion: Json) -> None:
    assert all("usage" not in part for part in chunks_of(completion, include_usage=False))
    assert [part["usage"] for part in chunks_of(completion)][-1] == completion["usage"]


@few
@given(completions(), st.lists(st.integers(0, 40), max_size=6))
def test_how_a_text_is_cut_makes_no_difference(completion: Json, cuts: list[int]) -> None:
    finer = []
    for part in chunks_of(completion):
        deltas = [c["delta"] for c in part["choices"]]
        text = deltas[0].get("content") if deltas else None
        if not text or part["choices"][0]["logprobs"]:
            finer.append(part)
            continue
        choice = part["choices"][0]
        finer += [part | {"choices": [choice | {"delta": {"content": p}}]} for p in pieces_of(text, cuts)]
    assert assemble(finer) == completion


def test_thinking_blocks_are_kept_each_behind_its_text() -> None:
    blocks = [
        {"type": "thinking", "thinking": "one ", "signature": "a"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "two", "signature": "b"},
    ]
    message = {"role": "assistant", "content": "c", "reasoning_content": "one two", "thinking_blocks": blocks}
    completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    completion["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    chunks = list(chunks_of(completion))
    assert assemble(chunks) == completion
    deltas = [part["choices"][0]["delta"] for part in chunks]
    assert [d.get("reasoning_content") or d.get("thinking_blocks", [{}])[0].get("signature") for d in deltas[1:6]] == [
        *("one ", "a", None, "two", "b"),
    ]


class TestToolCalls:
    def test_pieces_are_joined_by_index(self) -> None:
        assert calls_of(
            [call(0, "", id="a", name="f"), call(1, "", id="b", name="g")],
            [call(1, '{"y"')],
            [call(0, '{"x":1}')],
            [call(1, ":2}")],
        ) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]

    def test_a_provider_that_numbers_every_call_0_still_has_several(self) -> None:
        assert calls_of([call(0, "{}", id="a", name="f")], [call(0, "{}", id="b", name="f")]) == [
            ("a", "f", "{}"),
            ("b", "f", "{}"),
        ]

    def test_a_provider_without_numbers_has_several(self) -> None:
        assert calls_of(
            [call(None, "{", id="a", name="f")], [call(None, "}")], [call(None, "{}", id="b", name="g")]
        ) == [
            ("a", "f", "{}"),
            ("b", "g", "{}"),
        ]

    def test_a_new_id_without_a_name_is_no_new_call(self) -> None:
        assert calls_of([call(0, "{", id="a", name="f")], [call(0, "}", id="z")]) == [("a", "f", "{}")]

    def test_a_name_may_be_repeated_or_come_in_pieces(self) -> None:
        assert calls_of([call(0, "{", id="a", name="f")], [call(0, "}", name="f")]) == [("a", "f", "{}")]
        assert calls_of([call(0, id="a", name="get_")], [call(0, name="time")], [call(0, "{}")]) == [
            ("a", "get_time", "{}")
        ]

    def test_a_call_without_an_id_gets_one(self) -> None:
        [(made, name, _)] = calls_of([call(0, "{}", name="f")])
        assert made.startswith("call_")
        assert name == "f"


def test_a_stream_that_was_cut_has_no_finish_reason() -> None:
    whole = assemble([chunk({"role": "assistant", "content": "ha"}), chunk({"content": "lf"})])
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "half"}, "finish_reason": None}
    ]


def test_choices_are_put_in_order() -> None:
    whole = assemble([chunk({"content": "b"}, index=1), chunk({"content": "a"}), chunk({"content": "b"}, "stop", 1)])
    assert [(c["index"], c["message"]["content"]) for c in whole["choices"]] == [(0, "a"), (1, "bb")]


def test_audio_is_joined() -> None:
    parts = [{"id": "a", "data": "AA", "transcript": "he"}, {"data": "BB", "transcript": "llo"}, {"expires_at": 5}]
    whole = assemble([chunk({"audio": part}) for part in parts])
    joined = {"id": "a", "data": "AABB", "transcript": "hello", "expires_at": 5}
    assert whole["choices"][0]["message"]["audio"] == joined


@pytest.mark.parametrize(
    ("chunks", "what"),
    [
        ([], "empty"),
        ([{"error": {"message": "secret"}}], "holds an error"),
        ([[]], "the chunk is a list, not an object"),
        ([{"choices": [{"delta": {"tool_calls": "secret"}}]}], r"choices\[0\].delta.tool_calls is text, not a list"),
        ([chunk({"content": "secret"}), chunk({"content": [{}]})], "content of the stream is not text in every chunk"),
    ],
)
def test_what_can_not_be_read_is_said_without_its_content(chunks: list[Any], what: str) -> None:
    with pytest.raises(UnreadableAnswerError, match=what) as caught:
        assemble(chunks)
    assert "secret" not in str(caught.value)


@few
@given(st.lists(broken(completions().map(lambda c: next(chunks_of(c)))) | anything, max_size=4))
def test_any_json_is_put_together_or_refused(chunks: list[Any]) -> None:
    with suppress(UnreadableAnswerError):
        assert assemble(chunks)["object"] == "chat.completion"


@few
@given(broken(completions(2)) | anything)
def test_any_json_is_taken_apart_or_refused(completion: Any) -> None:
    with suppress(UnreadableAnswerError):
        assert all("choices" in part for part in chunks_of(completion))
