"""Recorded answers, found again by what was asked.

A request is known by its messages, tools and response format, or else by its messages alone (libraries word a tool's
schema in their own ways), or else by its last user message. Ids of tool calls and the order of keys do not count: a
client that goes on from a replayed answer has other ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.providers.tokens import estimate_usage
from tiercel.types import Answer, Example, Message, Usage

__all__ = ["Question", "Recorded", "Recordings", "question_key"]

Json = dict[str, Any]
_encoder = msgspec.json.Encoder(order="deterministic")


class Question(Struct, frozen=True, kw_only=True):
    """What a client asks, whatever API it speaks."""

    messages: tuple[Message, ...]
    tools: list[Json] | None = None
    """In OpenAI's form."""
    response_format: Json | None = None
    model: str | None = None
    """The model that it names; None where it names none."""

    @property
    def last_user(self) -> str:
        """Text of the last user message; empty where there is none."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")


class Recorded(Struct, frozen=True, kw_only=True):
    """A recorded answer."""

    answer: Answer
    model: str | None
    """Who gave it; None where the record does not say."""
    usage: Usage
    """As recorded, else estimated."""
    latency_s: float = 0.0
    """Seconds until it was whole; 0 where the record does not say."""


class Recordings:
    """Answers by what was asked; of several to the same request the first counts.

    Args:
        examples: those without any answer are left out.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._exact: dict[bytes, list[Recorded]] = {}
        self._by_messages: dict[bytes, list[Recorded]] = {}
        self._by_last_user: dict[str, list[Recorded]] = {}
        self._first: list[Recorded] = []
        self.models: list[str] = []
        """All that answered, in the order in which they first did."""
        for example in examples:
            question = Question(messages=example.messages, tools=example.tools, response_format=example.response_format)
            recorded = list(_answers(example))
            if not recorded:
                continue
            self._first = self._first or recorded
            self._exact.setdefault(question_key(question), recorded)
            self._by_messages.setdefault(question_key(Question(messages=question.messages)), recorded)
            self._by_last_user.setdefault(question.last_user, recorded)
            self.models += [r.model for r in recorded if r.model and r.model not in self.models]

    def __len__(self) -> int:
        """How many different requests have an answer."""
        return len(self._exact)

    def find(self, question: Question) -> Recorded | None:
        """The answer to a request: that of the model it names, where that one answered; None where it is unknown."""
        found = self._exact.get(question_key(question))
        found = found or self._by_messages.get(question_key(Question(messages=question.messages)))
        found = found or self._by_last_user.get(question.last_user)
        return _of_model(found, question.model) if found else None

    def first(self, question: Question) -> Recorded | None:
        """The first recorded answer, whatever is asked."""
        return _of_model(self._first, question.model) if self._first else None


def question_key(question: Question) -> bytes:
    """Sixteen bytes that stand for messages, tools and response format."""
    shape = question.response_format
    parts = (
        [_message(m) for m in question.messages],
        [_tool(t) for t in question.tools or ()],
        None if shape == {"type": "text"} else shape,
    )
    return hashlib.blake2b(_encoder.encode(parts), digest_size=16).digest()


def _message(message: Message) -> list[Any]:
    content = message.content
    if isinstance(content, list) and all(part.get("type") in ("text", "input_text") for part in content):
        content = message.text
    calls = [[c.function.name, _arguments(c.function.arguments)] for c in message.tool_calls or ()]
    role = "system" if message.role == "developer" else message.role
    return [role, content or "", calls]


def _arguments(text: str) -> Any:
    try:
        return msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text


def _tool(tool: Json) -> Any:
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    return [function.get("name"), function.get("description"), function.get("parameters")]


def _answers(example: Example) -> Iterable[Recorded]:
    """The frontier's answer first, then those of other models."""
    latencies = {r.model: r.latency_s for r in example.responses if r.latency_s is not None}
    own = example.answer or (example.reference if not example.responses else None)
    if own is not None:
        told = (example.metadata or {}).get("latency_s", latencies.get(example.model or ""))
        usage = example.usage or estimate_usage(example.messages, own, example.tools)
        yield Recorded(answer=own, model=example.model, usage=usage, latency_s=_seconds(told))
    for response in example.responses:
        answer = Answer(content=response.content, tool_calls=response.tool_calls or ())
        if answer != Answer():
            usage = estimate_usage(example.messages, answer, example.tools)
            yield Recorded(answer=answer, model=response.model, usage=usage, latency_s=_seconds(response.latency_s))


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0.0


def _of_model(recorded: Sequence[Recorded], model: str | None) -> Recorded:
    return next((r for r in recorded if model and r.model == model), recorded[0])
