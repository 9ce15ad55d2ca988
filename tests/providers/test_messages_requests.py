from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from anthropic.types import ContentBlockParam, ToolChoiceParam, ToolParam
from hypothesis import given
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from pydantic import TypeAdapter

from tests.providers.chats import Json, anything, broken, chats, few
from tiercel.errors import DataError
from tiercel.providers.messages_form import chat_from_messages, messages_from_chat

BLOCK = TypeAdapter(ContentBlockParam)
TOOL = TypeAdapter(ToolParam)
TOOL_CHOICE = TypeAdapter(ToolChoiceParam)
CHAT_TOOL = TypeAdapter(ChatCompletionFunctionToolParam)
CHAT_MESSAGE = TypeAdapter(ChatCompletionMessageParam)
HELLO = [{"role": "user", "content": "hello"}]
PIXEL = "iVBORw0KGgo="


def to_chat(**fields: Any) -> Json:
    return chat_from_messages({"model": "m", "max_tokens": 9, "messages": HELLO} | fields)


def from_chat(**fields: Any) -> Json:
    return messages_from_chat({"model": "m", "messages": HELLO} | fields, default_max_tokens=7)


def user(*blocks: Json) -> list[Json]:
    return [{"role": "user", "content": list(blocks)}]


def flat(messages: list[Json]) -> list[Any]:
    """What is said by whom, in order; turns of one role that follow each other are one, as Anthropic's API has it."""
    found: list[Any] = []
    for message in messages:
        role = "system" if message["role"] == "developer" else message["role"]
        content = message["content"] or []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if role == "tool":
            found.append((role, message["tool_call_id"], parts))
            continue
        found += [(role, part) for part in parts]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            found.append((role, call["id"], function["name"], json.loads(function["arguments"])))
    return found


