"""A recorded answer in the words of OpenAI's chat completions or of Anthropic's messages, whole or as events.

A `Dialect` reads a request into a `Question` and writes the answer to it. Embeddings are made here too: hashed words,
the same for the same text, close for texts that share words, and good for nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from tiercel.errors import DataError
from tiercel.providers.recordings import Question, Recorded
from tiercel.providers.tokens import estimate_tokens
from tiercel.types import FunctionCall, Message, ToolCall, Usage

__all__ = ["CHAT", "MESSAGES", "Asked", "Dialect", "Event", "embeddings", "openai_error", "pieces"]

Json = dict[str, Any]
Event = tuple[bytes, int]
"""A server-sent event and how many tokens it brings."""

_T = TypeVar("_T")

DIMENSIONS = 256
_PIECE = re.compile(r"\s?\S{1,7}|\s+")


class Asked(Struct, frozen=True, kw_only=True):
    """A request to play an answer."""

    question: Question
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the token counts."""
    n: int = 1
    """Choices; all are the same."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one API is read and written.

    Attributes:
        read: a request from its body; raises DataError.
        whole: the body of an answer.
        events: the events of an answer's stream.
        error: the body of an error, from status and message.
    """

    read: Callable[[bytes], Asked]
    whole: Callable[[Asked, Recorded], bytes]
    events: Callable[[Asked, Recorded], Iterator[Event]]
    error: Callable[[int, str], bytes]


def pieces(text: str) -> list[str]:
    """A text in parts of about a token each; joined, they are the text again."""
    return _PIECE.findall(text)


def _decode(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError("the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        detail = str(error).removeprefix("JSON is malformed: ")
        raise DataError(f"the body is not valid JSON: {detail}") from None


# OpenAI's chat completions


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Chat(Struct):
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    tools: list[Json] | None = None
    response_format: Json | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None


def _read_chat(raw: bytes) -> Asked:
    body = _decode(raw, _Chat)
    question = Question(
        messages=tuple(body.messages), tools=body.tools, response_format=body.response_format, model=body.model
    )
    return Asked(
        question=question,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        n=body.n or 1,
    )


def _head(asked: Asked, recorded: Recorded, kind: str) -> Json:
    model = recorded.model or asked.question.model or "replay"
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _calls(recorded: Recorded) -> list[Json]:
    return [
        {
            "id": call.id or f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in recorded.answer.tool_calls
    ]


def _chat_usage(usage: Usage, n: int) -> Json:
    output = usage.output_tokens * n
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": output,
        "total_tokens": usage.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens * n},
    }


def _finish(recorded: Recorded) -> str:
    return "tool_calls" if recorded.answer.tool_calls else "stop"


def _whole_chat(asked: Asked, recorded: Recorded) -> bytes:
    message: Json = {"role": "assistant", "content": recorded.answer.content, "refusal": None}
    if calls := _calls(recorded):
        message["tool_calls"] = calls
    choices = [
        {"index": i, "message": message, "logprobs": None, "finish_reason": _finish(recorded)} for i in range(asked.n)
    ]
    head = _head(asked, recorded, "chat.completion")
    return msgspec.json.encode(head | {"choices": choices, "usage": _chat_usage(recorded.usage, asked.n)})


def _chat_events(asked: Asked, recorded: Recorded) -> Iterator[Event]:
    head = _head(asked, recorded, "chat.completion.chunk")
    usage = {"usage": None} if asked.include_usage else {}

    def event(index: int, delta: Json, tokens: int = 0, finish: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + msgspec.json.encode(head | {"choices": [choice]} | usage) + b"\n\n", tokens

    for index in range(asked.n):
        yield event(index, {"role": "assistant", "content": None if recorded.answer.content is None else ""})
        for piece in pieces(recorded.answer.text):
            yield event(index, {"content": piece}, 1)
        for number, call in enumerate(_calls(recorded)):
            arguments, call["function"]["arguments"] = call["function"]["arguments"], ""
            yield event(index, {"tool_calls": [{"index": number} | call]}, 1)
            for piece in pieces(arguments):
                yield event(index, {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}, 1)
        yield event(index, {}, finish=_finish(recorded))
    if asked.include_usage:
        last = head | {"choices": [], "usage": _chat_usage(recorded.usage, asked.n)}
        yield b"data: " + msgspec.json.encode(last) + b"\n\n", 0
    yield b"data: [DONE]\n\n", 0


def openai_error(status: int, message: str) -> bytes:
    """An error as OpenAI's API words it."""
    kinds = {404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    code = {404: "not_recorded", 429: "rate_limit_exceeded"}.get(status)
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


CHAT = Dialect(read=_read_chat, whole=_whole_chat, events=_chat_events, error=openai_error)

# Anthropic's messages


class _Turn(Struct):
    role: str
    content: str | list[Json] | None = None


class _Messages(Struct):
    messages: Annotated[list[_Turn], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Json] | None = None
    tools: list[Json] | None = None
    stream: bool | None = None


def _read_messages(raw: bytes) -> Asked:
    body = _decode(raw, _Messages)
    messages = [Message(role="system", content=body.system)] if body.system else []
    for turn in body.messages:
        messages += _turn(turn)
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            },
        }
        for tool in body.tools or ()
    ]
    question = Question(messages=tuple(messages), tools=tools or None, model=body.model)
    return Asked(question=question, stream=bool(body.stream))


