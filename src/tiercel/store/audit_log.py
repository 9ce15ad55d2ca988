"""The record of audits: one chain of rows, appended to under a lock by all gateways that share the store.

Each row holds the hash of the one before it and its own, over canonical JSON, so that a row which is changed, taken out
or put in later is seen by who reads the chain. The end of a chain can be cut off unseen: who wants to rule that out
keeps the last hash elsewhere. What rows mean is said in `routing.audit_events`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from msgspec import Struct
from sqlalchemy import Connection, Row, delete, insert, select, text

from tiercel.errors import CertificateError, DataError
from tiercel.store.audit_tables import audit_log, audit_snapshots
from tiercel.store.database import Database
from tiercel.store.tables import salts

__all__ = [
    "GENESIS",
    "AuditRow",
    "Chain",
    "NewRow",
    "appending",
    "audit_key",
    "canonical",
    "check_storable",
    "export_log",
    "load_snapshots",
    "read_rows",
    "row_hash",
    "save_snapshots",
]

GENESIS = "0" * 64
"""What the first row has for the hash of the one before it."""
_LOCK = 0x7469_6572_6365_6C02
"""Of PostgreSQL's advisory locks: one gateway appends, the others wait."""
_BATCH = 1_000


class NewRow(Struct, frozen=True, kw_only=True):
    """A row to append."""

    kind: str
    """Of event."""
    workload: str
    epoch: int
    """Of the workload."""
    trace: str | None = None
    """The request's id; None where the row is not about one request."""
    body: dict[str, Any]
    """All else, as JSON can hold it."""


class AuditRow(Struct, frozen=True, kw_only=True):
    """A row of the chain."""

    sequence: int
    """From 1, without a gap."""
    created: float
    """Unix time by the clock of the gateway that wrote it; it orders nothing."""
    kind: str
    workload: str
    epoch: int
    trace: str | None
    body: dict[str, Any]
    previous: str
    """Hash of the row before it."""
    hash: str
    """SHA-256 of all of the above, hexadecimal."""


