"""From files of traffic to examples: formats recognised, bad rows set aside, exact duplicates dropped, all counted."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import content_key, example_from
from tiercel.datasets.formats import FORMATS, BatchJoiner, detect_format, to_contract
from tiercel.datasets.sources import CsvColumns, RawRow, iterate_rows
from tiercel.errors import ConfigurationError, DataError
from tiercel.types import Example

__all__ = ["ImportCounts", "Rejects", "SeenKeys", "read_traffic"]


_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\b\d[\w.:+-]*|(?<=`responses` of )\S+(?=: score)")
"""What in a reason belongs to one row: quoted values, numbers, names."""


class ImportCounts(Struct, kw_only=True):
    """What became of the rows of an import."""

    read: int = 0
    """Rows seen, blank lines aside."""
    kept: int = 0
    rejected: int = 0
    duplicates: int = 0
    """Rows that repeat an earlier request and answer exactly."""
    unmatched: int = 0
    """Halves of a batch whose other half is in none of the files."""
    tool_calls_without_tools: int = 0
    """Kept rows whose answer calls a tool that the request does not offer: the log lost its tools."""
    formats: Counter[str] = msgspec.field(default_factory=Counter)
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    """Rejected rows by reason, numbers and positions left out of the reason."""


class SeenKeys:
    """A set of 8-byte keys in an open-addressed table: about 16 bytes a key, a seventh of a Python set.

    Two different rows share a key with a chance of n^2 / 2^65: one in 370,000 for ten million rows.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._used = 0

    def add(self, key: bytes) -> bool:
        """Whether `key` is new; it is in the set afterwards."""
        if self._used * 2 >= len(self._slots):
            self._grow()
        value = int.from_bytes(key, "little") or 1
        slots, mask = self._slots, len(self._slots) - 1
        i = value & mask
        while slots[i]:
            if slots[i] == value:
                return False
            i = (i + 1) & mask
        slots[i] = value
        self._used += 1
        return True

    def _grow(self) -> None:
        old = self._slots
        self._slots = slots = array("Q", bytes(8 * 2 * len(old)))
        mask = len(slots) - 1
        for value in old:
            if value:
                i = value & mask
                while slots[i]:
                    i = (i + 1) & mask
                slots[i] = value


class Rejects(Protocol):
    """Takes the rows that can't be used."""

    def add(self, row: RawRow, reason: str) -> None:
        """Take one of them."""
        ...


def read_traffic(
    paths: Sequence[Path],
    counts: ImportCounts,
    rejects: Rejects,
    *,
    format_name: str = "auto",
    columns: CsvColumns | None = None,
    keep_duplicates: bool = False,
    dropped: Callable[[Example], None] | None = None,
) -> Iterator[Example]:
    """Examples of all files, in order; `counts` and `rejects` fill as they are read.

    Args:
        paths: files of traffic, in any mix of formats.
        counts: is added to.
        rejects: takes the rows that can't be used.
        format_name: a name of `formats.FORMATS`, "openai-batch", or "auto" to look at each row.
        columns: for CSV files.
        keep_duplicates: do not drop exact duplicates.
        dropped: is told of each exact duplicate that is dropped.

    Raises:
        DataError: a file is missing or holds no rows at all.
        ConfigurationError: there is no such format.
    """
    if format_name not in {"auto", "openai-batch", *FORMATS}:
        known = ", ".join(["auto", *FORMATS, "openai-batch"])
        raise ConfigurationError(f"no format is called {format_name!r}; choose from {known}")
    seen, batch, ids = SeenKeys(), BatchJoiner(), SeenKeys()
    for path in paths:
        before = counts.read
        for row in iterate_rows(path, columns):
            counts.read += 1
            try:
                if row.error is not None:
                    raise DataError(row.error)
                name = detect_format(row.value) if format_name == "auto" else format_name
                contract = batch.join(row.value) if name == "openai-batch" else to_contract(row.value, name)
                counts.formats[name] += 1
                if contract is None and name == "openai-batch":
                    continue  # its other half is to come
                example = example_from(contract)
                key = content_key(example)
            except (DataError, KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
                reason = str(error) if isinstance(error, DataError) else f"not a row of its format: {error!r}"
                _count(counts, reason)
                rejects.add(row, reason)
                continue
            if not seen.add(key) and not keep_duplicates:
                counts.duplicates += 1
                if dropped is not None:
                    dropped(example)
                continue
            number, base = 1, example.id
            while not ids.add(_id_key(example.id)):
                number += 1
                example = msgspec.structs.replace(example, id=f"{base}#{number}")
            if example.answer and example.answer.tool_calls and not example.tools:
                counts.tool_calls_without_tools += 1
            counts.kept += 1
            yield example
        if counts.read == before:
            raise DataError(f"{path} holds no rows; export the traffic again")
    counts.unmatched = len(batch.waiting)


def _id_key(example_id: str) -> bytes:
    return hashlib.blake2b(example_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _count(counts: ImportCounts, reason: str) -> None:
    counts.rejected += 1
    general = reason.split(" - at ", maxsplit=1)[0] if reason.startswith(("Expected", "Object")) else reason
    counts.reasons[_PARTICULAR.sub("…", general.split(" (byte")[0])[:120]] += 1
