from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from openai.types.chat import ChatCompletionMessageParam
from pydantic import ConfigDict, TypeAdapter

from tests.providers.chats import Json, anything, broken, chats, few
from tiercel.errors import DataError
from tiercel.providers.strict_chat import strict_chat

IMAGE = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
MESSAGE = TypeAdapter(ChatCompletionMessageParam, config=ConfigDict(extra="forbid"))


def messages(*given: Json) -> list[Json]:
    return strict_chat({"model": "m", "messages": list(given)})["messages"]


def test_what_openai_has_no_word_for_is_left_out() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "model": "m",
        "top_k": 5,
        "reasoning_effort": "low",
        "thinking": {"type": "adaptive"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"} | mark]},
            {
                "role": "assistant",
                "content": "x",
                "reasoning_content": "y",
                "thinking_blocks": [{}],
                "tool_calls": [call | mark],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "f"}} | mark],
    }
    assert strict_chat(body) == {
        "model": "m",
        "top_k": 5,
        "reasoning_effort": "low",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "x", "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


def test_images_of_results_go_behind_all_results() -> None:
    found = messages(
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}, IMAGE]},
        {"role": "tool", "tool_call_id": "b", "content": [IMAGE]},
        {"role": "user", "content": "hello"},
    )
    told = [{"type": "text", "text": f"From the result of the tool call {name}:"} for name in "ab"]
    assert found == [
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "tool", "tool_call_id": "b", "content": "(see below)"},
        {"role": "user", "content": [told[0], IMAGE, told[1], IMAGE]},
        {"role": "user", "content": "hello"},
    ]
    for message in found:
        MESSAGE.validate_python(message)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no file", "Error: no file"),
        (
            [{"type": "text", "text": "no file"}],
            [{"type": "text", "text": "Error:"}, {"type": "text", "text": "no file"}],
        ),
    ],
)
def test_a_failed_result_says_so(content: Any, told: Any) -> None:
    message = {"role": "tool", "tool_call_id": "a", "content": content}
    assert messages(message | {"is_error": True}) == [message | {"content": told}]
    assert messages(message | {"is_error": False}) == [message]


def test_a_long_user_is_one_that_can_be_sent_and_always_the_same() -> None:
    first, again = (strict_chat({"user": "u" * 65})["user"] for _ in range(2))
    assert first == again
    assert len(first) == 64
    assert strict_chat({"user": "u" * 64}) == {"user": "u" * 64}


@few
@given(chats)
def test_a_chat_without_marks_is_sent_as_it_is(chat: Json) -> None:
    once = strict_chat(chat)
    assert strict_chat(once) == once
    for message in once["messages"]:
        MESSAGE.validate_python(message)


@few
@given(broken(chats) | anything)
def test_any_json_is_a_strict_chat_or_an_error(chat: Any) -> None:
    with suppress(DataError):
        strict_chat(chat)
