"""Opening files of traffic and yielding their rows one at a time, in memory that does not grow with the file.

JSON Lines, CSV, and `.json` files of one list (or one object with a `data` list) stream, gzip or not.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from tiercel.datasets.contract import decode_row
from tiercel.datasets.csv_records import csv_records
from tiercel.datasets.json_items import JsonItem, JsonItems
from tiercel.errors import DataError

__all__ = ["CsvColumns", "RawRow", "iterate_rows"]

BROKEN = "the gzip stream breaks off here"
LONGEST_LINE = 64 * 2**20
"""Bytes; a longer line is rejected without being held in memory whole."""
CHUNK = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_BREAKS = (EOFError, zlib.error, gzip.BadGzipFile)


class CsvColumns(Struct, frozen=True, kw_only=True):
    """Which column of a CSV file holds what; None where there is no such column."""

    input: str | None = None
    """The user's message."""
    answer: str | None = None
    """The frontier's answer."""
    system: str | None = None
    reference: str | None = None
    id: str | None = None
    model: str | None = None
    created: str | None = None


class RawRow(Struct, frozen=True):
    """One row as it stands in a file, decoded or with the reason why it could not be."""

    path: Path
    line: int
    """Number of the row's first line in the file, from 1."""
    value: Any = None
    error: str | None = None
    raw: bytes = b""
    """The row as it stands in the file; the beginning of one that is too long."""
    item: int | None = None
    """Number of the row in a list, from 1; None where each row has lines of its own."""


