"""Server-sent events: bytes of a stream to events as they come, and back.

The format is that of the HTML standard ("Server-sent events", section "Interpreting an event stream"): lines end in LF,
CRLF or CR; a blank line ends an event; comments, `id` and `retry` are left out. Two things differ on purpose: data stay
bytes, since they are JSON that is decoded next; and an event that the end of the stream cuts off is handed out, since a
provider may forget the last blank line, and what is cut in the middle of its JSON does not decode.
"""

from __future__ import annotations

from typing import NamedTuple

from tiercel.errors import DataError, UnreadableAnswerError

__all__ = ["LARGEST_EVENT", "Event", "EventReader", "encode_event"]

LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes of one event that a reader takes unless it is told otherwise."""

_BOM = b"\xef\xbb\xbf"
_PLAIN = b"data: "
_NAMED = b"event: "


class Event(NamedTuple):
    """One event of a stream."""

    data: bytes
    """The data lines, joined by LF."""
    event: str | None = None
    """Its name; None where it has none."""


class EventReader:
    """Reads a stream that comes in pieces; where it is cut into pieces makes no difference.

    Time is linear in the bytes; no more than one unfinished event is held.

    Args:
        limit: bytes that one event may have.
    """

    def __init__(self, limit: int = LARGEST_EVENT) -> None:
        self._limit = limit
        self._held = bytearray()
        self._begun = False
        self._after_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in the next piece of the stream.

        Raises:
            UnreadableAnswerError: an event is larger than the limit; nothing can be read after that.
        """
        if not self._begun or self._after_cr or b"\r" in data:
            data = self._plain(data)
        held = self._held
        if held:
            # Only the new bytes are searched, with the one before them.
            begin = len(held) - 1
            held += data
            if held.find(b"\n\n", begin) < 0:
                self._check(len(held))
                return []
            data = bytes(held)
        whole, end, rest = data.rpartition(b"\n\n")
        self._held = bytearray(rest)
        found = [event for block in whole.split(b"\n\n") if (event := self._read(block))] if end else []
        self._check(len(rest))
        return found

    def end(self) -> list[Event]:
        """The event that the end of the stream cut off, if one was begun."""
        block = bytes(self._held)
        self._held = bytearray()
        event = self._read(block)
        return [event] if event else []

    def _plain(self, data: bytes) -> bytes:
        """The bytes without a mark at the very beginning, every line ending in LF."""
        if not self._begun:
            data = bytes(self._held) + data
            self._held = bytearray()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._held += data
                return b""
            self._begun = True
            data = data.removeprefix(_BOM)
        if not data:
            return data
        if self._after_cr:
            data = data.removeprefix(b"\n")  # it belongs to the CR
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise UnreadableAnswerError(f"an event of the stream is larger than {self._limit} bytes")

    def _read(self, block: bytes) -> Event | None:
        """The event of a block of lines; None where it has no data."""
        if len(block) > self._limit:
            self._check(len(block))
        # Nearly every event is one line of data, or its name and one line of data.
        if block.startswith(_PLAIN) and b"\n" not in block:
            return Event(block[6:])
        if block.startswith(_NAMED):
            name, _, data = block.partition(b"\n")
            if data.startswith(_PLAIN) and b"\n" not in data:
                return Event(data[6:], name[7:].decode("utf-8", "replace") or None)
        return _parse(block)


def _parse(block: bytes) -> Event | None:
    """An event of any lines; no blank line is inside, though some may be before the first."""
    name, lines = "", list[bytes]()
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return Event(b"\n".join(lines), name or None) if lines else None


def encode_event(data: bytes, event: str | None = None) -> bytes:
    """The bytes of one event.

    Args:
        data: of the event; each line of it becomes a data line.
        event: its name; None for none.

    Raises:
        DataError: the name has more than one line.
    """
    name = b""
    if event is not None:
        if "\n" in event or "\r" in event:
            raise DataError("the name of an event has more than one line; give it one")
        name = b"event: " + event.encode() + b"\n"
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return name + b"data: " + data + b"\n\n"
