"""A stream of a chat completion as one of OpenAI's Responses API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiercel.errors import UnreadableAnswerError
from tiercel.providers._fields import Json, of_answer
from tiercel.providers._messages_errors import CUT_OFF
from tiercel.providers._pieces import Arguments, CallBegin, ChunkReader, Finish, Piece, Text, Thought, is_object
from tiercel.providers._responses_answer import (
    ENDS,
    call_item,
    message_item,
    reasoning_item,
    refusal_part,
    response_head,
    response_id,
    response_usage,
    text_part,
)

__all__ = ["ResponseEvents"]

_NAMES = {"text": "output_text", "refusal": "refusal", "thought": "reasoning_text"}
"""What the events of each kind of part are called."""


@dataclass(kw_only=True, slots=True)
class _Part:
    """A content part that is open."""

    kind: str
    pieces: list[str] = field(default_factory=list[str])
    logprobs: list[Json] = field(default_factory=list[Json])

    def whole(self) -> Json:
        text = "".join(self.pieces)
        if self.kind == "thought":
            return {"type": "reasoning_text", "text": text}
        return refusal_part(text) if self.kind == "refusal" else text_part(text, self.logprobs)


@dataclass(kw_only=True, slots=True)
class _Item:
    """An output item that is open."""

    place: int
    id: str
    call: CallBegin | None = None
    part: _Part | None = None
    content: list[Json] = field(default_factory=list[Json])


class ResponseEvents:
    """Chunks of a chat completion in, events of the Responses API out; an event's `type` is its name in the stream.

    Args:
        request: of the Responses API; the Response repeats its fields.
    """

    def __init__(self, *, request: Json | None = None) -> None:
        self._reader = ChunkReader()
        self._request = request
        self._head: Json | None = None
        self._number = 0
        self._items = 0
        self._done: dict[int, Json] = {}
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._unasked: list[int] = []
        self._finish: Finish | None = None
        self._over = False

    def feed(self, chunk: Json) -> list[Json]:
        """The events that a chunk gives rise to.

        Raises:
            UnreadableAnswerError: it is no chunk of a chat completion with one choice.
        """
        if self._over:
            return []
        if of_answer(chunk, "the chunk").raw.get("error"):
            return self._fail(chunk["error"])
        pieces = self._reader.read(chunk)
        found = self._begin() if pieces or chunk.get("choices") else []
        for piece in pieces:
            found += self._events(piece)
        return found

    def end(self) -> list[Json]:
        """The event that closes the Response, once no more chunks come; it failed where the answer was not whole."""
        if self._over:
            return []
        if self._finish is None:
            return self._fail(CUT_OFF["error"])
        self._over = True
        found = self._close_all()
        reason = ENDS.get(self._finish.reason)
        status = "incomplete" if reason else "completed"
        more: Json = {"incomplete_details": {"reason": reason} if reason else None}
        more["usage"] = response_usage(self._reader.usage)
        return [*found, self._event(f"response.{status}", response=self._response(status) | more)]

    def _fail(self, error: Any) -> list[Json]:
        found = self._begin()
        self._over = True
        told = error if isinstance(error, dict) else {"message": error}
        message = told.get("message")
        words = {told.get("code"), told.get("type")} if not _nested(told) else set[Any]()
        code = "rate_limit_exceeded" if words & {"rate_limit_error", "rate_limit_exceeded", 429} else "server_error"
        text = message if isinstance(message, str) and message else "the provider gave no reason"
        failed = self._response("failed") | {"error": {"code": code, "message": text}}
        return [*found, self._event("response.failed", response=failed)]

    def _response(self, status: str) -> Json:
        output = [self._done[place] for place in sorted(self._done)]
        return (self._head or {}) | {"status": status, "output": output}

    def _event(self, kind: str, **more: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1} | more

    def _begin(self) -> list[Json]:
        if self._head is not None:
            return []
        reader = self._reader
        self._head = response_head(reader.id or response_id(), reader.model, self._request, created=reader.created)
        return [self._event(f"response.{kind}", response=self._head) for kind in ("created", "in_progress")]

    def _events(self, piece: Piece) -> list[Json]:
        if isinstance(piece, Text):
            return self._said("refusal" if piece.refusal else "text", piece.text, list(piece.logprobs))
        if isinstance(piece, Thought):
            return self._said("thought", piece.text, [])
        if isinstance(piece, CallBegin):
            return self._call(piece)
        if isinstance(piece, Arguments):
            return self._more(piece)
        if isinstance(piece, Finish):
            self._finish = piece
            return self._close_all()
        return []  # signatures are for their maker alone

    def _said(self, kind: str, text: str, logprobs: list[Json]) -> list[Json]:
        found: list[Json] = []
        item = self._open
        if item is None or item.id.startswith("rs_") != (kind == "thought"):
            found += self._close() + self._close_calls()
            item = self._open = self._new("rs" if kind == "thought" else "msg")
            whole = message_item(item.id, [], "in_progress")
            if kind == "thought":
                whole = reasoning_item(item.id, "", "in_progress")
            found.append(self._event("response.output_item.added", output_index=item.place, item=whole))
        part = item.part
        if part is None or part.kind != kind:
            found += self._close_part(item)
            part = item.part = _Part(kind=kind)
            found.append(self._event("response.content_part.added", **self._place(item), part=part.whole()))
        part.pieces.append(text)
        more: Json = {"delta": text}
        if kind == "text":
            tokens = text_part("", logprobs)["logprobs"]
            part.logprobs += tokens
            more["logprobs"] = tokens
        return [*found, self._event(f"response.{_NAMES[kind]}.delta", **self._place(item), **more)]

    def _place(self, item: _Item) -> Json:
        return {"item_id": item.id, "output_index": item.place, "content_index": len(item.content)}

    def _new(self, prefix: str) -> _Item:
        name = (self._head or {}).get("id")
        self._items += 1
        return _Item(place=self._items - 1, id=f"{prefix}_{name}_{self._items - 1}")

    def _call(self, piece: CallBegin) -> list[Json]:
        found = self._close() + self._close_calls()
        item = self._calls[piece.slot] = self._new("fc")
        item.call = piece
        self._unasked.append(piece.slot)
        whole = call_item(item.id, piece.id, piece.name, "", "in_progress") | piece.extra
        return [*found, self._event("response.output_item.added", output_index=item.place, item=whole)]

    def _more(self, piece: Arguments) -> list[Json]:
        item = self._calls.get(piece.slot)
        if item is None:
            if not piece.text.strip():
                return []
            raise UnreadableAnswerError(f"tool_calls[{piece.slot}] goes on after its arguments were whole")
        where = {"item_id": item.id, "output_index": item.place}
        return [self._event("response.function_call_arguments.delta", **where, delta=piece.text)]

    def _close_part(self, item: _Item) -> list[Json]:
        part = item.part
        if part is None:
            return []
        whole = part.whole()
        more = {"logprobs": whole["logprobs"]} if part.kind == "text" else {}
        name = "refusal" if part.kind == "refusal" else "text"
        found = [
            self._event(f"response.{_NAMES[part.kind]}.done", **self._place(item), **{name: whole[name]}, **more),
            self._event("response.content_part.done", **self._place(item), part=whole),
        ]
        item.part = None
        item.content.append(whole)
        return found

    def _close(self) -> list[Json]:
        """End the item of text or reasoning that is open."""
        item = self._open
        if item is None:
            return []
        found = self._close_part(item)
        self._open = None
        if item.id.startswith("rs_"):
            whole = reasoning_item(item.id, "", self._status(item)) | {"content": item.content}
        else:
            whole = message_item(item.id, item.content, self._status(item))
        return [*found, self._ended(item, whole)]

    def _close_calls(self, *, all_of_them: bool = False) -> list[Json]:
        """End the calls whose arguments are whole; each is asked once, so that time stays linear."""
        asked, self._unasked = self._unasked, []
        whole = list(self._calls) if all_of_them else [s for s in asked if is_object(self._reader.calls.arguments(s))]
        return [event for slot in whole for event in self._close_call(slot)]

    def _close_call(self, slot: int) -> list[Json]:
        item, arguments = self._calls.pop(slot), self._reader.calls.arguments(slot)
        call = item.call
        if call is None:
            return []
        more: Json = {"item_id": item.id, "output_index": item.place, "name": call.name, "arguments": arguments}
        done = self._event("response.function_call_arguments.done", **more)
        return [
            done,
            self._ended(item, call_item(item.id, call.id, call.name, arguments, self._status(item)) | call.extra),
        ]

    def _status(self, item: _Item) -> str:
        """Of an item that ends: where the answer was cut off, its last one is incomplete."""
        cut = self._finish is not None and self._finish.reason in ENDS
        return "incomplete" if cut and item.place == self._items - 1 else "completed"

    def _close_all(self) -> list[Json]:
        return self._close() + self._close_calls(all_of_them=True)

    def _ended(self, item: _Item, whole: Json) -> Json:
        self._done[item.place] = whole
        return self._event("response.output_item.done", output_index=item.place, item=whole)


def _nested(error: Json) -> bool:
    return any(isinstance(error.get(name), dict | list) for name in ("code", "type"))
