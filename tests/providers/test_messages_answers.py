from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from tests.providers.chats import Json, anything, broken, completions, few
from tiercel.errors import UnreadableAnswerError
from tiercel.providers.chunks import assemble, chunks_of
from tiercel.providers.messages_form import (
    CompletionChunks,
    MessageEvents,
    anthropic_error,
    completion_from_message,
    message_from_completion,
    openai_error,
    status_of_error,
)

EVENT = TypeAdapter(RawMessageStreamEvent)
CUT = "the provider's stream ended before its answer did"


def events_of(chunks: Any) -> list[Json]:
    stream = MessageEvents()
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.end()


def chunks_from(events: Any, **options: Any) -> list[Json]:
    stream = CompletionChunks(created=5, **options)
    return [chunk for event in events for chunk in stream.feed(event)] + stream.end()


def message_of(events: list[Json]) -> Json:
    """The message that events make up, put together as Anthropic's documentation says; every rule of order is checked."""
    assert [e["type"] for e in (events[0], *events[-2:])] == ["message_start", "message_delta", "message_stop"]
    message = events[0]["message"]
    content: list[Any] = []
    open_blocks: set[int] = set()
    arguments: dict[int, str] = {}
    for event in events[1:-2]:
        EVENT.validate_python(event)
        index = event["index"]
        if event["type"] == "content_block_start":
            assert index == len(content)
            content.append(dict(event["content_block"]))
            open_blocks.add(index)
            continue
        assert index in open_blocks
        if event["type"] == "content_block_stop":
            open_blocks.remove(index)
            if content[index]["type"] == "tool_use":
                content[index]["input"] = json.loads(arguments.get(index) or "{}")
            continue
        delta = event["delta"]
        if delta["type"] == "input_json_delta":
            arguments[index] = arguments.get(index, "") + delta["partial_json"]
        else:
            name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}[delta["type"]]
            content[index][name] += delta[name]
    assert not open_blocks
    return message | {"content": content} | events[-2]["delta"] | {"usage": events[-2]["usage"]}


def called(message: Json) -> list[Any]:
    return [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", [])
    ]


def plain(message: Json) -> Json:
    return {name: message.get(name) for name in ("id", "model", "content", "stop_reason", "stop_sequence", "usage")}


@few
@given(completions())
def test_a_completion_is_a_message_and_again_a_completion(completion: Json) -> None:
    message = message_from_completion(completion)
    Message.model_validate(message)
    assert message["id"] == completion["id"]
    again = completion_from_message(message)
    ChatCompletion.model_validate(again)
    told, was = again["choices"][0]["message"], completion["choices"][0]["message"]
    assert called(told) == called(was)
    refusal = was["refusal"] or ""
    assert (told["content"] or "") + ((told["refusal"] or "") if told["content"] is None else "") == (
        was["content"] or ""
    ) + refusal
    assert told.get("reasoning_content", "") == was.get("reasoning_content", "")
    usage, counted = again["usage"], completion["usage"]
    assert usage["prompt_tokens_details"] == counted["prompt_tokens_details"]
    assert [usage[n] for n in ("prompt_tokens", "completion_tokens", "total_tokens")] == [
        counted[n] for n in ("prompt_tokens", "completion_tokens", "total_tokens")
    ]


@few
@given(completions())
def test_a_stream_says_what_the_whole_message_says(completion: Json) -> None:
    assert plain(message_of(events_of(chunks_of(completion)))) == plain(message_from_completion(completion))