def iterate_rows(path: Path, columns: CsvColumns | None = None) -> Iterator[RawRow]:
    """Rows of one file, in order.

    Args:
        path: `.jsonl`, `.json`, `.csv`, each also with `.gz`.
        columns: for CSV; the columns `input` and `answer` must then be named.

    Raises:
        DataError: the file is missing, is a folder, can't be read, or lacks a column.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file of traffic in it")
    suffixes = [s.lower() for s in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
            if kind == ".csv":
                yield from _csv_rows(path, stream, columns)  # pyright: ignore[reportArgumentType]
            elif kind == ".json":
                yield from _json_rows(path, stream)  # pyright: ignore[reportArgumentType]
            else:
                yield from _lines(path, stream)  # pyright: ignore[reportArgumentType]
    except PermissionError:
        raise DataError(f"{path}: permission denied; make the file readable") from None
    except gzip.BadGzipFile as error:
        if "Not a gzipped" in str(error):
            raise DataError(f"{path} is named .gz but is not a gzip file; rename it") from None
        raise DataError(f"{path}: {BROKEN}: {error}; copy the file again") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: {BROKEN}: {error}; copy the file again") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}; copy the file to another place") from None


def _lines(path: Path, stream: IO[bytes]) -> Iterator[RawRow]:
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(LONGEST_LINE)
        except _BREAKS as error:
            if "Not a gzipped" in str(error):
                raise
            yield RawRow(path, number, error=f"{BROKEN}: {error}")
            return
        if not line:
            return
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if len(line) >= LONGEST_LINE and not line.endswith(b"\n"):
            beginning = line
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            reason = f"the line is longer than {LONGEST_LINE // 2**20} MiB, of which the beginning is kept"
            yield RawRow(path, number, error=reason, raw=beginning)
        elif line.strip():
            yield _decoded(path, number, line.rstrip(b"\r\n"))


def _decoded(path: Path, line: int, raw: bytes, item: int | None = None) -> RawRow:
    try:
        return RawRow(path, line, decode_row(raw), raw=raw, item=item)
    except DataError as error:
        where = "" if item is None else f" of item {item}"
        return RawRow(path, line, error=f"{error}{where}", raw=raw, item=item)


def _json_rows(path: Path, stream: IO[bytes]) -> Iterator[RawRow]:
    items, whole = JsonItems(LONGEST_LINE), list[JsonItem]()
    as_lines = _holds_lines(stream)
    for item in () if as_lines else _items(items, stream):
        if not items.is_list:
            whole.append(item)
        elif item.error is not None:
            yield RawRow(path, item.line, error=item.error, raw=item.raw, item=item.number)
        else:
            yield _decoded(path, item.line, item.raw, item.number)
    if len(whole) == 1 and whole[0].error is None and _is_json(whole[0].raw):
        yield _decoded(path, whole[0].line, whole[0].raw)
    elif whole or as_lines:
        # Neither a list nor one object: then lines, of which one is broken.
        stream.seek(0)
        yield from _lines(path, stream)


def _items(items: JsonItems, stream: Any) -> Iterator[JsonItem]:
    beginning, broken = BYTE_ORDER_MARK, None
    try:
        # read1, since it gives what a broken gzip stream still holds.
        while chunk := stream.read1(CHUNK):
            yield from items.feed(chunk.removeprefix(beginning))
            beginning = b""
    except _BREAKS as error:
        if "Not a gzipped" in str(error):
            raise
        broken = f"{BROKEN}: {error}"
    yield from items.end(broken)


def _holds_lines(stream: IO[bytes]) -> bool:
    """Whether a .json file holds JSON Lines after all; the stream stands at its beginning afterwards."""
    try:
        opening = stream.read(1)
        while opening and opening in BYTE_ORDER_MARK + b" \t\r\n":
            opening = stream.read(1)
        if opening != b"{":
            return opening != b"["
        if not _is_json(opening + stream.readline(LONGEST_LINE)):
            return False
        return any(line.strip() for line in iter(lambda: stream.readline(CHUNK), b""))
    except _BREAKS as error:
        if "Not a gzipped" in str(error):
            raise
        return False
    finally:
        stream.seek(0)


def _is_json(line: bytes) -> bool:
    try:
        decode_row(line)
    except DataError:
        return False
    return True


def _csv_rows(path: Path, stream: IO[bytes], columns: CsvColumns | None) -> Iterator[RawRow]:
    records = csv_records(stream, LONGEST_LINE, BROKEN)
    first = next(records, None)
    header = first.fields if first is not None else []
    wanted = columns or CsvColumns()
    # A CSV without named columns may be an export of a known logger, whose header says so.
    exported = wanted.input is None and {"input", "output"} <= set(header)
    if not exported:
        _check_columns(path, header, wanted)
    for record in records:
        reason, value = record.error, None
        if reason is None and not _is_utf8(record.raw):
            reason = "not valid UTF-8"
        elif reason is None and not exported and len(record.fields) != len(header):
            reason = f"the row does not have the header's {len(header)} columns"
        if reason is None:
            row = dict(zip(header, record.fields, strict=False))
            value = row if exported else _csv_contract(row, wanted)
        yield RawRow(path, record.line, value, reason, record.raw)


def _names(c: CsvColumns) -> tuple[str | None, ...]:
    return (c.input, c.answer, c.system, c.reference, c.id, c.model, c.created)


def _check_columns(path: Path, header: list[str], wanted: CsvColumns) -> None:
    listed = ", ".join(header) or "none"
    if wanted.input is None or wanted.answer is None:
        raise DataError(
            f"{path}: tiercel import, workloads and pilot read a CSV whose columns are named with --csv-input and "
            f"--csv-answer; its columns are: {listed}"
        )
    for name in _names(wanted):
        if name is not None and name not in header:
            raise DataError(f"{path} has no column {name!r}; its columns are: {listed}")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _csv_contract(row: dict[str, str], columns: CsvColumns) -> dict[str, Any]:
    messages = [{"role": "system", "content": row[columns.system]}] if columns.system else []
    messages.append({"role": "user", "content": row[columns.input or ""]})
    messages.append({"role": "assistant", "content": row[columns.answer or ""]})
    contract: dict[str, Any] = {"messages": messages}
    for name in ("reference", "id", "model", "created"):
        column = getattr(columns, name)
        if column and row[column]:
            contract[name] = row[column]
    return contract
