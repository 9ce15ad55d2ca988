"""A chat completion request for a provider that takes OpenAI's own fields and refuses others, as OpenAI does.

Translations from other APIs leave in a request what its own provider would want back: marks for a cache, signed
thinking, results of tools with images. `strict_chat` is the last step before such a request goes to a strict provider:

| in the request | sent |
|---|---|
| `cache_control`, `citations`, `context` of parts and tools, `caller`, `eager_input_streaming` | left out |
| `thinking_blocks`, `reasoning_content` of messages | left out |
| `thinking`, `output_config`, `context_management` | left out: `reasoning_effort` says what can be said |
| `is_error` of a tool's result | "Error: " before its text |
| images and files in a tool's result | a user's message behind the results that stand together |
| `user` longer than 64 characters | its SHA-256, in hexadecimal |

`top_k` and fields that nobody knows stay: the provider says whether it takes them.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tiercel.providers._fields import Fields, Json, of_request

__all__ = ["strict_chat"]

_OF_REQUEST = ("thinking", "output_config", "context_management")
_OF_MESSAGE = ("thinking_blocks", "reasoning_content", "cache_control", "is_error")
_OF_PART = ("cache_control", "citations", "context")
_OF_CALL = ("cache_control", "caller")
_OF_TOOL = ("cache_control", "eager_input_streaming")
_LONGEST_USER = 64


def strict_chat(body: Json) -> Json:
    """The request in OpenAI's own words.

    Args:
        body: a chat completion request; the result shares parts of it.

    Raises:
        DataError: messages, tools or the user are not of the form that they have in chat completions.
    """
    fields = of_request(body)
    chat = fields.others(*_OF_REQUEST)
    messages: list[Json] = []
    moved: list[Json] = []
    for message in fields.each("messages"):
        if moved and message.raw.get("role") != "tool":
            messages.append({"role": "user", "content": moved})
            moved = []
        messages.append(_message(message, moved))
    if moved:
        messages.append({"role": "user", "content": moved})
    if "messages" in body:
        chat["messages"] = messages
    if tools := fields.each("tools"):
        chat["tools"] = [tool.others(*_OF_TOOL) for tool in tools]
    user = fields.text("user")
    if user and len(user) > _LONGEST_USER:
        chat["user"] = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
    return chat


def _message(message: Fields, moved: list[Json]) -> Json:
    """One message; what a tool's result can't hold is added to `moved`."""
    found = message.others(*_OF_MESSAGE)
    parts: list[Json] | None = None
    if isinstance(message.raw.get("content"), list):
        parts = [part.others(*_OF_PART) for part in message.each("content")]
    if message.raw.get("role") == "tool":
        parts = _result(message, parts, moved)
    if parts is not None:
        found["content"] = parts
    if calls := message.each("tool_calls"):
        found["tool_calls"] = [call.others(*_OF_CALL) for call in calls]
    return found


def _result(message: Fields, parts: list[Json] | None, moved: list[Json]) -> Any:
    """Content of a tool's result: text alone."""
    failed = "Error: " if message.raw.get("is_error") is True else ""
    if parts is None:
        content = message.text("content")
        return failed + (content or "") if failed else content
    texts = [part for part in parts if part.get("type") == "text"]
    others = [part for part in parts if part.get("type") != "text"]
    if others:
        name = message.text("tool_call_id") or ""
        moved += [{"type": "text", "text": f"From the result of the tool call {name}:"}, *others]
    if failed:
        texts.insert(0, {"type": "text", "text": failed.strip()})
    return texts or ("(see below)" if others else "")