@few
@given(completions(refusals=False))
def test_a_stream_goes_there_and_back(completion: Json) -> None:
    events = events_of(chunks_of(completion))
    chunks = chunks_from(events, include_usage=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    whole, message = assemble(chunks), completion_from_message(message_of(events), created=5)
    assert whole["usage"] == message["usage"]
    told, was = whole["choices"][0]["message"], message["choices"][0]["message"]
    assert (told["content"] or "", told.get("reasoning_content", "")) == (
        was["content"] or "",
        was.get("reasoning_content", ""),
    )
    assert called(told) == called(was)
    assert whole["choices"][0]["finish_reason"] == message["choices"][0]["finish_reason"]


@few
@given(completions(), st.integers(0, 12))
def test_a_stream_that_is_cut_ends_with_an_error(completion: Json, kept: int) -> None:
    chunks = [
        c for c in chunks_of(completion) if not any(choice["finish_reason"] for choice in c["choices"]) and c["choices"]
    ]
    assert events_of(chunks[:kept])[-1] == {"type": "error", "error": {"type": "api_error", "message": CUT}}
    events = events_of(chunks_of(completion))[:-1]
    error = chunks_from(events[: kept + 1])[-1]["error"]
    assert (error["message"], error["type"]) == (CUT, "api_error")


@few
@given(st.lists(broken(completions().map(lambda c: next(chunks_of(c)))) | anything, max_size=4))
def test_any_json_is_streamed_or_refused(chunks: list[Any]) -> None:
    with suppress(UnreadableAnswerError):
        assert events_of(chunks)


@few
@given(st.data())
def test_any_json_is_read_as_events_or_refused(data: st.DataObject) -> None:
    completion = data.draw(completions())
    events = [data.draw(broken(st.just(e)) | st.just(e)) for e in events_of(chunks_of(completion))]
    for stream in (events, [data.draw(anything)], [events[0], data.draw(anything)]):
        with suppress(UnreadableAnswerError):
            chunks_from(stream, include_usage=True)


@few
@given(broken(completions()) | anything)
def test_any_json_is_a_message_or_refused(completion: Any) -> None:
    with suppress(UnreadableAnswerError):
        assert message_from_completion(completion)["type"] == "message"


@few
@given(broken(completions().map(message_from_completion)) | anything)
def test_any_json_is_a_completion_or_refused(message: Any) -> None:
    with suppress(UnreadableAnswerError):
        assert completion_from_message(message)["object"] == "chat.completion"


class TestCounts:
    def test_cached_tokens_are_apart_in_one_and_included_in_the_other(self) -> None:
        usage = {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "output_tokens": 7,
        }
        message = {
            "id": "m",
            "model": "m",
            "content": [],
            "stop_reason": "end_turn",
            "usage": usage | {"service_tier": "priority"},
        }
        completion = completion_from_message(message)
        assert completion["usage"] == {
            "prompt_tokens": 3210,
            "completion_tokens": 7,
            "total_tokens": 3217,
            "prompt_tokens_details": {"cached_tokens": 3000, "cache_write_tokens": 200},
        }
        assert completion["service_tier"] == "priority"
        assert message_from_completion(completion)["usage"] == usage

    def test_counts_that_do_not_add_up_are_never_negative(self) -> None:
        completion = completion_from_message({"content": [], "usage": {"input_tokens": -5, "output_tokens": 1}})
        assert completion["usage"]["prompt_tokens"] == 0
        usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}
        choice = {"message": {"content": "a"}, "finish_reason": "stop"}
        assert message_from_completion({"choices": [choice], "usage": usage})["usage"]["input_tokens"] == 0

    def test_counts_of_a_stream_are_totals_and_the_last_ones_hold(self) -> None:
        start = {
            "id": "m",
            "model": "m",
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 6, "output_tokens": 1},
        }
        stream = CompletionChunks()
        assert stream.usage is None
        stream.feed({"type": "message_start", "message": start})
        stream.feed({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}})
        assert stream.usage is not None
        assert (stream.usage["prompt_tokens"], stream.usage["completion_tokens"]) == (11, 9)


@pytest.mark.parametrize(
    ("finish", "extra", "calls", "stop"),
    [
        ("stop", {}, False, "end_turn"),
        ("stop", {"stop_sequence": "END"}, False, "stop_sequence"),
        ("stop", {}, True, "tool_use"),
        ("tool_calls", {}, True, "tool_use"),
        ("length", {}, True, "max_tokens"),
        ("content_filter", {}, False, "refusal"),
        (None, {}, False, "end_turn"),
        ("eos", {}, False, "end_turn"),
    ],
)
def test_why_an_answer_ended(finish: str | None, extra: Json, calls: bool, stop: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "x"} | ({"tool_calls": [call]} if calls else {})
    whole = message_from_completion({"choices": [{"message": message, "finish_reason": finish} | extra]})
    assert whole["stop_reason"] == stop
    assert whole["stop_sequence"] == extra.get("stop_sequence")
    known = {"stop": "stop", "tool_calls": "tool_calls", "length": "length", "content_filter": "content_filter"}
    back = completion_from_message(whole)["choices"][0]
    assert back["finish_reason"] == ("tool_calls" if calls and finish == "stop" else known.get(finish or "", "stop"))
    assert back.get("stop_sequence") == extra.get("stop_sequence")