@few
@given(chats)
def test_there_and_back_keeps_what_was_said_and_asked(chat: Json) -> None:
    asked = messages_from_chat(chat, default_max_tokens=100)
    again = chat_from_messages(asked)
    assert flat(again["messages"]) == flat(chat["messages"])
    kept = set(chat) - {"messages", "reasoning_effort"}
    assert {name: again[name] for name in kept} == {name: chat[name] for name in kept}
    assert again.get("reasoning_effort") == chat.get("reasoning_effort")
    for message in asked["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            BLOCK.validate_python(block)
    for tool in asked.get("tools", ()):
        TOOL.validate_python(tool)
    if "tool_choice" in asked:
        TOOL_CHOICE.validate_python(asked["tool_choice"])
    assert all(a["role"] != b["role"] for a, b in zip(asked["messages"], asked["messages"][1:], strict=False))


@few
@given(broken(chats) | anything)
def test_any_json_is_a_request_for_a_chat_or_an_error(chat: Any) -> None:
    with suppress(DataError):
        assert messages_from_chat(chat, default_max_tokens=1)["messages"] is not None


@few
@given(broken(chats.map(lambda c: messages_from_chat(c, default_max_tokens=1))) | anything)
def test_any_json_is_a_request_for_a_message_or_an_error(asked: Any) -> None:
    with suppress(DataError):
        assert chat_from_messages(asked)["messages"] is not None


class TestToChat:
    def test_a_whole_request(self) -> None:
        chat = to_chat(
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            stop_sequences=["END"],
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            metadata={"user_id": "u"},
            stream=True,
        )
        assert chat == {
            "model": "m",
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                },
                *HELLO,
            ],
            "max_completion_tokens": 9,
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
                }
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "stop": ["END"],
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "user": "u",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for tool in chat["tools"]:
            CHAT_TOOL.validate_python(tool)

    def test_content_of_every_kind(self) -> None:
        image = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        chat = to_chat(
            messages=[
                *user(
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": image},
                    {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
                    {
                        "type": "document",
                        "title": "t.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="},
                    },
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A"}},
                ),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "text", "text": "I call."},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                    ],
                },
                *user(
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "A"}, {"type": "image", "source": image}],
                    },
                    {"type": "tool_result", "tool_use_id": "t2", "content": "no such file", "is_error": True},
                    {"type": "text", "text": "and now?"},
                ),
            ]
        )
        url = f"data:image/png;base64,{PIXEL}"
        assert chat["messages"] == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
                    {"type": "file", "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,QQ=="}},
                    {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:text/plain;base64,QQ=="}},
                ],
            },
            {
                "role": "assistant",
                "content": "I call.",
                "reasoning_content": "hm",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                ],
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "t1",
                "content": [{"type": "text", "text": "A"}, {"type": "image_url", "image_url": {"url": url}}],
            },
            {"role": "tool", "tool_call_id": "t2", "content": "no such file", "is_error": True},
            {"role": "user", "content": "and now?"},
        ]
        for message in chat["messages"]:
            if message["role"] != "tool":
                CHAT_MESSAGE.validate_python(message)

    def test_thinking_goes_there_and_back_unchanged(self) -> None:
        blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "so"}]
        thinking = {"type": "enabled", "budget_tokens": 4000}
        body = {
            "model": "m",
            "max_tokens": 9,
            "messages": [*HELLO, {"role": "assistant", "content": blocks}, *HELLO],
            "thinking": thinking,
        }
        chat = chat_from_messages(body)
        assert chat["reasoning_effort"] == "medium"
        assert messages_from_chat(chat, default_max_tokens=1) == body

    @pytest.mark.parametrize(
        ("config", "chat"),
        [
            ({"effort": "max"}, {"reasoning_effort": "max"}),
            (
                {"format": {"type": "json_schema", "schema": {"type": "object"}}},
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                    }
                },
            ),
            ({"own": 1}, {"output_config": {"own": 1}}),
        ],
    )
    def test_the_form_of_the_answer(self, config: Json, chat: Json) -> None:
        found = to_chat(output_config=config)
        assert {
            name: value for name, value in found.items() if name not in ("model", "messages", "max_completion_tokens")
        } == chat
        assert from_chat(**{k: v for k, v in found.items() if k != "messages"})["output_config"] == config

    def test_a_later_system_message_stays_in_its_place(self) -> None:
        messages = [*HELLO, {"role": "system", "content": "Now in French."}]
        assert to_chat(messages=messages)["messages"] == messages
        assert from_chat(messages=messages)["messages"] == messages

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"model": None}, "model is missing"),
            ({"model": 5}, "model is a whole number, not text"),
            ({"messages": None}, "messages is missing"),
            ({"messages": {}}, "messages is an object, not a list"),
            ({"messages": ["secret"]}, r"messages\[0\] is text, not an object"),
            ({"messages": [{"role": "secret\n", "content": ""}]}, r"messages\[0\].role is of an unknown kind"),
            ({"messages": user({"type": "text"})}, r"messages\[0\].content\[0\].text is missing"),
            (
                {"messages": user({"type": "server_tool_use"})},
                r"messages\[0\].content\[0\].type is server_tool_use, .* speaks Anthropic's API",
            ),
            (
                {"messages": user({"type": "image", "source": {"type": "file", "file_id": "f"}})},
                r"source.type is file, .* Anthropic's API",
            ),
            ({"messages": user({"type": "document", "source": {"type": "url", "url": "u"}})}, r"source.type is url"),
            (
                {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
                r"tools\[0\].type is web_search_20250305, .* Anthropic's API",
            ),
            ({"tools": [{"name": "f"}]}, r"tools\[0\].input_schema is missing"),
            ({"tool_choice": {"type": "some"}}, "tool_choice.type is some; it must be auto, any, tool or none"),
            ({"container": "c"}, "container is something"),
            ({"mcp_servers": [{}]}, "mcp_servers is something"),
            ({"max_tokens": "9"}, "max_tokens is text, not a whole number"),
            ({"max_tokens": True}, "max_tokens is true or false, not a whole number"),
        ],
    )
    def test_what_a_chat_has_no_word_for_is_named(self, fields: Json, what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            to_chat(**fields)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


class TestFromChat:
    def test_results_of_tools_and_what_follows_are_one_turn(self) -> None:
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
        asked = from_chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                *HELLO,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [call, call | {"id": "b"}],
                    "refusal": None,
                    "annotations": [],
                },
                {"role": "tool", "tool_call_id": "a", "content": "1", "name": "f"},
                {"role": "tool", "tool_call_id": "b", "content": []},
                *HELLO,
                {"role": "assistant", "content": None},
                *HELLO,
            ]
        )
        assert asked == {
            "model": "m",
            "max_tokens": 7,
            "system": "Be brief.",
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
                        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                        {"type": "tool_result", "tool_use_id": "b", "content": ""},
                        {"type": "text", "text": "hello"},
                        {"type": "text", "text": "hello"},
                    ],
                },
            ],
        }

    @pytest.mark.parametrize(
        ("fields", "asked"),
        [
            ({"max_tokens": 3}, {"max_tokens": 3}),
            ({"max_completion_tokens": 4, "max_tokens": 3}, {"max_tokens": 4}),
            ({"stop": "END"}, {"stop_sequences": ["END"]}),
            ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
            ({"reasoning_effort": "minimal"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
            ({"reasoning_effort": "high"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
            ({"response_format": {"type": "text"}}, {}),
            ({"safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
            ({"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "u"}}),
            ({"service_tier": "default"}, {"service_tier": "standard_only"}),
            ({"parallel_tool_calls": False}, {}),
            ({"parallel_tool_calls": False, "tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
            (
                {"parallel_tool_calls": False, "tools": [{"type": "function", "function": {"name": "f"}}]},
                {
                    "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
                    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
                },
            ),
            ({"n": 1, "frequency_penalty": 0.0, "logprobs": False, "modalities": ["text"], "logit_bias": {}}, {}),
            (
                {
                    "seed": 1,
                    "store": True,
                    "stream_options": {"include_usage": True},
                    "prompt_cache_key": "k",
                    "metadata": {"a": "b"},
                },
                {},
            ),
            ({"stream": True, "top_k": 3, "own": None}, {"stream": True, "top_k": 3, "own": None}),
        ],
    )
    def test_fields(self, fields: Json, asked: Json) -> None:
        assert from_chat(**fields) == {"model": "m", "max_tokens": 7, "messages": HELLO} | asked

    def test_thinking_without_a_signature_is_left_out(self) -> None:
        unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
        message = {"role": "assistant", "content": "so", "reasoning_content": "hm", "thinking_blocks": [unsigned]}
        assert from_chat(messages=[*HELLO, message])["messages"][1] == {"role": "assistant", "content": "so"}

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"n": 2}, "n asks for something .* speaks chat completions"),
            ({"logprobs": True}, "logprobs asks"),
            ({"frequency_penalty": 0.5}, "frequency_penalty asks"),
            ({"logit_bias": {"5": -100}}, "logit_bias asks"),
            ({"modalities": ["text", "audio"]}, "modalities asks"),
            ({"functions": [{}]}, "functions asks"),
            (
                {"response_format": {"type": "json_object"}},
                "response_format.type is json_object, .* give a json_schema",
            ),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
                "response_format.json_schema.schema is missing",
            ),
            ({"temperature": 1.5}, "temperature is not within 0 and 1"),
            ({"tools": [{"type": "custom", "custom": {}}]}, r"tools\[0\].type is custom"),
            ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type is allowed_tools"),
            ({"tool_choice": "any"}, "tool_choice is any; it must be"),
            ({"service_tier": "flex"}, "service_tier is flex"),
            ({"stop": [1]}, "stop is neither text nor a list of texts"),
            ({"messages": user({"type": "input_audio", "input_audio": {}})}, r"content\[0\].type is input_audio"),
            (
                {"messages": user({"type": "image_url", "image_url": {"url": "data:image/png,secret"}})},
                r"image_url.url is not a URL of the form",
            ),
            ({"messages": user({"type": "file", "file": {"file_data": "data:a/b;base64,"}})}, "neither a PDF nor text"),
            (
                {"messages": user({"type": "file", "file": {"file_data": "data:text/plain;base64,secret"}})},
                "is not text in UTF-8",
            ),
            ({"messages": [{"role": "function", "name": "f", "content": ""}]}, r"messages\[0\].role is function"),
            (
                {
                    "messages": [
                        {"role": "user", "name": "a", "content": ""},
                        {"role": "user", "name": "b", "content": ""},
                    ]
                },
                r"messages\[1\].name",
            ),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[secret"}}],
                        }
                    ]
                },
                r"messages\[0\].tool_calls\[0\].function.arguments is not the text of a JSON object",
            ),
            ({"messages": [{"role": "tool", "content": ""}]}, r"messages\[0\].tool_call_id is missing"),
        ],
    )
    def test_what_that_api_has_no_word_for_is_named(self, fields: Json, what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            from_chat(**fields)
        assert "secret" not in str(caught.value)


def test_input_nested_too_deep_is_an_error() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(DataError, match=r"content\[0\].input can't be written as JSON"):
        to_chat(
            messages=[{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": deep}]}]
        )


def test_a_long_conversation_takes_linear_work() -> None:
    """Quadratic work on 100,000 messages would outlast the suite's time limit."""
    chat = {"model": "m", "messages": HELLO * 100_000}
    asked = messages_from_chat(chat, default_max_tokens=1)
    assert len(asked["messages"][0]["content"]) == 100_000
    assert len(chat_from_messages(asked)["messages"][0]["content"]) == 100_000
