"""Run a query on a database that it can't change, and compare what it gives with what the reference gives.

A query passes the guard first (`sql_guard`). SQLite then opens the file for reading only, allows nothing but reading
and the functions of the guard's list, and stops at a limit of time, rows or the size of a value. PostgreSQL
(`sql_postgres`) runs it in a read-only transaction behind a cursor, with a time limit.
"""

from __future__ import annotations

import enum
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from tiercel.errors import DataError, RefusedQueryError
from tiercel.tasks.sql_functions import FUNCTIONS
from tiercel.tasks.sql_guard import check_read_only, load_sqlglot
from tiercel.tasks.sql_results import TOLERANCE, same_rows

__all__ = [
    "Execution",
    "ExecutionComparison",
    "Limits",
    "Outcome",
    "dialect_of",
    "execute",
    "execution_loss",
    "orders_rows",
]

Database = str | Path
_STEPS = 1_000
"""Steps of SQLite's machine between two looks at the clock: well under a millisecond."""


class Outcome(enum.StrEnum):
    """How a query went."""

    DONE = "done"
    REFUSED = "refused"
    """It would do more than read."""
    TIMED_OUT = "timed out"
    TOO_LARGE = "too large"
    """It gives more rows, or a larger value, than the limits allow."""
    FAILED = "failed"
    """The database has no such table or column, or can't compute it."""


class Limits(Struct, frozen=True, kw_only=True):
    """What one query may use."""

    seconds: float = 10.0
    rows: int = 100_000
    value_bytes: int = 10_000_000
    """Of one text or blob; SQLite only."""


class Execution(Struct, frozen=True, kw_only=True):
    """What came of one query."""

    outcome: Outcome
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    """Empty unless the outcome is DONE."""
    error: str | None = None
    """Why it is not DONE, in one line; None when it is."""
    seconds: float = 0.0


class ExecutionComparison(Struct, frozen=True, kw_only=True):
    """How the result of an answer did against the result of the reference."""

    loss: float
    """0 when the results are the same, else 1."""
    answer: Outcome
    reference: Outcome
    """Not DONE when the reference itself can't be run: the loss then says nothing of the answer."""
    error: str | None = None
    """Why a query could not be run, the answer's first; None when both could."""

    @property
    def judged(self) -> bool:
        """Whether the reference gave a result to compare with."""
        return self.reference is Outcome.DONE


def dialect_of(database: Database) -> str:
    """The dialect of a database: PostgreSQL by its URL, SQLite for a file."""
    url = isinstance(database, str) and database.startswith(("postgres://", "postgresql://"))
    return "postgres" if url else "sqlite"


def execute(sql: str, database: Database, limits: Limits | None = None) -> Execution:
    """Run one query that reads.

    Args:
        sql: the query; what the guard refuses is not run.
        database: a SQLite file or a PostgreSQL URL.
        limits: of time, rows and values.

    Raises:
        DataError: the database is not there, can't be reached, or is no database.
        MissingExtraError: sqlglot, or psycopg for PostgreSQL, is not installed.
    """
    limits = limits or Limits()
    dialect, started = dialect_of(database), time.perf_counter()
    try:
        check_read_only(sql, dialect)
    except RefusedQueryError as error:
        return Execution(outcome=Outcome.REFUSED, error=str(error))
    if dialect == "sqlite":
        done = _on_sqlite(sql, Path(database), limits)
    else:
        from tiercel.tasks.sql_postgres import run

        outcome, columns, rows, error = run(sql, str(database), limits.seconds, limits.rows)
        done = Execution(outcome=Outcome(outcome), columns=columns, rows=rows, error=error)
    return Execution(
        outcome=done.outcome,
        columns=done.columns,
        rows=done.rows,
        error=done.error,
        seconds=time.perf_counter() - started,
    )


def execution_loss(
    answer: str, reference: str, database: Database, limits: Limits | None = None, *, tolerance: float = TOLERANCE
) -> ExecutionComparison:
    """Execution accuracy of one answer: 0 when it gives the reference's result, else 1.

    An answer that is refused, fails or takes too long has a loss of 1 and says so; `sql_results` says what the same
    result is. The order of rows counts where the reference has an ORDER BY that is not inside a subquery.

    Args:
        answer: SQL of the answer.
        reference: SQL that is taken to be right.
        database: a SQLite file or a PostgreSQL URL.
        limits: for each of the two queries.
        tolerance: of floating-point numbers.
    """
    wanted, got = execute(reference, database, limits), execute(answer, database, limits)
    if wanted.outcome is not Outcome.DONE or got.outcome is not Outcome.DONE:
        return ExecutionComparison(
            loss=1.0, answer=got.outcome, reference=wanted.outcome, error=got.error or wanted.error
        )
    same = len(got.columns) == len(wanted.columns) and same_rows(
        got.rows, wanted.rows, ordered=orders_rows(reference, dialect_of(database)), tolerance=tolerance
    )
    return ExecutionComparison(loss=0.0 if same else 1.0, answer=got.outcome, reference=wanted.outcome)