def canonical(value: Any) -> str:
    """JSON in the one form that is hashed: sorted keys, no blanks, ASCII; numbers as Python writes them.

    Raises:
        DataError: a number that is not finite, or a value that JSON has no form for.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the audit log can't hold this value ({error}); give finite numbers, texts, lists") from None


def row_hash(row: AuditRow) -> str:
    """The hash that a row must have."""
    content = {name: getattr(row, name) for name in AuditRow.__struct_fields__ if name != "hash"}
    return hashlib.sha256(canonical(content).encode("ascii")).hexdigest()


def check_storable(new: NewRow) -> None:
    """See that a row can be stored, before anything is done because of it.

    Raises:
        DataError: a name or a value can't be stored.
    """
    for name in (new.workload, new.trace or ""):
        if not name.isprintable():
            raise DataError(f"the audit log can't hold the name {name!r}; give printable characters")
    canonical(new.body)


class Chain:
    """The end of the log, while it is locked.

    Args:
        missed: rows that the caller has not seen yet.
        head: sequence and hash of the last row.
    """

    def __init__(self, missed: Sequence[AuditRow], head: tuple[int, str]) -> None:
        self.missed = missed
        """Rows after those that the caller had seen, in order."""
        self.head = head
        """Sequence and hash of the last row; (0, GENESIS) of an empty log."""
        self.added: list[AuditRow] = []
        """Rows that will be written when the lock is given up."""

    def add(self, new: NewRow, created: float) -> AuditRow:
        """Append a row.

        Raises:
            DataError: a value can't be stored.
        """
        check_storable(new)
        row = AuditRow(
            sequence=self.head[0] + 1,
            created=created,
            kind=new.kind,
            workload=new.workload,
            epoch=new.epoch,
            trace=new.trace,
            body=new.body,
            previous=self.head[1],
            hash="",
        )
        row = AuditRow(**{n: getattr(row, n) for n in AuditRow.__struct_fields__ if n != "hash"}, hash=row_hash(row))
        self.head = row.sequence, row.hash
        self.added.append(row)
        return row


@contextmanager
def appending(database: Database, *, after: int = 0) -> Generator[Chain]:
    """Hold the log's lock, read what was missed, append, and commit; nothing is written when the block raises.

    Args:
        database: that all gateways share.
        after: sequence of the last row that the caller has seen.

    Raises:
        StorageError: the database does not answer.
        CertificateError: a row that was missed is not part of the chain.
    """
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        last: Any = connection.execute(
            select(audit_log.c.sequence, audit_log.c.hash).order_by(audit_log.c.sequence.desc()).limit(1)
        ).one_or_none()
        chain = Chain(list(_rows(connection, after, None)), (0, GENESIS) if last is None else (last[0], last[1]))
        yield chain
        if chain.added:
            connection.execute(insert(audit_log), [_stored(row) for row in chain.added])


def read_rows(database: Database, *, after: int = 0) -> Iterator[AuditRow]:
    """The rows of the log in order, each seen to follow from the one before it.

    Args:
        database: that holds them.
        after: sequence after which to begin.

    Raises:
        StorageError: the database does not answer.
        CertificateError: a row is not part of the chain; the message names it.
    """
    while True:
        with database.reading() as connection:
            rows = list(_rows(connection, after, _BATCH))
        yield from rows
        if len(rows) < _BATCH:
            return
        after = rows[-1].sequence


def export_log(database: Database, out: IO[str], *, keys: Sequence[Mapping[str, Any]] = ()) -> int:
    """Write the log as JSON Lines, as `routing/audit_verifier.py` reads it.

    Args:
        database: that holds it.
        out: text file.
        keys: `{"workload", "epoch", "key"}` of epochs whose draws the reader may repeat, the key in hexadecimal.

    Returns:
        Rows written.
    """
    out.write(canonical({"format": 1, "keys": [dict(key) for key in keys]}) + "\n")
    count = 0
    for row in read_rows(database):
        out.write(canonical({name: getattr(row, name) for name in AuditRow.__struct_fields__}) + "\n")
        count += 1
    return count


def audit_key(database: Database) -> bytes:
    """The store's secret of all audit draws, 32 bytes; made at first use. Treat it as a password.

    Raises:
        StorageError: the database can't be read or written.
    """
    wanted = select(salts.c.value).where(salts.c.name == "audits")
    with database.reading() as connection:
        found = connection.execute(wanted).scalar_one_or_none()
    if found is not None:
        return bytes(found)
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = connection.execute(wanted).scalar_one_or_none()
        if found is None:
            found = os.urandom(32)
            connection.execute(insert(salts), {"name": "audits", "value": found})
    return bytes(found)


def save_snapshots(database: Database, states: Mapping[str, bytes], *, sequence: int) -> None:
    """Keep what monitors remember, so that a start need not read the whole log.

    Args:
        database: that holds the log.
        states: by workload; of all workloads that the log knows.
        sequence: of the row after which all of them were taken.
    """
    rows = [{"workload": name, "sequence": sequence, "state": state} for name, state in states.items()]
    with database.writing() as connection:
        connection.execute(delete(audit_snapshots))
        if rows:
            connection.execute(insert(audit_snapshots), rows)


def load_snapshots(database: Database) -> tuple[int, str, dict[str, bytes]]:
    """The last snapshots: the sequence and hash of the row after which they were taken, and states by workload.

    Without snapshots, or where the log does not reach them, all is to be read: (0, GENESIS, {}).
    """
    with database.reading() as connection:
        rows: Sequence[Row[Any]] = connection.execute(select(audit_snapshots)).all()
        sequence = max((row.sequence for row in rows), default=0)
        found = connection.execute(
            select(audit_log.c.hash).where(audit_log.c.sequence == sequence)
        ).scalar_one_or_none()
    if found is None:
        return 0, GENESIS, {}
    return sequence, found, {row.workload: bytes(row.state) for row in rows}


def _rows(connection: Connection, after: int, limit: int | None) -> Iterator[AuditRow]:
    query = select(audit_log).where(audit_log.c.sequence >= after).order_by(audit_log.c.sequence)
    # One row more, which the first one has to follow from.
    found = connection.execute(query if limit is None else query.limit(limit + (after > 0)))
    previous, expected = GENESIS, 1
    if after > 0:
        first: Any = found.fetchone()
        if first is None or first.sequence != after:
            raise CertificateError(f"row {after} of the audit log is missing, which was there before; restore a backup")
        previous, expected = first.hash, after + 1
    for stored in found:
        values: dict[str, Any] = dict(zip(AuditRow.__struct_fields__, stored, strict=True))
        row = AuditRow(**{**values, "body": json.loads(values["body"])})
        if (row.sequence, row.previous) != (expected, previous) or row.hash != row_hash(row):
            raise CertificateError(
                f"row {row.sequence} of the audit log does not follow from the one before it: "
                "a row was changed, added or taken out; restore a backup, and verify the log"
            )
        previous, expected = row.hash, expected + 1
        yield row


def _stored(row: AuditRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in AuditRow.__struct_fields__}
    return values | {"body": canonical(row.body)}
