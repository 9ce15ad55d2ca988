from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.providers.chats import Json, anything, broken, completions, few
from tiercel.errors import DataError, UnreadableAnswerError
from tiercel.providers.chunks import chunks_of
from tiercel.providers.responses_form import ResponseEvents, chat_from_responses, response_from_completion

EVENT = TypeAdapter(ResponseStreamEvent)
CHAT_MESSAGE = TypeAdapter(ChatCompletionMessageParam)
REQUEST = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://a/b.png", "detail": "low"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {
            "type": "message",
            "id": "msg",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I call.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": '{"x":1}'},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        {
            "role": "user",
            "content": [{"type": "input_file", "filename": "t.pdf", "file_data": "data:application/pdf;base64,QQ=="}],
        },
    ],
    "tools": [{"type": "function", "name": "f", "description": None, "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {
        "format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    },
    "max_output_tokens": 5,
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 2,
    "parallel_tool_calls": False,
    "store": False,
    "previous_response_id": None,
    "truncation": "disabled",
    "metadata": {"a": "b"},
    "user": "u",
    "temperature": 0.5,
    "stream": True,
}


def test_a_whole_request() -> None:
    chat = chat_from_responses(REQUEST)
    assert chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I call.",
                "reasoning_content": "hm",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,QQ=="}}
                ],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "max_completion_tokens": 5,
        "reasoning_effort": "high",
        "logprobs": True,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "user": "u",
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for message in chat["messages"]:
        CHAT_MESSAGE.validate_python(message)


def test_a_text_is_a_users_message() -> None:
    assert chat_from_responses({"model": "m", "input": "hello"}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_an_answer_begins_anew_where_text_follows_a_call() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    said = {"role": "assistant", "content": "x"}
    messages = chat_from_responses({"model": "m", "input": [call, said, said, call]})["messages"]
    assert [(m["content"], len(m.get("tool_calls", ()))) for m in messages] == [(None, 1), ("x", 0), ("x", 1)]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"input": None}, "input is missing"),
        ({"input": 5}, "input is a whole number, not a list"),
        ({"input": [{"role": "tool", "content": "secret"}]}, r"input\[0\].role is tool; it must be one of user"),
        ({"input": [{"role": "user"}]}, r"input\[0\].content is missing"),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            r"input\[0\].type is item_reference, which asks for what was stored",
        ),
        (
            {"input": [{"type": "web_search_call"}]},
            r"input\[0\].type is web_search_call, .* a provider that speaks Responses",
        ),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, r"input\[0\].arguments is missing"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, r"input\[0\].output is missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
            "file_id is an image that was stored",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}]},
            "file_url is a file's URL",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, r"content\[0\].type is input_audio"),
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\].type is web_search, .* a provider that speaks Responses"),
        ({"tools": [{"type": "custom", "name": "c"}]}, r"tools\[0\].type is custom"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type is web_search_preview"),
        ({"tool_choice": "any"}, "tool_choice is any; it must be"),
        ({"store": True}, "store asks to keep the answer, and none is kept; set it to false"),
        (
            {"previous_response_id": "secret"},
            "previous_response_id asks for what was stored before.* send the whole conversation",
        ),
        ({"conversation": "c"}, "conversation asks for what was stored"),
        ({"background": True}, "background asks for an answer later"),
        ({"prompt": {"id": "p"}}, "prompt is something"),
        ({"truncation": "auto"}, "truncation is auto"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode is pro"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type is grammar; it must be"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema is missing"),
    ],
)
def test_what_a_chat_has_no_word_for_is_named(fields: Json, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        chat_from_responses({"model": "m", "input": "hello"} | fields)
    assert "secret" not in str(caught.value)


@few
@given(broken(st.just(REQUEST)) | anything)
def test_any_json_is_a_request_for_a_chat_or_an_error(body: Any) -> None:
    with suppress(DataError):
        assert chat_from_responses(body)["messages"] is not None


def test_many_items_of_reasoning_take_linear_work() -> None:
    """Quadratic work on 50 MB in 50,000 items would outlast the suite's time limit."""
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x" * 1000}]}
    [message] = chat_from_responses({"model": "m", "input": [item] * 50_000})["messages"]
    assert len(message["reasoning_content"]) == 50_000_000


def events_of(chunks: Any, request: Json | None = None) -> list[Json]:
    stream = ResponseEvents(request=request)
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.end()


def read(events: list[Json]) -> list[Json]:
    """The output items that a stream's deltas make up; every rule of order is checked on the way."""
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    items: list[Json] = []
    done: dict[int, Json] = {}
    for event in events[2:-1]:
        EVENT.validate_python(event)
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(json.loads(json.dumps(event["item"])))
            continue
        item = items[event["output_index"]]
        assert event["output_index"] not in done
        if kind == "output_item.done":
            done[event["output_index"]] = event["item"]
            assert {**item, "status": event["item"]["status"]} == event["item"]
            continue
        assert event["item_id"] == item["id"]
        if kind == "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(json.loads(json.dumps(event["part"])))
        elif kind == "content_part.done":
            assert event["part"] == item["content"][event["content_index"]]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == item["arguments"]
        else:
            part = item["content"][event["content_index"]]
            name = "refusal" if part["type"] == "refusal" else "text"
            if kind.endswith(".done"):
                assert event[name] == part[name]
            else:
                part[name] += event["delta"]
                if "logprobs" in part:
                    part["logprobs"] += event["logprobs"]
    assert sorted(done) == list(range(len(items)))
    return [done[i] for i in sorted(done)]


@few
@given(completions())
def test_a_stream_says_what_the_whole_response_says(completion: Json) -> None:
    whole = response_from_completion(completion, request=REQUEST)
    Response.model_validate(whole)
    events = events_of(chunks_of(completion), REQUEST)
    assert read(events) == events[-1]["response"]["output"]
    assert events[-1]["type"] == f"response.{whole['status']}"
    said = [
        item
        for item in whole["output"]
        if item.get("content") != [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    ]
    assert [_said(i) for i in events[-1]["response"]["output"]] == [_said(i) for i in said]
    for name in ("id", "model", "status", "usage", "created_at", "instructions", "incomplete_details"):
        assert events[-1]["response"][name] == whole[name]


def _said(item: Json) -> Json:
    return {name: value for name, value in item.items() if name not in ("id", "x_own")}


def test_a_whole_response() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    cited = {
        "type": "url_citation",
        "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "https://a"},
    }
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {
        "role": "assistant",
        "content": "é",
        "reasoning_content": "hm",
        "annotations": [cited],
        "tool_calls": [call],
    }
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    completion = {
        "id": "c",
        "created": 7,
        "model": "x",
        "choices": [{"message": message, "logprobs": {"content": [token]}, "finish_reason": "length"}],
        "usage": usage | {"completion_tokens_details": {"reasoning_tokens": 2}},
    }
    response = response_from_completion(completion, request=REQUEST)
    Response.model_validate(response)
    assert response["output"] == [
        {
            "id": "rs_c_0",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
            "status": "completed",
        },
        {
            "id": "msg_c_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "é",
                    "annotations": [
                        {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "t", "url": "https://a"}
                    ],
                    "logprobs": [token | {"bytes": [0xC3, 0xA9]}],
                }
            ],
        },
        {
            "id": "fc_c_2",
            "type": "function_call",
            "call_id": "a",
            "name": "f",
            "arguments": "{}",
            "status": "incomplete",
        },
    ]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 8,
    }
    assert [response[name] for name in ("id", "created_at", "model", "temperature", "tools")] == [
        "c",
        7,
        "x",
        0.5,
        REQUEST["tools"],
    ]


