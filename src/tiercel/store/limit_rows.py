"""Rows of limits: how accounts and holdings are locked, read and written, in as few round trips as can be.

Whoever changes an account or one of its holdings has locked the account's row before, several of them in the order of
their ids, and all of them with one statement. On SQLite the transaction's write lock does that job.

PostgreSQL gets what opens a transaction, locks and reads in one round trip, what writes and commits in another:
psycopg's pipeline puts statements on the wire without waiting for each one's answer. BEGIN and COMMIT are sent by hand,
for psycopg waits for those that it sends itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import ClauseElement, Connection, and_, bindparam, delete, exc, insert, or_, select, update

from tiercel.store.database import Database
from tiercel.store.limit_rules import Account, Holding, Meter
from tiercel.store.limit_tables import limit_accounts, limit_holdings

__all__ = [
    "Accounts",
    "StoredHolding",
    "add_accounts",
    "forget_holdings",
    "read_accounts",
    "scopes_ahead",
    "scopes_to_purge",
    "show_accounts",
    "show_expired",
    "take_expired",
    "take_holdings",
    "take_reserved",
    "transaction",
    "write",
]

Accounts = dict[str, Account]
"""By the scope's id, in order."""

_account = limit_accounts.c
_holding = limit_holdings.c
_admitted = msgspec.msgpack.Decoder(dict[int, tuple[int, int]])
_HELD = (
    _holding.reservation,
    _holding.scope,
    _holding.nano_usd,
    _holding.tokens,
    _holding.second,
    _holding.day,
    _holding.month,
    _holding.expires,
)
_UPDATE = (
    update(limit_accounts)
    .where(_account.scope == bindparam("id"))
    .values({column.name: bindparam(column.name) for column in limit_accounts.columns if column.name != "scope"})
)
_INSERT = insert(limit_holdings)


class StoredHolding(msgspec.Struct, frozen=True, kw_only=True):
    """A holding as it was read, or as it is to be written."""

    reservation: int
    """Its number."""
    scope: str
    """Id of the scope."""
    holding: Holding
    expires: float | None
    """Unix time at which its money goes back; None where it has gone back already."""


@contextmanager
def transaction(database: Database) -> Generator[Connection]:
    """A transaction for the functions below; `write` commits it, what was not written is rolled back.

    Args:
        database: that all gateways share.

    Raises:
        StorageError: the database does not answer.
    """
    if database.is_sqlite:
        with database.writing() as connection:
            yield connection
        return
    with database.guarded(), database.engine.connect() as connection:
        # Only psycopg is told that it commits by itself; the pool rolls back a transaction that is still open.
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def read_accounts(connection: Connection, ids: Sequence[str]) -> Accounts:
    """Lock and read accounts; one that does not exist is left out.

    Args:
        connection: with a transaction that may write.
        ids: of the scopes.
    """
    (rows,) = _begin_and_fetch(connection, [(_lock_accounts(_places(ids)), _named("s", ids))])
    return _accounts(rows)


def take_holdings(
    connection: Connection, ids: Sequence[str], reservations: Sequence[int]
) -> tuple[Accounts, list[StoredHolding]]:
    """Lock and read accounts, and take the holdings of reservations out of the table.

    Args:
        connection: with a transaction that may write.
        ids: of the reservations' scopes.
        reservations: their numbers.
    """
    taken = _take_holdings(_places(reservations)), _named("r", reservations)
    accounts, held = _begin_and_fetch(connection, [(_lock_accounts(_places(ids)), _named("s", ids)), taken])
    return _accounts(accounts), [_stored(row) for row in held]


def take_reserved(connection: Connection, reservation: int) -> list[StoredHolding]:
    """Take a reservation's holdings out of the table; their accounts are locked already."""
    taken = delete(limit_holdings).where(_holding.reservation == reservation).returning(*_HELD)
    return [_stored(row) for row in connection.execute(taken)]


def take_expired(connection: Connection, ids: Iterable[str], at: float) -> list[StoredHolding]:
    """Mark holdings whose time is over as given back, and return them; their accounts are locked already."""
    overdue = (
        update(limit_holdings)
        .where(_holding.scope.in_(list(ids)), _holding.expires <= at)
        .values(expires=None)
        .returning(*_HELD)
    )
    return [_stored(row) for row in connection.execute(overdue)]


def forget_holdings(connection: Connection, scope: str, before: float) -> int:
    """Delete a scope's holdings that were given back and admitted before a Unix time; returns how many."""
    old = delete(limit_holdings).where(_holding.scope == scope, _holding.expires.is_(None), _holding.second < before)
    return connection.execute(old).rowcount


def scopes_to_purge(connection: Connection, at: float, before: float) -> list[str]:
    """Ids of scopes with holdings whose time was over at `at`, or that were given back and are from before `before`."""
    old = or_(_holding.expires <= at, and_(_holding.expires.is_(None), _holding.second < before))
    return list(connection.scalars(select(_holding.scope).where(old).distinct().order_by(_holding.scope)))


def scopes_ahead(connection: Connection, now: float) -> list[str]:
    """Ids of scopes whose clock is later than a Unix time."""
    return list(connection.scalars(select(_account.scope).where(_account.clock > now).order_by(_account.scope)))


def show_accounts(connection: Connection, ids: Sequence[str]) -> Accounts:
    """Read accounts without a lock, to show them."""
    return _accounts(connection.execute(select(limit_accounts).where(_account.scope.in_(ids))))


