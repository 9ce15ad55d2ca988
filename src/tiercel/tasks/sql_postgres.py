"""Run a query on PostgreSQL in a transaction that can't write, behind a cursor, within a time limit.

A cursor takes one SELECT or VALUES and no statement that writes, not even inside WITH; the extended protocol, which
psycopg uses for it, takes one statement only. What a role may read is the database's business: give the URL of one
that may read what users may see, and nothing else. A superuser can read the server's files.
"""

from __future__ import annotations

import importlib
from typing import Any

from tiercel.errors import DataError, MissingExtraError

__all__ = ["run"]

Rows = tuple[tuple[Any, ...], ...]


def run(sql: str, url: str, seconds: float, rows: int) -> tuple[str, tuple[str, ...], Rows, str | None]:
    """Outcome (as `sql_execution.Outcome` names it), columns, rows and error of one query.

    Args:
        sql: a query that the guard let through.
        url: postgresql://user:password@host:port/database.
        seconds: limit for the server; also for connecting and for waiting on a lock.
        rows: more of them are "too large".

    Raises:
        DataError: the server can't be reached or refuses the login.
        MissingExtraError: psycopg is not installed.
    """
    try:
        psycopg: Any = importlib.import_module("psycopg")
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    milliseconds = max(1, int(seconds * 1_000))
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "standard_conforming_strings": "on",
        "application_name": "tiercel",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    try:
        connection = psycopg.connect(url, options=options, connect_timeout=max(2, int(seconds)), autocommit=False)
    except psycopg.Error as error:
        raise DataError(f"PostgreSQL can't be reached ({_line(error)}): check the URL and the login") from error
    with connection:
        connection.read_only = True
        try:
            with connection.cursor(name="tiercel") as cursor:
                cursor.execute(sql.encode())
                found = cursor.fetchmany(rows + 1)
                columns = tuple(column.name for column in cursor.description or ())
        except psycopg.Error as error:
            return _outcome(error, psycopg.errors, seconds)
        finally:
            if not connection.broken:
                connection.rollback()
    if len(found) > rows:
        return "too large", (), (), f"more than {rows} rows"
    return "done", columns, tuple(found), None


def _outcome(error: Exception, errors: Any, seconds: float) -> tuple[str, tuple[str, ...], Rows, str | None]:
    if isinstance(error, errors.QueryCanceled | errors.LockNotAvailable):
        return "timed out", (), (), f"no result within {seconds:g} s"
    if isinstance(error, errors.ReadOnlySqlTransaction | errors.InsufficientPrivilege):
        return "refused", (), (), _line(error)
    return "failed", (), (), _line(error)


def _line(error: Exception) -> str:
    """The first line of an error; psycopg's messages never hold the password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
