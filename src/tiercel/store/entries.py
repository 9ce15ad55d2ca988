"""Entries of the ledger: one an answered request, and its content where that may be kept.

`append` is what a gateway calls, from the one thread that writes; it speaks to the driver in plain SQL, because this is
the one place where a microsecond a row counts.
"""

from __future__ import annotations

import math
import os
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection, Select, select

from tiercel.store.database import Database
from tiercel.store.tables import contents, entries, further_users, kept

__all__ = [
    "Api",
    "Content",
    "CountedBy",
    "Entry",
    "Tier",
    "append",
    "find",
    "new_id",
    "with_content",
    "with_content_kept",
]

Api = Literal["chat", "completions", "embeddings", "responses", "messages"]
Tier = Literal["cache", "student", "frontier", "none"]
CountedBy = Literal["provider", "tokenizer", "estimate"]


class Content(Struct, frozen=True, kw_only=True):
    """What was asked and answered, in chat form, after redaction."""

    request: bytes
    """JSON of the chat request's body."""
    response: bytes
    """JSON of the assistant's message."""

    def __repr__(self) -> str:
        # What people wrote must not slip into a log with an entry.
        return f"Content(request=<{len(self.request)} bytes>, response=<{len(self.response)} bytes>)"


class Entry(Struct, frozen=True, kw_only=True):
    """One answered request."""

    id: str
    """32 hexadecimal digits of `new_id`; also the trace's id."""
    created: float
    """When the request came, Unix time in seconds."""
    api: Api
    """Dialect that the client spoke."""
    workload: str | None = None
    """Name; None where the request belongs to none that is known."""
    key: str | None = None
    """Id of the virtual key, never the key; None where the gateway asks for none."""
    user: str | None = None
    """Keyed hash (`retention.user_hash`) of the user that the request named; None where it named none."""
    tier: Tier
    """Who answered; "none" for an error."""
    bundle: str | None = None
    """Version of its workload's bundle; None where that has none."""
    provider: str | None = None
    """Name of the provider that answered; None where none did."""
    model: str | None = None
    """That answered; None where none did."""
    status: int
    """HTTP status that the client got."""
    reason: str | None = None
    """Why this tier answered, or what the error was, in a word or two."""
    confidence: float | None = None
    """The gate's, in [0, 1]; None where no student was asked."""
    stream: bool = False
    """Whether the client asked for a stream."""
    latency_s: float | None = None
    """Seconds to the answer's last byte; None where the client left before."""
    first_byte_s: float | None = None
    """Seconds to the answer's first byte; None where none was sent."""
    input_tokens: int = 0
    """Of the request, cached ones included."""
    cached_input_tokens: int = 0
    """How many of `input_tokens` came from the provider's prompt cache."""
    output_tokens: int = 0
    """Of the answer, reasoning included."""
    reasoning_tokens: int = 0
    """How many of `output_tokens` were reasoning that the client did not see."""
    counted_by: CountedBy = "provider"
    """Where the token counts come from."""
    compute_s: float = 0.0
    """Seconds of the gateway's own CPU or GPU that students took."""
    cost_usd: float | None = None
    """What the answer cost; None where no price is known, which is not 0."""
    frontier_cost_usd: float | None = None
    """What the frontier would have cost; None where that is not known."""
    content: Content | None = None
    """None where sampling, an opt-out or retention left none."""
    further_users: tuple[str, ...] = ()
    """Keyed hashes of the user's other names, where the request named the user by several."""


_AT_ONCE = (256, 64, 16, 4, 1)
"""Rows of one statement, in SQLite: the most that are left at a time."""
_DRAWN_AT_ONCE = 512
_chance: deque[int] = deque()
"""Numbers that the system drew: who has seen ids must not be able to tell others. It is asked for many at a time, since
each time another thread may take the interpreter."""
os.register_at_fork(after_in_child=_chance.clear)


