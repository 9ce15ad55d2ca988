"""Opening files of traffic and yielding their rows one at a time, in memory that does not grow with the file.

JSON Lines and CSV stream, gzip or not. A `.json` file that holds one list (or one object with a `data` list) is read
whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from tiercel.datasets.contract import decode_row
from tiercel.errors import DataError

__all__ = ["CsvColumns", "RawRow", "iterate_rows"]

BROKEN = "the gzip stream breaks off here"
LONGEST_LINE = 64 * 2**20
"""Bytes; a longer line is rejected without being held in memory whole."""


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
    """Number of the row's line in the file, from 1."""
    value: Any = None
    error: str | None = None
    raw: str = ""
    """Up to 2,000 characters of the line, kept only with an error."""


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
                yield from _json_rows(path, stream.read())
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


def _lines(path: Path, stream: IO[bytes]) -> Iterator[RawRow]:
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(LONGEST_LINE)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if "Not a gzipped" in str(error):
                raise
            yield RawRow(path, number, error=f"{BROKEN}: {error}")
            return
        if not line:
            return
        if len(line) >= LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            yield RawRow(path, number, error=f"the line is longer than {LONGEST_LINE // 2**20} MiB")
            continue
        if not line.strip():
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield RawRow(path, number, decode_row(line))
        except DataError as error:
            yield RawRow(path, number, error=str(error), raw=line[:2000].decode("utf-8", "replace").rstrip("\n"))


def _json_rows(path: Path, content: bytes) -> Iterator[RawRow]:
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        return
    try:
        whole = decode_row(content)
    except DataError as error:
        if b"\n" in content.strip():
            yield from _lines(path, io.BytesIO(content))
            return
        raise DataError(f"{path}: {error}; a .json file must hold one list of rows") from None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    for number, value in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        yield RawRow(path, number, value)


def _csv_rows(path: Path, stream: IO[bytes], columns: CsvColumns | None) -> Iterator[RawRow]:
    csv.field_size_limit(LONGEST_LINE)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text)
    header = list(reader.fieldnames or ())
    wanted = columns or CsvColumns()
    # A CSV without named columns may be an export of a known logger, whose header says so.
    exported = wanted.input is None and {"input", "output"} <= set(header)
    if not exported:
        _check_columns(path, header, wanted)
    names = [n for n in _names(wanted) if n is not None]
    while True:
        try:
            row: dict[Any, Any] | None = next(reader, None)
        except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as error:
            reason = str(error) if isinstance(error, csv.Error) else f"{BROKEN}: {error}"
            yield RawRow(path, reader.line_num + 1, error=reason)
            return
        if row is None:
            return
        line = reader.line_num
        if not all(_is_utf8(v) for v in row.values() if isinstance(v, str)):
            yield RawRow(path, line, error="not valid UTF-8")
        elif exported:
            yield RawRow(path, line, {k: v for k, v in row.items() if k and v is not None})
        elif None in row or any(row.get(n) is None for n in names):
            reason = f"the row does not have the header's {len(header)} columns"
            yield RawRow(path, line, error=reason, raw=str(row)[:2000])
        else:
            yield RawRow(path, line, _csv_contract(row, wanted))


def _names(c: CsvColumns) -> tuple[str | None, ...]:
    return (c.input, c.answer, c.system, c.reference, c.id, c.model, c.created)


def _check_columns(path: Path, header: list[str], wanted: CsvColumns) -> None:
    listed = ", ".join(header) or "none"
    if wanted.input is None or wanted.answer is None:
        raise DataError(f"{path}: name the columns with --csv-input and --csv-answer; its columns are: {listed}")
    for name in _names(wanted):
        if name is not None and name not in header:
            raise DataError(f"{path} has no column {name!r}; its columns are: {listed}")


def _is_utf8(value: str) -> bool:
    return not any("\udc80" <= c <= "\udcff" for c in value)


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
