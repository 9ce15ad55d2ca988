"""What was answered, read again for the record: token counts, and the whole answer as a chat completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from tiercel.errors import TiercelError
from tiercel.gateway.costing import MOST_TOKENS
from tiercel.gateway.fronts import LONGEST_MODEL
from tiercel.providers.chunks import assemble
from tiercel.providers.messages_form import CompletionChunks, completion_from_message
from tiercel.providers.sse import EventReader
from tiercel.types import Usage

__all__ = ["ChunkReader", "chunk_reader", "completion_of", "told_usage", "usage_of"]

Json = dict[str, Any]


class _Told(Struct):
    model: Any = None
    usage: Any = None


_told = msgspec.json.Decoder(_Told)


def told_usage(raw: bytes) -> tuple[str | None, Usage | None]:
    """The model and the token counts that an answer names, in any dialect; None where it names none."""
    try:
        told = _told.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None, None
    named = isinstance(told.model, str) and len(told.model) <= LONGEST_MODEL
    return (told.model if named else None), usage_of(told.usage)


def usage_of(raw: Any) -> Usage | None:
    """Token counts from the `usage` of an answer; None where there is none.

    OpenAI's input counts hold what its cache was read or written for, Anthropic's do not: that is added here.
    """
    if not isinstance(raw, dict):
        return None
    if "input_tokens" in raw:
        read, wrote = raw.get("input_tokens_details"), raw.get("output_tokens_details")
        cached, stored = _count(raw.get("cache_read_input_tokens")), _count(raw.get("cache_creation_input_tokens"))
        inputs = _count(raw["input_tokens"]) + cached + stored
        outputs = _count(raw.get("output_tokens"))
    else:
        read, wrote = raw.get("prompt_tokens_details"), raw.get("completion_tokens_details")
        cached = _count(raw.get("prompt_cache_hit_tokens"))  # as DeepSeek says it
        inputs, outputs = _count(raw.get("prompt_tokens")), _count(raw.get("completion_tokens"))
        stored = _count(read.get("cache_write_tokens")) if isinstance(read, dict) else 0
    if not inputs and not outputs:
        return None
    cached = _count(read.get("cached_tokens")) if isinstance(read, dict) else cached
    reasoning = _count(wrote.get("reasoning_tokens")) if isinstance(wrote, dict) else 0
    cached = min(cached, inputs)
    stored = min(stored, inputs - cached)
    times = raw.get("cache_creation")
    stored_1h = min(_count(times.get("ephemeral_1h_input_tokens")), stored) if isinstance(times, dict) else 0
    return Usage(
        input_tokens=inputs,
        cached_input_tokens=cached,
        cache_write_tokens=stored - stored_1h,
        cache_write_1h_tokens=stored_1h,
        output_tokens=outputs,
        reasoning_tokens=min(reasoning, outputs),
    )


def _count(value: Any) -> int:
    return min(value, MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


class ChunkReader(Protocol):
    """Reads a provider's stream as chat chunks."""

    def feed(self, data: bytes) -> list[Json]:
        """The chunks that end in the next bytes."""
        ...

    def end(self) -> list[Json]:
        """The chunks that were still due."""
        ...


class _ChatChunks:
    def __init__(self) -> None:
        self._reader = EventReader()

    def feed(self, data: bytes) -> list[Json]:
        return [chunk for event in self._reader.feed(data) if (chunk := _decoded(event.data)) is not None]

    def end(self) -> list[Json]:
        return [chunk for event in self._reader.end() if (chunk := _decoded(event.data)) is not None]


def _decoded(data: bytes) -> Json | None:
    if data == b"[DONE]":
        return None
    try:
        chunk = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return chunk if isinstance(chunk, dict) else None


class _MessageChunks:
    """Anthropic's events as chat chunks."""

    def __init__(self) -> None:
        self._reader = EventReader()
        self._chunks = CompletionChunks(include_usage=True)

    def feed(self, data: bytes) -> list[Json]:
        return [chunk for event in self._reader.feed(data) for chunk in self._read(event.data)]

    def end(self) -> list[Json]:
        rest = [chunk for event in self._reader.end() for chunk in self._read(event.data)]
        return rest + self._chunks.end()

    def _read(self, data: bytes) -> list[Json]:
        event = _decoded(data)
        return [] if event is None else self._chunks.feed(event)