def new_id() -> str:
    """An id that sorts by time, in the layout of a UUID of version 7 (RFC 9562, method 3), without hyphens.

    48 bits of milliseconds, 12 of a millisecond's fraction, 62 of chance.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    head = milliseconds << 16 | 0x7000 | rest * 4096 // 1_000_000
    tail = _drawn() & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    return f"{head << 64 | tail:032x}"


def _drawn() -> int:
    """64 random bits, each of them given out once, to whichever thread."""
    try:
        return _chance.pop()
    except IndexError:
        first, *others = struct.unpack(f"{_DRAWN_AT_ONCE}Q", os.urandom(8 * _DRAWN_AT_ONCE))
        _chance.extend(others)
        return first


def append(database: Database, new: Sequence[Entry]) -> int:
    """Write entries in one transaction: all of them or, when it fails, none.

    An entry whose id is there already is left as it was, so that a batch of unknown fate can be written again. Values
    that no database can hold (a NUL or half a surrogate in a text, a number that is not finite) are replaced: one
    strange request must not take a batch with it.

    Returns:
        How many entries were new.

    Raises:
        StorageError: the database can't be written.
    """
    if not new:
        return 0
    insert_entry, insert_content, insert_user = _SQLITE if database.is_sqlite else _POSTGRES
    rows = [tuple([keep(v) for keep, v in zip(_KEEPERS, astuple(entry), strict=False)]) for entry in new]
    texts = [
        (row[0], row[1], 0, entry.content.request, entry.content.response)
        for row, entry in zip(rows, new, strict=True)
        if entry.content is not None
    ]
    users = [(entry.id, user) for entry in new for user in entry.further_users]
    with database.writing() as connection:
        added = _write(connection, insert_entry, rows, database)
        _write(connection, insert_content, texts, database)
        _write(connection, insert_user, users, database)
    return added


def _write(connection: Connection, insert: str, rows: Sequence[tuple[Any, ...]], database: Database) -> int:
    """Insert rows; how many were new.

    SQLite's driver lets the interpreter go at each statement and takes it back from the thread that answers requests,
    so it gets a statement for many rows.
    """
    if not rows:
        return 0
    if not database.is_sqlite:
        return connection.exec_driver_sql(insert, list(rows)).rowcount
    added = start = 0
    for count in _AT_ONCE:
        while start + count <= len(rows):
            values = tuple([value for row in rows[start : start + count] for value in row])
            added += connection.exec_driver_sql(_of_many(insert, count), values).rowcount
            start += count
    return added


@cache
def _of_many(insert: str, count: int) -> str:
    """The statement for so many rows."""
    head, row, tail = re.split(r"(?<= VALUES )(.*)(?= ON CONFLICT)", insert)
    return head + ", ".join([row] * count) + tail


def find(database: Database, id_: str) -> Entry | None:
    """The entry of `id_`, with its content where there is one; None where there is no such entry."""
    with database.reading() as connection:
        row: Any = connection.execute(with_content().where(entries.c.id == id_)).one_or_none()
        also = connection.execute(select(further_users.c.user_hash).where(further_users.c.id == id_)).scalars().all()
    if row is None:
        return None
    *values, request, response = row
    content = None if request is None else Content(request=request, response=response)
    fields: dict[str, Any] = dict(zip(Entry.__struct_fields__, (*values, content, tuple(also)), strict=True))
    return Entry(**fields)


def with_content_kept(database: Database, ids: Sequence[str]) -> set[str]:
    """Those of the traces whose content is in the store."""
    with database.reading() as connection:
        return set(connection.execute(select(contents.c.id).where(kept, contents.c.id.in_(ids))).scalars())


def with_content() -> Select[Any]:
    """A query of entries, in the order of the columns, with request and response where they are kept."""
    there = (contents.c.id == entries.c.id) & kept
    return select(entries, contents.c.request, contents.c.response).join_from(entries, contents, there, isouter=True)


def _text(value: str | None) -> str | None:
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _fraction(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _count(value: int) -> int:
    return min(max(int(value), -(2**31)), 2**31 - 1)


def _flag(value: bool) -> bool:
    return value


def _keepers() -> Iterable[Callable[[Any], Any]]:
    """For each column, what makes a value fit to be stored."""
    for c in entries.columns:
        kind = c.type.python_type
        if kind is float:
            yield _fraction if c.nullable else _number
        else:
            yield {str: _text, int: _count, bool: _flag}[kind]


_KEEPERS = tuple(_keepers())
_COLUMNS = tuple(c.name for c in entries.columns)


def _insert(table: str, columns: Sequence[str], holders: Sequence[str], key: str = "id") -> str:
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join(holders)}) ON CONFLICT ({key}) DO NOTHING"


_CONTENT = ("id", "created", "blanked", "request", "response")
_USER = ("id", "user_hash")
_SQLITE = (
    _insert("entries", _COLUMNS, ["?"] * len(_COLUMNS)),
    _insert("contents", _CONTENT, ["?"] * len(_CONTENT)),
    _insert("further_users", _USER, ["?"] * len(_USER), "id, user_hash"),
)
_POSTGRES = (
    _insert("entries", _COLUMNS, ["%s"] * len(_COLUMNS)),
    # Bytes travel as they are, not written out in hexadecimal digits.
    _insert("contents", _CONTENT, ["%s", "%s", "%s", "%b", "%b"]),
    _insert("further_users", _USER, ["%s"] * len(_USER), "id, user_hash"),
)
