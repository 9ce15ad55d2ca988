"""The items of one large JSON list as bytes, one at a time, in memory that grows with the largest item alone.

Only strings and brackets are looked at, so that an item that is no JSON (NaN, a missing comma) spoils no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from msgspec import Struct

__all__ = ["JsonItem", "JsonItems"]

# A string, to its end or to that of the bytes at hand (with an empty group then), or what gives a list its shape.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[\[\]{},]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)
_QUOTE, _LIST, _LIST_END = b'"[]'
_OPEN, _CLOSE, _SEPARATORS = b"[{", b"]}", b",]"
_BLANK = b" \t\r\n"
_KEY = b'"data"'


class JsonItem(Struct, frozen=True):
    """One item as it stands in the file."""

    line: int
    """On which it begins, from 1."""
    number: int
    """In the list, from 1."""
    raw: bytes
    """Without blanks around it."""
    error: str | None = None
    """Why it can be no item; None where its bytes may be one."""


class _Place(Enum):
    BEFORE = "before the list"
    OBJECT = "in an object that may hold the list"
    ITEMS = "in the list"
    REST = "in the object, behind the list"
    AFTER = "behind all"


class JsonItems:
    """Splits a list, or the list `data` of an object, into its items; an object without one is a single item.

    Args:
        longest: bytes of an item; of a longer one so many are kept, with an error.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._place = _Place.BEFORE
        self._depth = self._base = self._number = 0
        self._line = 1
        self.is_list = False
        """Whether a list was found; else the first item is the object itself."""
        self._in_string = False
        self._carry = b""
        self._key = b""
        self._item = bytearray()
        self._newlines = 0
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[JsonItem]:
        """The items that end within the next bytes of the file."""
        data, self._carry = self._carry + chunk, b""
        kept = position = 0
        if self._in_string:
            position = self._string(_REST_OF_STRING.match(data), data)
        for token in _TOKEN.finditer(data, position) if self._looks else ():
            at, kind = token.start(), data[token.start()]
            if kind == _QUOTE:
                self._key = b""
                self._string(token, data)
            elif kind in _OPEN:
                if self._opened(kind):
                    self._keep(data[kept : at + 1])
                    self._taken()  # what stands before the list
                    kept = at + 1
            elif self._in_list and kind in _SEPARATORS:
                self._keep(data[kept:at])
                yield from self._ended(kind)
                kept = at + 1
            elif kind in _CLOSE and not self._in_list and self._closed():
                self._keep(data[kept : at + 1])
                item, kept = self._taken(), at + 1
                if self._place is _Place.OBJECT:
                    yield item
                self._place = _Place.AFTER
            if self._place is _Place.AFTER:
                break
        self._keep(data[kept : len(data) - len(self._carry)])

    def end(self, broken: str | None = None) -> Iterator[JsonItem]:
        """What is left when the file ends; `broken` says why, where it was not to end here."""
        self._keep(self._carry)
        ends_well = self._place is _Place.BEFORE or (self._place is _Place.AFTER and not self._item.strip(_BLANK))
        if ends_well and broken is None:
            return
        reason = "text follows the end of the list" if self._place is _Place.AFTER else "the list breaks off here"
        self._number += 1
        yield self._taken(broken or reason)

    @property
    def _looks(self) -> bool:
        """Whether what stands outside of strings still matters."""
        return not self._in_string and self._place is not _Place.AFTER

    @property
    def _in_list(self) -> bool:
        """Whether the next comma parts two items."""
        return self._place is _Place.ITEMS and self._depth == self._base

    def _string(self, found: re.Match[bytes] | None, data: bytes) -> int:
        """Pass over a string, or what there is of it; returns where that ends."""
        assert found is not None  # the pattern may be empty
        if len(self._key) <= len(_KEY):
            self._key += found[0][: len(_KEY) + 1]
        self._in_string = not found[1]
        if self._in_string:
            # A backslash says nothing without the byte behind it.
            self._carry = data[found.end() :]
        return found.end()

    def _opened(self, kind: int) -> bool:
        """Go down; whether the list begins here."""
        self._depth += 1
        if self._place is _Place.BEFORE:
            self._place = _Place.ITEMS if kind == _LIST else _Place.OBJECT
        elif self._place is _Place.OBJECT and self._depth == 2 and kind == _LIST and self._key == _KEY:
            self._place = _Place.ITEMS
        else:
            return False
        self._base = self._depth
        self.is_list = self._place is _Place.ITEMS
        return self.is_list

    def _closed(self) -> bool:
        """Go up; whether the object ends here."""
        self._depth -= 1
        return self._depth == 0

    def _ended(self, kind: int) -> Iterator[JsonItem]:
        """The item before a comma or the list's end."""
        self._number += 1
        if kind == _LIST_END:
            self._depth -= 1
            self._place = _Place.REST if self._depth else _Place.AFTER
        empty = not self._item.strip(_BLANK)
        item = self._taken("an item is missing here" if empty else None)
        if not (empty and kind == _LIST_END and self._number == 1):
            yield item

    def _keep(self, piece: bytes) -> None:
        self._newlines += piece.count(b"\n")
        room = self._longest - len(self._item)
        self._too_long = self._too_long or len(piece) > room
        self._item += piece[:room]

    def _taken(self, error: str | None = None) -> JsonItem:
        """What was kept, as an item; nothing is kept afterwards."""
        raw = bytes(self._item)
        body = raw.lstrip(_BLANK)
        line = self._line + raw[: len(raw) - len(body)].count(b"\n")
        if self._too_long and error is None:
            error = f"an item is longer than {self._longest / 2**20:g} MiB, of which the beginning is kept"
        self._line += self._newlines
        self._item, self._newlines, self._too_long = bytearray(), 0, False
        return JsonItem(line, self._number, body.rstrip(_BLANK), error)