def test_a_refusal_is_one_on_both_sides() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I can't."}
    message = message_from_completion({"choices": [{"message": refused, "finish_reason": "stop"}]})
    assert message["content"] == [{"type": "text", "text": "I can't."}]
    assert (message["stop_reason"], message["stop_details"]["explanation"]) == ("refusal", "I can't.")
    back = completion_from_message(message)["choices"][0]
    assert (back["message"], back["finish_reason"]) == (refused, "content_filter")


def test_signed_thinking_comes_through_a_stream_whole() -> None:
    content = [
        {"type": "thinking", "thinking": "one", "signature": "s1"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "thinking", "thinking": "two", "signature": "s2"},
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1.5, None]}},
    ]
    message = {
        "id": "m",
        "model": "x",
        "content": content,
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    completion = completion_from_message(message)
    assert completion["choices"][0]["message"]["thinking_blocks"] == content[:3]
    events = events_of(chunks_of(completion))
    assert message_of(events)["content"] == content
    assert assemble(chunks_from(events))["choices"][0]["message"]["thinking_blocks"] == content[:3]
    assert message_from_completion(completion)["content"] == content


class TestToolCalls:
    def chunk(self, *calls: Json, finish: str | None = None) -> Json:
        return {
            "id": "c",
            "model": "m",
            "choices": [{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": finish}],
        }

    def call(self, index: int, arguments: str, name: str | None = None) -> Json:
        named = {"id": f"t{index}", "type": "function"} if name else {}
        return {"index": index, "function": {"arguments": arguments} | ({"name": name} if name else {})} | named

    @pytest.mark.parametrize(
        "deltas",
        [
            [[(0, '{"a"', "f")], [(0, ":1}", None)], [(1, '{"b":2}', "g")]],
            [[(0, '{"a"', "f"), (1, '{"b"', "g")], [(1, ":2}", None)], [(0, ":1}", None)]],
            [[(0, '{"a":1}', "f"), (1, "", "g")], [(1, '{"b":2}', None)], [(0, " \n", None)]],
        ],
    )
    def test_calls_side_by_side_lose_nothing(self, deltas: list[list[tuple[int, str, str | None]]]) -> None:
        chunks = [self.chunk(*(self.call(*c) for c in delta)) for delta in deltas]
        content = message_of(events_of([*chunks, self.chunk(finish="tool_calls")]))["content"]
        assert [(b["id"], b["name"], b["input"]) for b in content] == [("t0", "f", {"a": 1}), ("t1", "g", {"b": 2})]

    def test_a_call_ends_when_the_next_begins(self) -> None:
        events = events_of(
            [self.chunk(self.call(0, "{}", "f")), self.chunk(self.call(1, "{}", "g")), self.chunk(finish="stop")]
        )
        kinds = [(e["type"].removeprefix("content_block_"), e["index"]) for e in events if "index" in e]
        assert kinds == [("start", 0), ("delta", 0), ("stop", 0), ("start", 1), ("delta", 1), ("stop", 1)]

    def test_a_call_that_goes_on_after_its_end_is_an_error(self) -> None:
        with pytest.raises(UnreadableAnswerError, match=r"tool_calls\[0\] goes on"):
            events_of([self.chunk(self.call(0, "{}", "f"), self.call(1, "{}", "g")), self.chunk(self.call(0, "{}"))])

    @pytest.mark.parametrize(("given", "arguments"), [({}, "{}"), ({"a": 1}, '{"a":1}')])
    def test_input_that_comes_whole_is_passed_on(self, given: Json, arguments: str) -> None:
        block = {"type": "tool_use", "id": "t", "name": "f", "input": given}
        events = [
            {"type": "message_start", "message": {"id": "m", "model": "x"}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        ]
        call = assemble(chunks_from(events))["choices"][0]["message"]["tool_calls"][0]
        assert call == {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}

    def test_many_calls_take_linear_work(self) -> None:
        """Quadratic work on 20,000 calls of open arguments would outlast the suite's time limit."""
        opened = [self.chunk(self.call(i, "[" * 50, "f")) for i in range(20_000)]
        events = events_of([*opened, self.chunk(finish="stop")])
        assert sum(e["type"] == "content_block_stop" for e in events) == 20_000


def test_pings_and_unknown_events_say_nothing() -> None:
    stream = CompletionChunks()
    assert stream.feed({"type": "ping"}) == stream.feed({"type": "new_kind"}) == []


def test_nothing_comes_after_the_end() -> None:
    events = MessageEvents()
    events.end()
    assert events.feed({"choices": [{"delta": {"content": "x"}}]}) == events.end() == []


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ([], "the answer is a list, not an object"),
        ({"choices": []}, "choices has 0 elements"),
        ({"choices": [{"message": {}}, {"message": {}}]}, "choices has 2 elements; a message is made of one"),
        ({"choices": [{}]}, r"choices\[0\].message is missing"),
        ({"choices": [{"message": {"content": 1}}]}, r"choices\[0\].message.content is a whole number, not text"),
        ({"choices": [{"message": {"audio": {"id": "a"}}}]}, "audio has no word in this API"),
        ({"choices": [{"message": {"tool_calls": [{"type": "custom"}]}}]}, r"tool_calls\[0\].type is custom"),
        (
            {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "secret"}}]}}]},
            "is not the text of a JSON object",
        ),
    ],
)
def test_an_answer_that_is_none_is_named_without_its_content(answer: Any, what: str) -> None:
    with pytest.raises(UnreadableAnswerError, match=what) as caught:
        message_from_completion(answer)
    assert "secret" not in str(caught.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind", "chat"),
        [
            (400, "invalid_request_error", "invalid_request_error"),
            (401, "authentication_error", "authentication_error"),
            (402, "billing_error", "invalid_request_error"),
            (403, "permission_error", "permission_error"),
            (404, "not_found_error", "invalid_request_error"),
            (413, "request_too_large", "invalid_request_error"),
            (422, "invalid_request_error", "invalid_request_error"),
            (429, "rate_limit_error", "rate_limit_error"),
            (500, "api_error", "api_error"),
            (502, "api_error", "api_error"),
            (503, "overloaded_error", "api_error"),
            (504, "timeout_error", "api_error"),
            (529, "overloaded_error", "api_error"),
        ],
    )
    def test_the_status_decides(self, status: int, kind: str, chat: str) -> None:
        error = {"error": {"message": "why", "type": "some_error", "param": None, "code": "some"}}
        found = anthropic_error(error, status)
        assert found == {"type": "error", "error": {"type": kind, "message": "why"}}
        if kind != "request_too_large":  # documented, though the client's models lack it
            ErrorResponse.model_validate(found)
        assert openai_error(found, status) == {"error": {"message": "why", "type": chat, "param": None, "code": kind}}
        assert anthropic_error(openai_error(found, status), status) == found

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, 529),
            ({"error": {"type": "rate_limit_error", "message": "slow"}}, 429),
            ({"error": {"type": "tokens", "code": "rate_limit_exceeded", "message": "slow"}}, 429),
            ({"error": {"type": "server_error", "message": "oh"}}, 500),
            ({"error": "oh"}, 500),
            (None, 500),
        ],
    )
    def test_within_a_stream_its_own_words_decide(self, error: Any, status: int) -> None:
        assert status_of_error(error) == status
        assert events_of([{"error": error["error"]}] if error else [])[-1]["type"] == "error"

    @few
    @given(anything, st.none() | st.integers(400, 599))
    def test_any_json_is_an_error(self, error: Any, status: int | None) -> None:
        assert anthropic_error(error, status)["error"]["message"]
        assert openai_error(error, status)["error"]["message"]

    def test_an_error_within_a_stream_ends_it(self) -> None:
        chunks = chunks_from(
            [{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, {"type": "message_stop"}]
        )
        assert chunks == [
            {"error": {"message": "busy", "type": "api_error", "param": None, "code": "overloaded_error"}}
        ]