def show_expired(connection: Connection, ids: Sequence[str], at: float) -> list[StoredHolding]:
    """Holdings whose time is over, to show what is still reserved."""
    rows = connection.execute(select(*_HELD).where(_holding.scope.in_(ids), _holding.expires <= at))
    return [_stored(row) for row in rows]


def add_accounts(connection: Connection, ids: Sequence[str]) -> None:
    """Make accounts that do not exist yet; the connection must hold no lock on others."""
    for scope in sorted(ids):
        new = _account_row(scope, Account())
        new["scope"] = new.pop("id")
        if connection.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql

            connection.execute(postgresql.insert(limit_accounts).on_conflict_do_nothing(), new)
        else:
            from sqlalchemy.dialects import sqlite

            connection.execute(sqlite.insert(limit_accounts).on_conflict_do_nothing(), new)


def write(connection: Connection, accounts: Accounts, holdings: Sequence[StoredHolding] = ()) -> None:
    """Write accounts and new holdings, and commit; the connection's transaction is over then.

    Args:
        connection: that has locked the accounts.
        accounts: as they are now.
        holdings: that are new.
    """
    rows = [
        {"reservation": h.reservation, "scope": h.scope, "expires": h.expires, **msgspec.structs.asdict(h.holding)}
        for h in holdings
    ]
    with _pipeline(connection):
        connection.execute(_UPDATE, [_account_row(scope, account) for scope, account in accounts.items()])
        if rows:
            connection.execute(_INSERT, rows)
        if connection.dialect.name == "postgresql":
            _driver(connection).execute("COMMIT")
        else:
            connection.commit()


@cache
def _lock_accounts(count: int) -> ClauseElement:
    names = [bindparam(f"s{i}") for i in range(count)]
    # The order in which rows are locked is what keeps two requests from waiting for each other.
    return select(limit_accounts).where(_account.scope.in_(names)).order_by(_account.scope).with_for_update()


@cache
def _take_holdings(count: int) -> ClauseElement:
    numbers = [bindparam(f"r{i}") for i in range(count)]
    return delete(limit_holdings).where(_holding.reservation.in_(numbers)).returning(*_HELD)


def _places(values: Sequence[object]) -> int:
    """Parameters of a statement for so many values: a power of two, so that there are few statements."""
    return 1 << (len(values) - 1).bit_length() if values else 1


def _named(letter: str, values: Sequence[Any]) -> dict[str, Any]:
    """Values by the names of the statement's parameters; what is left over repeats the last one."""
    return {f"{letter}{i}": values[min(i, len(values) - 1)] for i in range(_places(values))}


def _driver(connection: Connection) -> Any:
    """Psycopg's own connection."""
    return connection.connection.driver_connection


@contextmanager
def _pipeline(connection: Connection) -> Generator[None]:
    """What the block sends is one round trip on PostgreSQL; errors come at its end."""
    if connection.dialect.name != "postgresql":
        yield
        return
    from psycopg import Error

    try:
        with _driver(connection).pipeline():
            yield
    except Error as error:
        # The database's guard knows SQLAlchemy's errors; statement and values are left out of this one on purpose.
        raise exc.OperationalError(None, None, error) from error


def _begin_and_fetch(connection: Connection, queries: Sequence[tuple[Any, dict[str, Any]]]) -> list[list[Any]]:
    """Rows of the queries that a transaction starts with."""
    if connection.dialect.name != "postgresql":
        return [list(connection.execute(query, parameters)) for query, parameters in queries]
    driver = _driver(connection)
    with _pipeline(connection):
        # Whatever the server's default is: rows that were waited for must be read as they are then.
        driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursors = [driver.execute(_postgresql_text(query), parameters) for query, parameters in queries]
    return [cursor.fetchall() for cursor in cursors]


@cache
def _postgresql_text(query: ClauseElement) -> str:
    from sqlalchemy.dialects.postgresql import psycopg

    return str(query.compile(dialect=psycopg.dialect()))


def _accounts(rows: Iterable[Any]) -> Accounts:
    return {row[0]: _read_account(row) for row in rows}


def _read_account(row: Any) -> Account:
    _, clock, day, day_spent, day_reserved, month, month_spent, month_reserved, spent, reserved, admitted = row
    return Account(
        clock=clock,
        day=Meter(day, day_spent, day_reserved),
        month=Meter(month, month_spent, month_reserved),
        total=Meter(0, spent, reserved),
        admitted=_admitted.decode(admitted),
    )


def _account_row(scope: str, account: Account) -> dict[str, Any]:
    return {
        "id": scope,
        "clock": account.clock,
        "day": account.day.window,
        "day_spent": account.day.spent,
        "day_reserved": account.day.reserved,
        "month": account.month.window,
        "month_spent": account.month.spent,
        "month_reserved": account.month.reserved,
        "total_spent": account.total.spent,
        "total_reserved": account.total.reserved,
        "admitted": msgspec.msgpack.encode(account.admitted),
    }


def _stored(row: Any) -> StoredHolding:
    reservation, scope, nano_usd, tokens, second, day, month, expires = row
    holding = Holding(nano_usd=nano_usd, tokens=tokens, second=second, day=day, month=month)
    return StoredHolding(reservation=reservation, scope=scope, holding=holding, expires=expires)
