"""What gateways that share a store have to do once between them: turns, and the one state of a drift test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from sqlalchemy import delete, insert, select, text, update

from tiercel.store.audit_tables import drift_tests, turns
from tiercel.store.database import Database

__all__ = ["DriftTest", "advance_drift_test", "read_drift_tests", "take_turn"]

_LOCK = 0x7469_6572_6365_6C03
"""Of PostgreSQL's advisory locks: one gateway moves a drift test, the others wait."""


class DriftTest(Struct, frozen=True, kw_only=True):
    """A workload's test of whether its requests have changed, as it is kept."""

    workload: str
    reference: str
    """Digest of the reference requests; another one begins anew."""
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
    database: Database, workload: str, advance: Callable[[DriftTest | None], DriftTest | None]
) -> DriftTest | None:
    """Move a workload's test under a lock, from what the last gateway left.

    Args:
        database: that the gateways share.
        workload: name.
        advance: gives the next one from the last, None for no change.

    Returns:
        What stands there now.

    Raises:
        StorageError: the database does not answer.
    """
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        row: Any = connection.execute(select(drift_tests).where(drift_tests.c.workload == workload)).one_or_none()
        last = None if row is None else _test(row)
        new = advance(last)
        if new is None:
            return last
        connection.execute(delete(drift_tests).where(drift_tests.c.workload == workload))
        connection.execute(insert(drift_tests).values({n: getattr(new, n) for n in DriftTest.__struct_fields__}))
        return new


def read_drift_tests(database: Database) -> dict[str, DriftTest]:
    """The tests of all workloads by name.

    Raises:
        StorageError: the database does not answer.
    """
    with database.reading() as connection:
        return {row.workload: _test(row) for row in connection.execute(select(drift_tests))}


def _test(row: Any) -> DriftTest:
    values = {name: getattr(row, name) for name in DriftTest.__struct_fields__}
    return DriftTest(**{**values, "state": bytes(row.state), "status": bytes(row.status)})
