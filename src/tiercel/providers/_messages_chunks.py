"""A stream of Anthropic's API as one of a chat completion."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tiercel.errors import UnreadableAnswerError
from tiercel.providers._fields import Fields, Json, json_text, of_answer, shown
from tiercel.providers._messages_answer import completion_usage, finish_reason
from tiercel.providers._messages_content import NO_CHAT_WORD
from tiercel.providers._messages_errors import CUT_OFF, openai_error

__all__ = ["CompletionChunks"]


@dataclass(kw_only=True, slots=True)
class _Block:
    """A content block that is open."""

    kind: str
    slot: int = 0
    whole: Json = field(default_factory=dict[str, Any])
    """As its first event gave it."""
    pieces: list[str] = field(default_factory=list[str])
    signature: list[str] = field(default_factory=list[str])
    spoken: bool = False
    """Whether arguments have been passed on."""


class CompletionChunks:
    """Events of Anthropic's API in, chunks of a chat completion out; an error comes out as {"error": {...}}.

    Args:
        include_usage: whether a last chunk holds the token counts, as `stream_options.include_usage` asks for.
        created: Unix time in seconds; None for now.
    """

    def __init__(self, *, include_usage: bool = False, created: int | None = None) -> None:
        self._include_usage = include_usage
        self._head: Json | None = None
        self._created = int(time.time()) if created is None else created
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._text: list[str] = []
        self._usage: Json = {}
        self._finished = False
        self._over = False

    @property
    def usage(self) -> Json | None:
        """The token counts so far, as OpenAI's API gives them; None before the first."""
        return completion_usage(of_answer(self._usage, "usage")) if self._usage else None

    def feed(self, event: Json) -> list[Json]:
        """The chunks that an event gives rise to; none for a ping or an event that nobody knows yet.

        Raises:
            UnreadableAnswerError: it is no event of a message, or its content has no word in chat completions.
        """
        fields = of_answer(event, "the event")
        kind = fields.need_text("type")
        if self._over:
            return []
        if kind == "error":
            self._over = True
            return [openai_error(event)]
        if kind == "message_start":
            return self._start(fields.need_inner("message"))
        if kind in ("ping", "") or not kind.startswith(("message_", "content_block_")):
            return []
        if self._head is None:
            raise fields.wrong("type", f"is {shown(kind)} before message_start")
        if kind == "content_block_start":
            return self._begin(fields)
        if kind == "content_block_delta":
            return self._delta(fields)
        if kind == "content_block_stop":
            return self._stop(fields.count("index"))
        if kind == "message_delta":
            return self._end(fields)
        return self._last() if kind == "message_stop" else []

    def end(self) -> list[Json]:
        """Nothing after a whole message, else an error: no more events come."""
        if self._over:
            return []
        self._over = True
        return [CUT_OFF]

    def _start(self, message: Fields) -> list[Json]:
        self._head = {
            "id": message.text("id") or f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": message.text("model") or "",
        } | ({"usage": None} if self._include_usage else {})
        self._count(message)
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def _begin(self, event: Fields) -> list[Json]:
        block = event.need_inner("content_block")
        kind, index = block.need_text("type"), event.count("index")
        if index in self._blocks:
            raise event.wrong("index", "is that of a block that is open")
        opened = self._blocks[index] = _Block(kind=kind, whole=block.raw)
        if kind == "text":
            opened.whole = {}
            return self._said(block.text("text") or "")
        if kind == "thinking":
            opened.signature.append(block.text("signature") or "")
            return self._thought(opened, block.text("thinking") or "")
        if kind == "tool_use":
            opened.slot, self._calls = self._calls, self._calls + 1
            block.inner("input")
            call: Json = {"index": opened.slot, "id": block.need_text("id"), "type": "function"}
            call["function"] = {"name": block.need_text("name"), "arguments": ""}
            return [self._chunk({"tool_calls": [call | block.others("type", "id", "name", "input")]})]
        if kind != "redacted_thinking":
            raise block.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
        return []

    def _delta(self, event: Fields) -> list[Json]:
        delta = event.need_inner("delta")
        block = self._blocks.get(event.count("index"))
        if block is None:
            raise event.wrong("index", "is that of no open block")
        kind = delta.need_text("type")
        if kind == "text_delta" and block.kind == "text":
            return self._said(delta.need_text("text"))
        if kind == "input_json_delta" and block.kind == "tool_use":
            return self._arguments(block, delta.need_text("partial_json"))
        if kind == "thinking_delta" and block.kind == "thinking":
            return self._thought(block, delta.need_text("thinking"))
        if kind == "signature_delta" and block.kind == "thinking":
            block.signature.append(delta.need_text("signature"))
            return []
        if kind == "citations_delta":
            return [self._chunk({"citations": [delta.need_inner("citation").raw]})]
        raise delta.wrong("type", f"is {shown(kind)}, which does not belong to its block")

    def _said(self, text: str) -> list[Json]:
        self._text.append(text)
        return [self._chunk({"content": text})] if text else []

    def _thought(self, block: _Block, text: str) -> list[Json]:
        block.pieces.append(text)
        return [self._chunk({"reasoning_content": text})] if text else []

    def _arguments(self, block: _Block, text: str) -> list[Json]:
        if not text:
            return []
        block.spoken = True
        return [self._chunk({"tool_calls": [{"index": block.slot, "function": {"arguments": text}}]})]

    def _stop(self, index: int) -> list[Json]:
        block = self._blocks.pop(index, None)
        if block is None:
            raise UnreadableAnswerError("index is that of no open block")
        if block.kind == "tool_use" and not block.spoken:
            try:
                return self._arguments(block, json_text(block.whole.get("input") or {}))
            except (ValueError, RecursionError):
                raise UnreadableAnswerError("content_block.input can't be written as JSON") from None
        if block.kind == "thinking":
            signed = block.whole | {"thinking": "".join(block.pieces), "signature": "".join(block.signature)}
            return [self._chunk({"thinking_blocks": [signed]})]
        if block.kind == "redacted_thinking":
            return [self._chunk({"thinking_blocks": [block.whole]})]
        return []

    def _end(self, event: Fields) -> list[Json]:
        self._count(event)
        delta = event.inner("delta")
        stop = delta.text("stop_reason") if delta else None
        if delta is None or stop is None or self._finished:
            return []
        found = [chunk for index in list(self._blocks) for chunk in self._stop(index)]
        details = delta.inner("stop_details")
        refusal = details.text("explanation") if details else None
        if refusal and refusal != "".join(self._text):
            found.append(self._chunk({"refusal": refusal}))
        extra = {name: value for name in ("stop_sequence", "stop_details") if (value := delta.raw.get(name))}
        self._finished = True
        return [*found, self._chunk({}, finish_reason(stop, calls=self._calls > 0), extra)]

    def _last(self) -> list[Json]:
        found: list[Json] = []
        if not self._finished:
            found = [chunk for index in list(self._blocks) for chunk in self._stop(index)]
            found.append(self._chunk({}, finish_reason(None, calls=self._calls > 0)))
        self._over = self._finished = True
        if self._include_usage and self._head is not None:
            found.append(self._head | {"choices": [], "usage": self.usage})
        return found

    def _count(self, holder: Fields) -> None:
        """Take over token counts, which are totals; what is missing stays as it was."""
        if usage := holder.inner("usage"):
            self._usage |= {name: value for name, value in usage.raw.items() if value is not None}

    def _chunk(self, delta: Json, finish: str | None = None, extra: Json | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish} | (extra or {})
        return (self._head or {}) | {"choices": [choice]}
