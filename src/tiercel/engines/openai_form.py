"""OpenAI's chat completions as JSON: requests from our values, and our values from answers and chunks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from tiercel.engines.protocol import Delta, Generated, GenerationRequest, Token, ToolCallPiece
from tiercel.errors import EngineError
from tiercel.types import Answer, FunctionCall, Message, ToolCall

__all__ = ["chunk_delta", "messages_json", "read_answer", "request_json"]

Json = dict[str, Any]

TOKEN_ID = "token_id:"


def messages_json(messages: Sequence[Message]) -> list[Json]:
    """Messages as the API takes them; every one has a content, which some chat templates rely on."""
    made = list[Json]()
    for message in messages:
        one: Json = msgspec.to_builtins(message)
        one.setdefault("content", None)
        for i, call in enumerate(one.get("tool_calls") or ()):
            call.setdefault("type", "function")
            call.setdefault("id", f"call_{i}")
            call["function"].setdefault("arguments", "{}")
        made.append(one)
    return made


def request_json(request: GenerationRequest) -> Json:
    """The body of a request, without what is said differently to different servers: schema, grammar, adapter."""
    body: Json = {
        "messages": messages_json(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": 1.0,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = request.tools
        if request.tool_choice is not None:
            body["tool_choice"] = request.tool_choice
    if request.logprobs is not None:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    return body


def read_answer(found: Json, wanted: GenerationRequest) -> Generated:
    """The answer of a chat completion.

    Raises:
        EngineError: it is no chat completion.
    """
    try:
        choice = found["choices"][0]
        message, usage = choice["message"], found.get("usage") or {}
        calls = tuple(
            ToolCall(
                id=call.get("id"),
                function=FunctionCall(name=call["function"]["name"], arguments=_arguments(call["function"])),
            )
            for call in message.get("tool_calls") or ()
        )
        content = message.get("content")
        return Generated(
            answer=Answer(content=content if content or not calls else None, tool_calls=calls),
            finish_reason="tool_calls" if calls else choice.get("finish_reason") or "stop",
            input_tokens=usage.get("prompt_tokens") or 0,
            output_tokens=usage.get("completion_tokens") or 0,
            tokens=_tokens(choice.get("logprobs"), wanted),
            estimated="prompt_tokens" not in usage,
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EngineError("the server's answer is no chat completion; check that the URL is of such an API") from None


def chunk_delta(chunk: Json, wanted: GenerationRequest) -> Delta | None:
    """What a chunk of a stream adds; None where it adds nothing.

    Raises:
        EngineError: it is no chunk of a chat completion.
    """
    try:
        usage = chunk.get("usage") or {}
        choice = (chunk.get("choices") or [{}])[0]
        told = choice.get("delta") or {}
        pieces = tuple(
            ToolCallPiece(
                index=call.get("index", i),
                id=call.get("id"),
                name=call["function"].get("name"),
                arguments=call["function"].get("arguments") or "",
            )
            for i, call in enumerate(told.get("tool_calls") or ())
        )
        delta = Delta(
            text=told.get("content") or "",
            tool_calls=pieces,
            tokens=_tokens(choice.get("logprobs"), wanted),
            finish_reason=choice.get("finish_reason"),
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EngineError("the server's stream holds what is no chunk of a chat completion") from None
    return None if delta == Delta() else delta


def _arguments(function: Json) -> str:
    """Arguments as text; some servers write them as an object."""
    given = function.get("arguments")
    return given if isinstance(given, str) else json.dumps(given or {})


def _tokens(logprobs: Json | None, wanted: GenerationRequest) -> tuple[Token, ...]:
    if not logprobs or wanted.logprobs is None:
        return ()
    return tuple(
        _token(entry, tuple(_token(other) for other in (entry.get("top_logprobs") or ())[: wanted.logprobs]))
        for entry in logprobs.get("content") or ()
    )


def _token(entry: Json, alternatives: tuple[Token, ...] = ()) -> Token:
    text, id_ = entry["token"], entry.get("id")
    if id_ is None and text.startswith(TOKEN_ID):
        # vLLM writes the id in the text's place where it is asked for ids; the text is in the bytes.
        id_, text = int(text.removeprefix(TOKEN_ID)), bytes(entry.get("bytes") or ()).decode(errors="replace")
        text = "" if text.startswith(TOKEN_ID) else text
    return Token(text=text, logprob=entry["logprob"], id=id_, alternatives=alternatives)
