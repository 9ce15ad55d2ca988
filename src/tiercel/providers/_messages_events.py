"""A stream of a chat completion as one of Anthropic's API."""

from __future__ import annotations

from tiercel.errors import UnreadableAnswerError
from tiercel.providers._fields import Json, of_answer
from tiercel.providers._messages_answer import message_id, message_usage, stop_of
from tiercel.providers._messages_errors import CUT_OFF, anthropic_error
from tiercel.providers._pieces import Arguments, CallBegin, ChunkReader, Finish, Piece, Signed, Text, Thought, is_object

__all__ = ["MessageEvents"]


class MessageEvents:
    """Chunks of a chat completion in, events of Anthropic's API out; an event's `type` is its name in the stream.

    A tool call's block ends as soon as the next begins, if its arguments are whole by then; calls whose pieces are
    mixed are open side by side.

    Args:
        input_tokens: of the request, as far as they are known when the stream begins; the true count comes at its end.
    """

    def __init__(self, *, input_tokens: int = 0) -> None:
        self._reader = ChunkReader()
        self._input_tokens = input_tokens
        self._begun = False
        self._over = False
        self._blocks = 0
        self._open: tuple[str, int] | None = None
        self._calls: dict[int, int] = {}
        self._unasked: list[int] = []
        self._refusal: list[str] = []
        self._finish: Finish | None = None

    def feed(self, chunk: Json) -> list[Json]:
        """The events that a chunk gives rise to.

        Raises:
            UnreadableAnswerError: it is no chunk of a chat completion with one choice.
        """
        if self._over:
            return []
        if of_answer(chunk, "the chunk").raw.get("error"):
            self._over = True
            return [anthropic_error(chunk)]
        pieces = self._reader.read(chunk)
        found: list[Json] = []
        if not self._begun and (pieces or chunk.get("choices")):
            self._begun = True
            found.append(self._start())
        for piece in pieces:
            found += self._events(piece)
        return found

    def end(self) -> list[Json]:
        """The events that close the message, once no more chunks come; an error where the answer was not whole."""
        if self._over:
            return []
        self._over = True
        if self._finish is None:
            return [anthropic_error(CUT_OFF)]
        calls = len(self._reader.calls) > 0
        refusal = "".join(self._refusal)
        delta = stop_of(self._finish.reason, self._finish.choice, calls=calls, refusal=refusal)
        usage = message_usage(self._reader.usage)
        closing = [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
        return self._close() + self._close_calls(all_of_them=True) + closing

    def _start(self) -> Json:
        message: Json = {
            "id": self._reader.id or message_id(),
            "type": "message",
            "role": "assistant",
            "model": self._reader.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._input_tokens, "output_tokens": 0},
        }
        return {"type": "message_start", "message": message}

    def _events(self, piece: Piece) -> list[Json]:
        if isinstance(piece, Text):
            if piece.refusal:
                self._refusal.append(piece.text)
            delta = {"type": "text_delta", "text": piece.text}
            return self._said("refusal" if piece.refusal else "text", {"type": "text", "text": ""}, delta)
        if isinstance(piece, Thought):
            delta = {"type": "thinking_delta", "thinking": piece.text}
            return self._said("thinking", {"type": "thinking", "thinking": "", "signature": ""}, delta)
        if isinstance(piece, Signed):
            return [event for block in piece.blocks for event in self._signed(block)]
        if isinstance(piece, CallBegin):
            return self._call(piece)
        if isinstance(piece, Arguments):
            return self._more(piece)
        self._finish = piece
        return self._close() + self._close_calls(all_of_them=True)

    def _said(self, kind: str, block: Json, delta: Json) -> list[Json]:
        found: list[Json] = []
        if self._open is None or self._open[0] != kind:
            found = self._close() + self._close_calls()
            found.append(self._begin(block))
            self._open = (kind, self._blocks - 1)
        return [*found, _delta(self._blocks - 1, delta)]

    def _signed(self, block: Json) -> list[Json]:
        """A thinking block that came with its signature; its text may have been streamed before."""
        fields = of_answer(block, "thinking_blocks[0]")
        if fields.text("type") == "redacted_thinking":
            found = [*self._close(), self._begin(block)]
            return [*found, {"type": "content_block_stop", "index": self._blocks - 1}]
        found: list[Json] = []
        if self._open is None or self._open[0] != "thinking":
            thought = {"type": "thinking_delta", "thinking": fields.text("thinking") or ""}
            found = self._said("thinking", {"type": "thinking", "thinking": "", "signature": ""}, thought)
        # Without a signature it is one piece of many, and more may follow.
        if signature := fields.text("signature"):
            found.append(_delta(self._blocks - 1, {"type": "signature_delta", "signature": signature}))
            found += self._close()
        return found

    def _call(self, piece: CallBegin) -> list[Json]:
        found = self._close() + self._close_calls()
        block = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}} | piece.extra
        found.append(self._begin(block))
        self._calls[piece.slot] = self._blocks - 1
        self._unasked.append(piece.slot)
        return found

    def _more(self, piece: Arguments) -> list[Json]:
        index = self._calls.get(piece.slot)
        if index is None:
            if not piece.text.strip():
                return []
            raise UnreadableAnswerError(f"tool_calls[{piece.slot}] goes on after its arguments were whole")
        return [_delta(index, {"type": "input_json_delta", "partial_json": piece.text})]

    def _begin(self, block: Json) -> Json:
        self._blocks += 1
        return {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}

    def _close(self) -> list[Json]:
        """End the block of text or thinking that is open."""
        if self._open is None:
            return []
        index, self._open = self._open[1], None
        return [{"type": "content_block_stop", "index": index}]

    def _close_calls(self, *, all_of_them: bool = False) -> list[Json]:
        """End the calls whose arguments are whole; each is asked once, so that time stays linear."""
        asked, self._unasked = self._unasked, []
        whole = list(self._calls) if all_of_them else [s for s in asked if is_object(self._reader.calls.arguments(s))]
        return [{"type": "content_block_stop", "index": self._calls.pop(slot)} for slot in whole]


def _delta(index: int, delta: Json) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}
