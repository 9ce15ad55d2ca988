"""What gateways that share a store have to do once between them: turns, and the one state of a drift test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from sqlalchemy import delete, insert, select, text, update

from tiercel.store.audit_tables import drift_tests, turns
from tiercel.store.database import Database

__all__ = ["DriftTest", "advance_drift_test", "read_drift_statuses", "read_drift_test", "take_turn"]

_LOCK = 0x7469_6572_6365_6C03
"""Of PostgreSQL's advisory locks: one gateway moves a drift test, the others wait."""


class DriftTest(Struct, frozen=True, kw_only=True):
    """The test of one epoch of a workload whether its requests have changed, as it is kept."""

    workload: str
    epoch: int
    """Of the workload; another one has other reference requests."""
    round: int
    """Times that the reference was begun, from 1."""
    moved: int
    """Times that the test was written down; tells who has an older one."""
    state: bytes
    """What the test needs to go on."""
    status: bytes
    """What is known, for those who only look."""


def take_turn(database: Database, name: str, *, every_s: float, now: float) -> bool:
    """Whether it is this caller's turn: one in `every_s` seconds among all that share the store.

    Args:
        database: that they share.
        name: of what takes turns.
        every_s: seconds between two turns.
        now: Unix time. Where the clock ran backwards the next turn is at once, and not after all that time.

    Raises:
        StorageError: the database does not answer.
    """
    due = (turns.c.taken <= now - every_s) | (turns.c.taken > now)
    begun = text("INSERT INTO turns (name, taken) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")
    with database.writing() as connection:
        connection.execute(begun, {"name": name})
        return bool(connection.execute(update(turns).where(turns.c.name == name, due).values(taken=now)).rowcount)


def advance_drift_test(
    database: Database, workload: str, epoch: int, advance: Callable[[DriftTest | None], DriftTest]
) -> None:
    """Move a test under a lock, from what the last gateway left.

    Args:
        database: that the gateways share.
        workload: name.
        epoch: of the workload.
        advance: gives the next one from the last; None before the first.

    Raises:
        StorageError: the database does not answer.
    """
    own = (drift_tests.c.workload == workload) & (drift_tests.c.epoch == epoch)
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        new = advance(_test(connection.execute(select(drift_tests).where(own)).one_or_none()))
        connection.execute(delete(drift_tests).where(own))
        connection.execute(insert(drift_tests).values({n: getattr(new, n) for n in DriftTest.__struct_fields__}))


def read_drift_test(database: Database, workload: str, epoch: int) -> DriftTest | None:
    """The test of an epoch; None before its first pair.

    Raises:
        StorageError: the database does not answer.
    """
    own = (drift_tests.c.workload == workload) & (drift_tests.c.epoch == epoch)
    with database.reading() as connection:
        return _test(connection.execute(select(drift_tests).where(own)).one_or_none())


def read_drift_statuses(database: Database) -> dict[tuple[str, int], bytes]:
    """What is known of all tests, by workload and epoch.

    Raises:
        StorageError: the database does not answer.
    """
    wanted = select(drift_tests.c.workload, drift_tests.c.epoch, drift_tests.c.status)
    with database.reading() as connection:
        return {(row.workload, row.epoch): bytes(row.status) for row in connection.execute(wanted)}


def _test(row: Any) -> DriftTest | None:
    if row is None:
        return None
    return DriftTest(
        workload=row.workload,
        epoch=row.epoch,
        round=row.round,
        moved=row.moved,
        state=bytes(row.state),
        status=bytes(row.status),
    )