def test_calls_side_by_side_lose_nothing() -> None:
    def chunk(*calls: Json, finish: str | None = None) -> Json:
        return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": finish}]}

    first = [{"index": i, "id": f"t{i}", "function": {"name": "f", "arguments": "{"}} for i in range(2)]
    more = [{"index": i, "function": {"arguments": f'"a":{i}}}'}} for i in (1, 0)]
    items = read(events_of([chunk(*first), chunk(*more), chunk(finish="tool_calls")]))
    assert [(i["call_id"], i["arguments"]) for i in items] == [("t0", '{"a":0}'), ("t1", '{"a":1}')]


@pytest.mark.parametrize(
    ("chunks", "code", "message"),
    [
        ([], "server_error", "the provider's stream ended before its answer did"),
        (
            [{"id": "c", "choices": [{"delta": {"content": "ha"}}]}],
            "server_error",
            "the provider's stream ended before its answer did",
        ),
        ([{"error": {"message": "slow down", "type": "rate_limit_error"}}], "rate_limit_exceeded", "slow down"),
        ([{"error": {"code": [], "message": None}}], "server_error", "the provider gave no reason"),
        ([{"error": "oh"}, {"choices": []}], "server_error", "oh"),
    ],
)
def test_a_stream_that_breaks_off_has_failed(chunks: list[Json], code: str, message: str) -> None:
    events = events_of(chunks)
    for event in events:
        EVENT.validate_python(event)
    assert [e["type"] for e in (events[0], events[-1])] == ["response.created", "response.failed"]
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"] == {"code": code, "message": message}


@few
@given(st.lists(broken(completions().map(lambda c: next(chunks_of(c)))) | anything, max_size=4))
def test_any_json_is_streamed_or_refused(chunks: list[Any]) -> None:
    with suppress(UnreadableAnswerError):
        assert events_of(chunks)


@few
@given(broken(completions()) | anything)
def test_any_json_is_a_response_or_refused(completion: Any) -> None:
    with suppress(UnreadableAnswerError):
        assert response_from_completion(completion)["object"] == "response"