def orders_rows(sql: str, dialect: str = "sqlite") -> bool:
    """Whether a query orders its result; an ORDER BY inside a subquery does not."""
    sqlglot = load_sqlglot()
    tree = sqlglot.parse_one(sql, dialect=dialect)
    while isinstance(tree, sqlglot.exp.Subquery) and not tree.args.get("order"):
        tree = tree.this
    return tree.args.get("order") is not None


def _on_sqlite(sql: str, path: Path, limits: Limits) -> Execution:
    expired = _Clock(limits.seconds)
    with _opened(path, limits, expired) as connection:
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchmany(limits.rows + 1)
        except sqlite3.Error as error:
            return _failed(error, expired.passed, limits)
        columns = tuple(str(column[0]) for column in cursor.description or ())
    if len(rows) > limits.rows:
        return Execution(outcome=Outcome.TOO_LARGE, error=f"more than {limits.rows} rows")
    return Execution(outcome=Outcome.DONE, columns=columns, rows=tuple(rows))


class _Clock:
    """Called by SQLite while it works; a true answer stops the query."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.passed = False

    def __call__(self) -> int:
        self.passed = time.monotonic() > self.end
        return int(self.passed)


def _failed(error: sqlite3.Error, expired: bool, limits: Limits) -> Execution:
    text = str(error)
    if expired:
        return Execution(outcome=Outcome.TIMED_OUT, error=f"no result within {limits.seconds:g} s")
    if "not authorized" in text or "prohibited" in text or "readonly" in text:
        return Execution(outcome=Outcome.REFUSED, error=text)
    if "too big" in text:
        return Execution(outcome=Outcome.TOO_LARGE, error=f"a value of more than {limits.value_bytes} bytes")
    return Execution(outcome=Outcome.FAILED, error=text)


@contextmanager
def _opened(path: Path, limits: Limits, expired: Callable[[], int]) -> Generator[sqlite3.Connection]:
    """A connection that can only read the one file, and stops when `expired` says so."""
    if not path.is_file():
        raise DataError(f"{path} is not there: name a SQLite file or a postgresql:// URL")
    try:
        connection = sqlite3.connect(_uri(path), uri=True, timeout=min(5.0, limits.seconds), isolation_level=None)
    except sqlite3.Error as error:
        raise DataError(f"{path} can't be opened ({error}): check the file's rights") from error
    with closing(connection):
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{path} can't be read as a SQLite database ({error}): name another file") from error
        for table in _TABLE_FUNCTIONS:
            # They declare themselves on first use, with a CREATE TABLE of their own that the authorizer would stop.
            connection.execute(f"SELECT 1 FROM {table}('[]')")
        _harden(connection, limits)
        connection.text_factory = _decoded
        connection.set_progress_handler(expired, _STEPS)
        connection.set_authorizer(_authorize)
        yield connection


def _uri(path: Path) -> str:
    """The file for reading only.

    A database in WAL mode that nobody has open would get two files beside it from a mere reader; it is opened as
    immutable, which leaves none. With a log beside it there is a writer, and the reader takes part as SQLite asks.
    """
    resolved = path.resolve()
    with resolved.open("rb") as file:
        wal = file.read(20)[18:20] == b"\x02\x02"
    log = resolved.with_name(resolved.name + "-wal")
    alone = wal and not (log.exists() and log.stat().st_size)
    return f"{resolved.as_uri()}?mode=ro{'&immutable=1' if alone else ''}"


def _harden(connection: sqlite3.Connection, limits: Limits) -> None:
    for pragma in ("query_only=ON", "trusted_schema=OFF", "temp_store=MEMORY", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.value_bytes)
    connection.setlimit(sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0)


_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_OPERATORS = frozenset({"glob", "like", "match", "regexp", "->", "->>"})
_TABLE_FUNCTIONS = ("json_each", "json_tree")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _via: str | None) -> int:
    """SQLite asks for every step of a statement while it is compiled; only reading and computing are allowed."""
    if action in _READS:
        return sqlite3.SQLITE_DENY if (first or "").lower().startswith("pragma_") else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        name = (second or "").lower()
        return sqlite3.SQLITE_OK if name in FUNCTIONS["sqlite"] | _OPERATORS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_DENY


def _decoded(raw: bytes) -> str:
    """Text of a database whose encoding is not what it says still compares equal to itself."""
    return raw.decode("utf-8", errors="surrogateescape")
