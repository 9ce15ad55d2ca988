"""What a stream tells as far as it went, in any dialect: for streams that no reader of whole answers takes.

A client may leave in the middle, an answer may be too long to be kept, or hold blocks that chat completions have no
word for. All of them are paid for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.gateway.transcripts import usage_of
from tiercel.providers.sse import EventReader
from tiercel.types import Usage

__all__ = ["Heard", "hear"]

Json = dict[str, Any]

_ENDS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})
_SAID = ("content", "reasoning_content", "reasoning", "refusal", "text", "thinking", "partial_json")
"""Fields of a delta that hold what a model wrote."""


class Heard(Struct, frozen=True, kw_only=True):
    """What the events of a stream tell."""

    usage: Usage | None
    """The last token counts; None where none were told."""
    text: str
    """All that the model wrote, arguments of calls included."""
    ended: bool
    """Whether the stream came to its end, so that the counts are those of the whole answer."""


def hear(data: bytes) -> Heard:
    """Read the events of a stream that may begin, break off or end anywhere."""
    counts: Json = {}
    texts: list[str] = []
    ended = False
    for event in _events(data):
        if event is None:
            ended = True
            continue
        ended = ended or str(event.get("type")) in _ENDS
        for holder in (event, event.get("message"), event.get("response")):
            if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
                counts |= {name: value for name, value in usage.items() if value is not None}
        texts += _texts(event)
    return Heard(usage=usage_of(counts or _buried_counts(data)), text="".join(texts), ended=ended)


def _events(data: bytes) -> Iterator[Json | None]:
    """The events that can be read; None for the mark of the end."""
    reader = EventReader(limit=len(data) + 1)
    for event in [*reader.feed(data), *reader.end()]:
        if event.data == b"[DONE]":
            yield None
            continue
        try:
            told = msgspec.json.decode(event.data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            yield told


def _texts(event: Json) -> Iterator[str]:
    if isinstance(delta := event.get("delta"), str):  # of Responses
        yield delta
    choices = event.get("choices")
    for part in [event.get("delta"), *(choices if isinstance(choices, list) else ())]:
        if not isinstance(part, dict):
            continue
        said = part["delta"] if isinstance(part.get("delta"), dict) else part
        yield from (text for name in _SAID if isinstance(text := said.get(name), str))
        calls = said.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                yield from (text for name in ("name", "arguments") if isinstance(text := function.get(name), str))


def _buried_counts(data: bytes) -> Json | None:
    """The last counts in an event whose beginning is not there; the last one of Responses holds the whole answer."""
    _, found, rest = data.rpartition(b'"usage":')
    if not found:
        return None
    try:
        counts, _ = json.JSONDecoder().raw_decode(rest.decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return None
    return counts if isinstance(counts, dict) else None