def chunk_reader(form: str) -> ChunkReader:
    """What reads a provider's stream of a dialect as chat chunks."""
    return _MessageChunks() if form == "messages" else _ChatChunks()


def completion_of(answer: Json | bytes, form: str, *, exact: bool = False) -> Json | None:
    """An answer as a chat completion.

    Args:
        answer: a chat completion, or a provider's bytes.
        form: dialect of the bytes: the name of an API, with " stream" behind it for events.
        exact: whether a client of that API is to be given the answer again, which has to be all there then.

    Returns:
        None where the answer has no such form, or can't be read.
    """
    if isinstance(answer, dict):
        return answer
    dialect, _, stream = form.partition(" ")
    try:
        if dialect == "responses":
            told = _last_response(answer) if stream else msgspec.json.decode(answer)
            return None if told is None or (exact and not _is_plain(told)) else _from_response(told)
        if stream:
            completion = _assembled(answer, dialect)
        else:
            told = msgspec.json.decode(answer)
            completion = _COMPLETIONS[dialect](told) if isinstance(told, dict) else None
        return None if exact and completion is not None and _says_less(completion, dialect) else completion
    except (msgspec.DecodeError, ValueError, LookupError, TypeError, AttributeError, RecursionError, TiercelError):
        # It was passed on as it came; what can't be read is not kept.
        return None


def _says_less(completion: Json, dialect: str) -> bool:
    """Whether some of what was answered in a dialect has lost its form or its place."""
    if dialect == "completions":
        return any(choice.get("logprobs") for choice in completion["choices"])
    return dialect == "messages" and any(choice["message"].get("citations") for choice in completion["choices"])


def _is_plain(response: Json) -> bool:
    """Whether a chat completion says all that a Response does: one text and calls."""
    items = response.get("output") or ()
    return sum(item.get("type") == "message" for item in items) <= 1 and all(map(_is_plain_item, items))


def _is_plain_item(item: Json) -> bool:
    if item.get("type") == "reasoning":
        return not any(item.get(name) for name in ("summary", "content", "encrypted_content"))
    parts = item.get("content") or ()
    plain = all(p.get("type") == "output_text" and not p.get("annotations") and not p.get("logprobs") for p in parts)
    return item.get("type") == "function_call" or (item.get("type") == "message" and plain)


def _assembled(answer: bytes, dialect: str) -> Json | None:
    reader = chunk_reader(dialect)
    chunks = reader.feed(answer) + reader.end()
    if dialect == "completions":
        chunks = [_from_text(chunk, "delta") | {"object": "chat.completion.chunk"} for chunk in chunks]
    return assemble(chunks) if chunks else None


def _from_text(told: Json, spoken: str = "message") -> Json:
    """A text completion as a chat completion; a chunk of one with `spoken` as delta."""
    choices = [
        {
            "index": choice.get("index", 0),
            "finish_reason": choice.get("finish_reason"),
            "logprobs": choice.get("logprobs"),
            spoken: {"role": "assistant", "content": choice.get("text")},
        }
        for choice in told.get("choices") or ()
    ]
    return {**told, "choices": choices}


def _from_response(told: Json) -> Json:
    """A Response as a chat completion: its texts and calls."""
    texts: list[str] = []
    calls: list[Json] = []
    for item in told.get("output") or ():
        if item.get("type") == "message":
            texts += [part["text"] for part in item.get("content") or () if part.get("type") == "output_text"]
        elif item.get("type") == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
    message: Json = {"role": "assistant", "content": "".join(texts) or None}
    if calls:
        message["tool_calls"] = calls
    whole = told.get("status") == "completed"
    reason = ("tool_calls" if calls else "stop") if whole else "length"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": told.get("id"), "model": told.get("model"), "choices": [choice], "usage": told.get("usage")}


def _last_response(answer: bytes) -> Json | None:
    """The Response that a stream's last events hold."""
    reader = EventReader()
    for event in reversed([*reader.feed(answer), *reader.end()]):
        told = _decoded(event.data)
        if told is not None and isinstance(told.get("response"), dict):
            return told["response"]
    return None


_COMPLETIONS: dict[str, Callable[[Json], Json]] = {
    "chat": lambda told: told,
    "completions": _from_text,
    "messages": completion_from_message,
}
