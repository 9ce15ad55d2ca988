"""What the chunks of a streamed chat completion say, piece by piece: the part that all translations of streams share.

Providers differ: an `index` of a tool call may be missing or 0 for all of them, a name may come in pieces or with every
chunk, the first chunk may be empty, usage may stand in any chunk. `CallParts` and `ChunkReader` level that out.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tiercel.errors import UnreadableAnswerError
from tiercel.providers._fields import Fields, Json, of_answer, shown

__all__ = [
    "Arguments",
    "CallBegin",
    "CallParts",
    "ChunkReader",
    "Finish",
    "Piece",
    "Signed",
    "Text",
    "Thought",
    "call_id",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A piece of the answer's text."""

    text: str
    refusal: bool = False
    """Whether it says that the model will not answer."""
    logprobs: Sequence[Json] = ()
    """Of its tokens, where they were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """Whole thinking blocks as Anthropic's API writes them, with their signatures."""

    blocks: Sequence[Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallBegin:
    """A tool call begins."""

    slot: int
    """Which call of the answer it is, from 0."""
    id: str
    name: str
    extra: Json
    """Further fields of the call, as a provider's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """A piece of the arguments of the call in `slot`."""

    slot: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """The answer is whole."""

    reason: str
    choice: Json
    """Further fields of the choice that ends, such as `stop_sequence`."""


Piece = Text | Thought | Signed | CallBegin | Arguments | Finish


def call_id() -> str:
    """An id for a tool call that its provider gave none."""
    return f"call_{uuid.uuid4().hex[:24]}"


def is_object(arguments: str) -> bool:
    """Whether arguments are whole: the text of a JSON object."""
    try:
        of_answer({"arguments": arguments}).json("arguments")
    except UnreadableAnswerError:
        return False
    return bool(arguments.strip())


@dataclass(kw_only=True, slots=True)
class _Call:
    index: int
    id: str = ""
    name: str = ""
    kind: str | None = None
    arguments: list[str] = field(default_factory=list[str])
    extra: Json = field(default_factory=dict[str, Any])
    begun: bool = False


class CallParts:
    """The tool calls of one choice, put together from the pieces of its chunks."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, part: Fields) -> list[Piece]:
        """What one element of a delta's `tool_calls` says; a call begins once its name is whole.

        Raises:
            UnreadableAnswerError: it is no piece of a function call.
        """
        slot = self._slot(part)
        call = self._calls[slot]
        call.id = call.id or part.text("id") or ""
        call.kind = part.text("type") or call.kind
        call.extra |= part.others("index", "id", "type", "function")
        function = part.inner("function")
        if function is None:
            return []
        text = function.text("arguments") or ""
        self._take_name(call, function)
        found: list[Piece] = []
        if text:
            found += self._begin(slot)
            call.arguments.append(text)
            found.append(Arguments(slot=slot, text=text))
        return found

    def begin_all(self) -> list[Piece]:
        """The calls that have not begun, since no arguments came."""
        return [piece for slot in range(len(self._calls)) for piece in self._begin(slot)]

    def arguments(self, slot: int) -> str:
        """The arguments of a call so far."""
        return "".join(self._calls[slot].arguments)

    def whole(self) -> list[Json]:
        """The calls as a chat completion lists them."""
        calls = sorted(self._calls, key=lambda call: call.index)
        return [
            {
                "id": call.id or call_id(),
                "type": call.kind or "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            | call.extra
            if call.name or call.arguments or not call.extra
            else {"id": call.id or call_id(), "type": call.kind or "function"} | call.extra
            for call in calls
        ]

    def _slot(self, part: Fields) -> int:
        index, given = part.whole("index"), part.text("id")
        last = len(self._calls) - 1
        slot = self._slots.get(index) if index is not None else last if last >= 0 else None
        if slot is not None and given and self._calls[slot].id and given != self._calls[slot].id:
            function = part.inner("function")
            # A new id with a name is a new call, whatever its index says; without one it is a provider's carelessness.
            if index is None or (function and function.text("name")):
                slot = None
        if slot is None:
            slot = last + 1
            self._calls.append(_Call(index=slot if index is None else index))
            if index is not None:
                self._slots[index] = slot
        return slot

    def _take_name(self, call: _Call, function: Fields) -> None:
        name = function.text("name") or ""
        if not name or name == call.name:
            return
        if call.begun:
            raise function.wrong("name", "changes after the arguments have begun")
        call.name += name

    def _begin(self, slot: int) -> list[Piece]:
        call = self._calls[slot]
        if call.begun:
            return []
        if not call.name:
            raise UnreadableAnswerError(f"tool_calls[{slot}] of the stream has no name of a function")
        call.begun = True
        call.id = call.id or call_id()
        return [CallBegin(slot=slot, id=call.id, name=call.name, extra=call.extra)]


class ChunkReader:
    """Reads the chunks of a stream that has one choice.

    Attributes:
        id: of the completion; "" until a chunk gives one.
        model: that answers; "" until a chunk names one.
        created: Unix time in seconds; None until a chunk says it.
        usage: the last token counts that came; None when none did.
        calls: the tool calls so far.
        finished: whether the choice has ended.
    """

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.created: int | None = None
        self.usage: Fields | None = None
        self.calls = CallParts()
        self.finished = False

    def read(self, chunk: Json) -> list[Piece]:
        """The pieces of one chunk.

        Raises:
            UnreadableAnswerError: it is no chunk of a chat completion, or one of several choices.
        """
        fields = of_answer(chunk, "the chunk")
        self.id = self.id or fields.text("id") or ""
        self.model = self.model or fields.text("model") or ""
        if self.created is None and (created := fields.number("created")) is not None:
            self.created = int(created)
        self.usage = fields.inner("usage") or self.usage
        found: list[Piece] = []
        for choice in fields.each("choices"):
            if choice.whole("index"):
                raise choice.wrong("index", "is not 0: several choices have no word in this API")
            found += self._choice(choice)
        return found

    def _choice(self, choice: Fields) -> list[Piece]:
        delta = choice.inner("delta")
        found = self._delta(delta, choice.inner("logprobs")) if delta else []
        if reason := choice.text("finish_reason"):
            found += self.calls.begin_all()
            found.append(Finish(reason=reason, choice=choice.others("delta", "index", "finish_reason", "logprobs")))
            self.finished = True
        return found

    def _delta(self, delta: Fields, logprobs: Fields | None) -> list[Piece]:
        found = said(delta, logprobs)
        for part in delta.each("tool_calls"):
            if part.text("type") not in (None, "", "function"):
                raise part.wrong("type", "is not function: other calls have no word in this API")
            found += self.calls.add(part)
        return found


def said(message: Fields, logprobs: Fields | None = None) -> list[Piece]:
    """What a message, or a delta of one, says beside its tool calls.

    Raises:
        UnreadableAnswerError: it says it by other means than text.
    """
    for name in ("audio", "function_call"):
        if message.raw.get(name):
            raise message.wrong(name, "has no word in this API")
    found: list[Piece] = []
    # Some providers write both.
    if thought := message.text("reasoning_content") or message.text("reasoning"):
        found.append(Thought(text=thought))
    if blocks := message.each("thinking_blocks"):
        found.append(Signed(blocks=[block.raw for block in blocks]))
    content = message.raw.get("content")
    if isinstance(content, list):
        found += _said_in_parts(message)
    elif text := message.text("content"):
        found.append(Text(text=text, logprobs=_tokens(logprobs, "content")))
    if text := message.text("refusal"):
        found.append(Text(text=text, refusal=True, logprobs=_tokens(logprobs, "refusal")))
    return found


def _said_in_parts(message: Fields) -> list[Piece]:
    """Content that is a list of parts, as Mistral's reasoning models write it."""
    found: list[Piece] = []
    for part in message.each("content"):
        kind = part.need_text("type")
        if kind == "thinking":
            inner = part.each("thinking") if isinstance(part.raw.get("thinking"), list) else ()
            thought = "".join(p.text("text") or "" for p in inner) if inner else part.text("thinking")
            found.append(Thought(text=thought or ""))
        elif kind in ("text", "refusal"):
            found.append(Text(text=part.need_text(kind), refusal=kind == "refusal"))
        else:
            raise part.wrong("type", f"is {shown(kind)}, which has no word in this API")
    return found


def _tokens(logprobs: Fields | None, name: str) -> Sequence[Json]:
    return [token.raw for token in logprobs.each(name)] if logprobs else ()
