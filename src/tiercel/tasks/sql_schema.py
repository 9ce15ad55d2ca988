"""Tables and columns of a database, from itself or from CREATE TABLE texts."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from tiercel.errors import DataError
from tiercel.tasks.sql_execution import dialect_of
from tiercel.tasks.sql_guard import load_sqlglot

__all__ = ["Schema", "read_schema", "schema_of_database"]

SECONDS = 10.0
"""For a server to tell its tables."""
MOST_COLUMNS = 100_000
_CREATE = re.compile(r"\bCREATE\s+(?:TEMP\s+|TEMPORARY\s+)?TABLE\b", re.IGNORECASE)
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)


class Schema(Struct, frozen=True, kw_only=True):
    """What a query may name."""

    tables: dict[str, tuple[str, ...]]
    """Columns of each table or view, as they are written."""


def read_schema(text: str, dialect: str = "sqlite") -> Schema:
    """The schema that CREATE TABLE statements give, with or without semicolons, amid other text.

    Args:
        text: such as a system prompt with the tables of the database.
        dialect: sqlite or postgres.

    Raises:
        DataError: there is no CREATE TABLE, or one does not parse.
        MissingExtraError: sqlglot is not installed.
    """
    tables = dict(_table(statement, dialect) for statement in _statements(text))
    if not tables:
        raise DataError("the schema has no CREATE TABLE: give the statements that made the tables")
    return Schema(tables=tables)


def schema_of_database(database: str | Path) -> Schema:
    """The tables and views of a database, which is only read; in PostgreSQL those of the role's search path.

    Args:
        database: a SQLite file or a PostgreSQL URL.

    Raises:
        DataError: the database is missing, is none, can't be reached or has no tables.
        MissingExtraError: psycopg, for PostgreSQL, is not installed.
    """
    postgres = dialect_of(database) == "postgres"
    rows = _in_postgres(str(database)) if postgres else _in_sqlite(Path(database))
    tables: dict[str, tuple[str, ...]] = {}
    for table, column in rows:
        tables[table] = (*tables.get(table, ()), column)
    if not tables:
        # A URL may hold a password.
        name = "the PostgreSQL database" if postgres else database
        raise DataError(f"{name} has no tables that can be read: name another one")
    return Schema(tables=tables)


def _in_postgres(url: str) -> Sequence[tuple[str, str]]:
    from tiercel.tasks.sql_postgres import run

    query = (
        "SELECT table_name::text, column_name::text FROM information_schema.columns "
        "WHERE table_schema = ANY (current_schemas(false)) ORDER BY table_name, ordinal_position"
    )
    outcome, _, rows, error = run(query, url, SECONDS, MOST_COLUMNS)
    if outcome != "done":
        raise DataError(f"the PostgreSQL database does not tell its tables ({error}): give a role that may read them")
    return [(table, column) for table, column in rows]


def _in_sqlite(path: Path) -> Sequence[tuple[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is not there: name a SQLite file")
    query = (
        "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS c "
        "WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND c.hidden <> 1 "
        "ORDER BY m.rowid, c.cid"
    )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{path} can't be read as a SQLite database ({error}): name another file") from error


def _statements(text: str) -> list[str]:
    """Each CREATE TABLE up to the parenthesis that closes it."""
    plain = _QUOTED.sub(lambda m: "_" * len(m[0]), text)
    found: list[str] = []
    for start in _CREATE.finditer(plain):
        depth = 0
        for mark in re.finditer(r"[()]", plain[start.start() :]):
            depth += 1 if mark[0] == "(" else -1
            if depth == 0:
                found.append(text[start.start() : start.start() + mark.end()])
                break
        else:
            raise DataError(f"a CREATE TABLE has no end: {text[start.start() : start.start() + 60]!r}: close its list")
    return found


def _table(statement: str, dialect: str) -> tuple[str, tuple[str, ...]]:
    sqlglot = load_sqlglot()
    exp = sqlglot.exp
    try:
        tree = sqlglot.parse_one(statement, dialect=dialect)
        columns = tuple(c.name for c in tree.this.expressions if isinstance(c, exp.ColumnDef))
        name = tree.this.this.name
    except (sqlglot.errors.SqlglotError, AttributeError, RecursionError) as error:
        raise DataError(f"a CREATE TABLE does not parse: {statement[:60]!r}: mend it") from error
    if not columns:
        raise DataError(f"a CREATE TABLE has no columns: {statement[:60]!r}: mend it")
    return name, columns
