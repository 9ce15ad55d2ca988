"""Whether what came with status 200 is an answer at all: a JSON object without an error, or a stream that begins so.

It reads no further than that. A stream's bytes are held until its first event is whole, and are then passed on as they
came.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

__all__ = ["FirstEvent", "Verdict", "check_object", "status_of"]

Verdict = Literal["sound", "error", "broken"]
"""`error`: an error takes the place of an answer. `broken`: it is neither."""

LONGEST_HELD = 2**20
"""Bytes in which a stream's first event must have come."""
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_STATUS = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
}


class _Object(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_Object)


def check_object(raw: bytes) -> Verdict:
    """What a body is: `sound` for a JSON object without an error."""
    try:
        if not raw.isascii():
            raw.decode()  # what the decoder skips, it does not read as text
        found = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "broken"
    return "sound" if bytes(found.error) == b"null" else "error"


def status_of(detail: dict[str, Any] | None) -> int:
    """The HTTP status that an error without one stands for; 500 where it names none that is known."""
    for name in ("code", "type"):
        value = (detail or {}).get(name)
        if isinstance(value, str):
            value = int(value) if re.fullmatch(r"[45]\d\d", value) else _STATUS.get(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return 500


class FirstEvent:
    """Holds the bytes of a stream of server-sent events until the first that carries data is whole.

    Attributes:
        held: all bytes so far.
        data: of the first event that carries any, once it is whole.
    """

    __slots__ = ("_begun", "_seen", "data", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self.data = b""
        self._begun = 0
        self._seen = 0

    def feed(self, chunk: bytes) -> Verdict | None:
        """Take the next bytes; None while the first event is not whole.

        [DONE] is no event: a stream that begins with it holds nothing.
        """
        held = self.held
        held += chunk
        while end := _EVENT_END.search(held, self._seen):
            event = bytes(held[self._begun : end.start()])
            self._begun = self._seen = end.end()
            lines = _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf"))
            data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
            if data:
                self.data = b"\n".join(data)
                return check_object(self.data)
        # An end may be cut: of "\r\n\r\n" three bytes can be there.
        self._seen = max(self._begun, len(held) - 3)
        return "broken" if len(held) > LONGEST_HELD else None
