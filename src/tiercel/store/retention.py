"""Deleting what people wrote: by age, by user, by trace.

SQLite's `secure_delete` overwrites a deleted row, but not the copies that were left in the free space of pages when
rows moved between pages, as they do whenever a deletion makes a page sparse: in trials one deleted content of 3,000 to
30,000 was still in the file. So no row that holds content is ever moved. Contents lie in the order in which they came
(appending moves none) and are deleted by overwriting their bytes with as many zeros in place; rows are taken out only
from the front of the table, and only so far from the first row with content that no page of it is touched.

PostgreSQL deletes the rows and is told to vacuum: their space is then free to be used again, but until it is, the
bytes may still lie in the server's files, in its write-ahead log and in its backups.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from tiercel.errors import ConfigurationError
from tiercel.store.database import Database
from tiercel.store.tables import contents, entries, further_users, kept, salts

__all__ = [
    "Forgotten",
    "delete_old_contents",
    "forget_traces",
    "forget_user",
    "forgetting",
    "traces_of",
    "user_hash",
    "user_salt",
]

_FORGETTING = "forgetting"
"""Name of the value beside the users' salt that is drawn anew at each deletion on request."""
_BATCH = 200
_PAUSE_S = 0.005
"""Between batches, so that a writer which waits for SQLite's lock gets it."""
_MARGIN = 1_000
"""Blank rows that stay before the first row with content.

When SQLite balances pages after a deletion it touches a page and its two neighbours; a page of 4 KiB holds fewer than
90 rows of `contents`.
"""


class Forgotten(Struct, frozen=True, kw_only=True):
    """What a deletion on request did."""

    trace_ids: tuple[str, ...]
    """All traces that were asked for and found, oldest first, also those whose content was gone already."""
    contents: int
    """How many contents were deleted now."""
    erased: bool
    """Whether the deleted bytes are in no file of the database any more.

    False on SQLite while another program reads from the state before (the next deletion tries again), and on
    PostgreSQL, whose server decides when it uses the space again.
    """


def user_salt(database: Database) -> bytes:
    """The database's own salt of users' hashes, 32 bytes; made at first use.

    Raises:
        StorageError: the database can't be read or written.
    """
    wanted = select(salts.c.value).where(salts.c.name == "user")
    with database.reading() as connection:
        found = connection.execute(wanted).scalar()
    if found is not None:
        return bytes(found)
    drawn = text("INSERT INTO salts (name, value) VALUES ('user', :value) ON CONFLICT (name) DO NOTHING")
    with database.writing() as connection:
        connection.execute(drawn, {"value": os.urandom(32)})
        return bytes(connection.execute(wanted).scalar_one())


def user_hash(user: str, salt: bytes) -> str:
    """What stands for a user in the store: 32 hexadecimal digits of keyed BLAKE2b (RFC 7693).

    Args:
        user: as the request names it.
        salt: of `user_salt`; whoever has it can try names.
    """
    return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), key=salt, digest_size=16).hexdigest()


def traces_of(database: Database, user: str) -> list[str]:
    """Ids of all traces of a user, oldest first.

    Args:
        database: the store.
        user: hash of the user.

    Raises:
        StorageError: the database can't be read.
    """
    with database.reading() as connection:
        further = select(further_users.c.id).where(further_users.c.user_hash == user)
        named = (entries.c.user_hash == user) | entries.c.id.in_(further)
        query = select(entries.c.id).where(named).order_by(entries.c.created, entries.c.id)
        return list(connection.execute(query).scalars())


def delete_old_contents(database: Database, *, days: float, now: float | None = None) -> int:
    """Delete contents older than `days`; their entries stay.

    Args:
        database: the store.
        days: that contents are kept for.
        now: Unix time in seconds; the clock's when None.

    Returns:
        How many contents were deleted.

    Raises:
        ConfigurationError: `days` is negative or no number.
        StorageError: the database can't be written.
    """
    if not (math.isfinite(days) and days >= 0):
        raise ConfigurationError(f"contents can't be kept for {days} days; give a number from 0 up")
    before = (time.time() if now is None else now) - days * 86_400
    old = select(contents.c.id).where(kept, contents.c.created < before)
    old = old.order_by(contents.c.created).limit(_BATCH)
    deleted = 0
    while True:
        with database.writing() as connection:
            ids = list(connection.execute(old).scalars())
            deleted += _delete(connection, ids)
        if len(ids) < _BATCH:
            break
        time.sleep(_PAUSE_S)
    if deleted:
        _clean_up(database)
    return deleted