def _turn(turn: _Turn) -> Iterator[Message]:
    """A turn as messages of a chat: results of tools are messages of their own."""
    if not isinstance(turn.content, list):
        yield Message(role=turn.role, content=turn.content)
        return
    calls, parts = list[ToolCall](), list[Json]()
    for block in turn.content:
        if block.get("type") == "tool_use":
            arguments = msgspec.json.encode(block.get("input") or {}).decode()
            calls.append(ToolCall(function=FunctionCall(name=str(block.get("name")), arguments=arguments)))
        elif block.get("type") == "tool_result":
            content = block.get("content")
            yield Message(role="tool", content=content if isinstance(content, str | list) else None)
        else:
            parts.append(block)
    if parts or calls:
        yield Message(role=turn.role, content=parts or None, tool_calls=tuple(calls) or None)


def _message(asked: Asked, recorded: Recorded) -> Json:
    """A message without its content; its output is counted as it stands at the beginning of a stream."""
    usage = recorded.usage
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": recorded.model or asked.question.model or "replay",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.input_tokens - usage.cached_input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_input_tokens,
            "output_tokens": 1,
        },
    }


def _blocks(recorded: Recorded) -> Iterator[tuple[Json, str]]:
    """Each block of an answer as it begins, and the text that follows: words, or a call's input as JSON."""
    if recorded.answer.text:
        yield {"type": "text", "text": ""}, recorded.answer.text
    for call in recorded.answer.tool_calls:
        id_ = call.id or f"toolu_{uuid.uuid4().hex[:24]}"
        yield {"type": "tool_use", "id": id_, "name": call.function.name, "input": {}}, call.function.arguments


def _end(recorded: Recorded) -> Json:
    return {"stop_reason": "tool_use" if recorded.answer.tool_calls else "end_turn", "stop_sequence": None}


def _input(arguments: str) -> Json:
    """A call's arguments as an object, which is all that a block can hold."""
    try:
        return msgspec.json.decode(arguments or "{}", type=Json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _whole_message(asked: Asked, recorded: Recorded) -> bytes:
    message = _message(asked, recorded) | _end(recorded)
    message["usage"]["output_tokens"] = recorded.usage.output_tokens
    message["content"] = [
        block | ({"text": text} if block["type"] == "text" else {"input": _input(text)})
        for block, text in _blocks(recorded)
    ]
    return msgspec.json.encode(message)


def _message_events(asked: Asked, recorded: Recorded) -> Iterator[Event]:
    def event(kind: str, tokens: int = 0, **fields: Any) -> Event:
        data = msgspec.json.encode({"type": kind, **fields})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n", tokens

    yield event("message_start", message=_message(asked, recorded))
    yield event("ping")
    for index, (block, text) in enumerate(_blocks(recorded)):
        yield event("content_block_start", index=index, content_block=block)
        words = block["type"] == "text"
        kind, name = ("text_delta", "text") if words else ("input_json_delta", "partial_json")
        for piece in pieces(text):
            yield event("content_block_delta", 1, index=index, delta={"type": kind, name: piece})
        yield event("content_block_stop", index=index)
    yield event("message_delta", delta=_end(recorded), usage={"output_tokens": recorded.usage.output_tokens})
    yield event("message_stop")


def _anthropic_error(status: int, message: str) -> bytes:
    kinds = {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


MESSAGES = Dialect(read=_read_messages, whole=_whole_message, events=_message_events, error=_anthropic_error)

# Embeddings


class _Embed(Struct):
    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None


def embeddings(raw: bytes) -> bytes:
    """The answer to a request for embeddings: hashed words, each vector of length 1.

    Raises:
        DataError: it is no such request.
    """
    body = _decode(raw, _Embed)
    inputs: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if inputs and all(isinstance(i, int) for i in inputs):
        inputs = [inputs]
    if not inputs:
        raise DataError("`input` is empty; give a text or a list of texts")
    texts = [i if isinstance(i, str) else " ".join(map(str, i if isinstance(i, list) else [i])) for i in inputs]
    data = list[Json]()
    for index, text in enumerate(texts):
        vector: Any = _hashed(text, body.dimensions or DIMENSIONS)
        if body.encoding_format == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(map(estimate_tokens, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": body.model or "hashed-words", "usage": usage})


def _hashed(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        drawn = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        vector[(drawn >> 1) % dimensions] += 1.0 if drawn & 1 else -1.0
    length = math.hypot(*vector)
    if not length:  # words that cancel each other out
        vector[0], length = 1.0, 1.0
    return [value / length for value in vector]
