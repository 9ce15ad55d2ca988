"""The records of a CSV file with the lines that they stand on, so that a stray quotation mark costs one of them.

A quotation mark that nobody meant opens a field that runs to the next one, some lines or the whole file below. Such a
record is given up at its first line and reading goes on at the second.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator
from typing import IO

from msgspec import Struct

__all__ = ["MOST_LINES", "CsvRecord", "csv_records"]

MOST_LINES = 10_000
"""Of one record; a message of so many lines is none."""
BROKEN_QUOTE = "a quotation mark opens a field here and does not close it; reading goes on at the next line"


class CsvRecord(Struct, frozen=True):
    """One record, or a line that is given up."""

    line: int
    """Its first, from 1."""
    raw: bytes
    """All of its lines, without the last line's end."""
    fields: list[str]
    """Bytes that are no UTF-8 are lone surrogates."""
    error: str | None = None
    """Why it is none."""


class _Lines:
    """Lines of text that can be handed back, numbered from 1."""

    def __init__(self, stream: IO[bytes], longest: int) -> None:
        # csv wants each line with the end that it has.
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._longest = longest
        self._waiting = deque[str]()
        self._too_long = set[int]()
        self.number = 1
        """Of the first line that was taken since the last `drop`."""
        self.taken = list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) == MOST_LINES:
            raise csv.Error(f"a field begins here that spans more than {MOST_LINES:,} lines; reading goes on below it")
        line = self._waiting.popleft() if self._waiting else self._read(self.number + len(self.taken))
        if not line:
            raise StopIteration
        self.taken.append(line)
        if self.number + len(self.taken) - 1 in self._too_long:
            raise csv.Error(f"the line is longer than {self._longest // 2**20} MiB, of which the beginning is kept")
        return line

    def _read(self, number: int) -> str:
        line = rest = self._text.readline(self._longest)
        while len(rest) >= self._longest and not rest.endswith(("\n", "\r")):
            self._too_long.add(number)
            rest = self._text.readline(self._longest)
        return line

    def drop(self, lines: int) -> bytes:
        """Be done with the first so many of the lines taken, and hand the others back; returns those dropped."""
        gone, back = self.taken[:lines], self.taken[lines:]
        self.taken = []
        self._waiting.extendleft(reversed(back))
        self.number += lines
        return "".join(gone).rstrip("\r\n").encode("utf-8", "surrogateescape")


def csv_records(stream: IO[bytes], longest: int, broken: str) -> Iterator[CsvRecord]:
    """The records of a file, the header among them; blank lines are passed over.

    Args:
        stream: of the file.
        longest: characters of a line and of a field; one that is longer is given up.
        broken: what to say where a gzip stream breaks off.
    """
    csv.field_size_limit(longest)
    lines = _Lines(stream, longest)
    while True:
        number, fields, error = lines.number, list[str](), None
        try:
            # A reader of its own for each record holds nothing back.
            found = next(csv.reader(lines), None)
            if found is None:
                return
            fields = found
            if len(lines.taken) > 1:
                next(csv.reader(lines.taken, strict=True))
        except csv.Error as reason:
            told = len(lines.taken) > 1 and fields
            error = BROKEN_QUOTE if told else str(reason)
        except (EOFError, zlib.error, gzip.BadGzipFile) as reason:
            if "Not a gzipped" in str(reason):
                raise
            yield CsvRecord(number, lines.drop(len(lines.taken)), [], f"{broken}: {reason}")
            return
        raw = lines.drop(1 if error else len(lines.taken))
        if fields or error:
            yield CsvRecord(number, raw, fields, error)