def forgetting(database: Database) -> bytes:
    """What changes with every deletion on request: who keeps copies of answers elsewhere has to drop them then.

    Raises:
        StorageError: the database can't be read.
    """
    with database.reading() as connection:
        return bytes(connection.execute(select(salts.c.value).where(salts.c.name == _FORGETTING)).scalar() or b"")


def forget_user(database: Database, user: str) -> Forgotten:
    """Delete the contents of a user's traces and take the user's hashes out of their entries.

    Gateways drop the answers that they have cached once they see `forgetting` change: whose those are nobody knows. The
    ledger keeps its sums. Afterwards nothing in the store leads from the user to the traces, so find out first which
    bundles were trained on them.

    Args:
        database: the store.
        user: hash of the user.

    Raises:
        StorageError: the database can't be written.
    """
    nameless = update(entries).where(entries.c.id == bindparam("trace")).values(user_hash=None)
    forgotten, deleted = list[str](), 0
    # A request of the user may come in between.
    while ids := traces_of(database, user):
        for batch in _batches(ids):
            with database.writing() as connection:
                deleted += _delete(connection, batch)
                connection.execute(nameless, [{"trace": i} for i in batch])
                connection.execute(delete(further_users).where(further_users.c.id.in_(batch)))
        forgotten += ids
    _tell(database)
    return Forgotten(trace_ids=tuple(forgotten), contents=deleted, erased=_clean_up(database))


def forget_traces(database: Database, ids: Sequence[str]) -> Forgotten:
    """Delete the contents of the traces `ids`; their entries stay. `forgetting` changes, as by `forget_user`.

    Raises:
        StorageError: the database can't be written.
    """
    forgotten, deleted = list[str](), 0
    for batch in _batches(ids):
        with database.writing() as connection:
            found = select(entries.c.id).where(entries.c.id.in_(batch)).order_by(entries.c.created, entries.c.id)
            forgotten += connection.execute(found).scalars()
            deleted += _delete(connection, batch)
    _tell(database)
    return Forgotten(trace_ids=tuple(forgotten), contents=deleted, erased=_clean_up(database))


def _tell(database: Database) -> None:
    new = text(
        "INSERT INTO salts (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    )
    with database.writing() as connection:
        connection.execute(new, {"name": _FORGETTING, "value": os.urandom(16)})


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _BATCH):
        if start:
            time.sleep(_PAUSE_S)
        yield ids[start : start + _BATCH]


def _delete(connection: Connection, ids: Sequence[str]) -> int:
    """Delete the contents of `ids`; how many there were."""
    if not ids:
        return 0
    there = (contents.c.id == bindparam("trace"), kept)
    statement: Any = delete(contents).where(*there)
    if connection.dialect.name == "sqlite":
        blank = {name: func.zeroblob(func.length(contents.c[name])) for name in ("request", "response")}
        statement = update(contents).where(*there).values(blanked=1, **blank)
    return connection.execute(statement, [{"trace": i} for i in ids]).rowcount


def _clean_up(database: Database) -> bool:
    """Give back the space of what was deleted; whether its bytes are in no file any more."""
    if database.is_sqlite:
        _drop_blank_rows(database)
        return _empty_log(database)
    with database.guarded(), database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM contents")
    return False


def _drop_blank_rows(database: Database) -> None:
    """Take blank rows out of the front of the table, all but the last `_MARGIN` before the first row with content."""
    place = contents.c.position
    while True:
        with database.writing() as connection:
            first = connection.execute(select(place).where(kept).order_by(place).limit(1)).scalar()
            blank = select(place).order_by(place.desc()).limit(1).offset(_MARGIN)
            last = connection.execute(blank if first is None else blank.where(place < first)).scalar()
            if last is None:
                return
            oldest = select(place).where(place <= last).order_by(place).limit(_BATCH)
            dropped = connection.execute(delete(contents).where(place.in_(oldest))).rowcount
        if dropped < _BATCH:
            return
        time.sleep(_PAUSE_S)


def _empty_log(database: Database) -> bool:
    """Fold SQLite's write-ahead log into the file and cut it to nothing; False where a reader is in the way."""
    with database.guarded():
        connection = database.engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            outcome = cursor.fetchone()
        finally:
            connection.close()
    return outcome is not None and outcome[0] == 0
