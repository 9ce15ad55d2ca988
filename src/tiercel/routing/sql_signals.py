"""A signal that runs the SQL of an answer on the database that it is written for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiercel.routing.exchange import Exchange, Exchanges, Query
from tiercel.routing.signal import Cost, Signal, Stage
from tiercel.tasks.sql import extract_sql
from tiercel.tasks.sql_execution import Limits, Outcome, execute

__all__ = ["SqlExecution", "query_on"]

Floats = NDArray[np.float64]

LIMITS = Limits(seconds=2.0, rows=1_000, value_bytes=1_000_000)
"""Of one answer: a decision must not wait for a report of the year."""


def query_on(database: str | Path) -> Query:
    """Runs queries on a SQLite file or a PostgreSQL URL, behind the guard, within `LIMITS`."""
    return lambda sql: execute(sql, database, LIMITS)


class SqlExecution(Signal):
    """Whether the answer's query runs, and the shape of what it gives: wrong ones fail, or give nothing."""

    name = "sql_execution"
    stage = Stage.POST
    cost = Cost.DATABASE

    _columns = (
        "no_query",
        "refused",
        "failed",
        "stopped",
        "done",
        "empty",
        "log_rows",
        "log_columns",
        "single_value",
        "nulls",
        "repeated_rows",
    )

    def columns(self) -> tuple[str, ...]:
        """What came of the query; `stopped` by a limit of time or size."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c).

        Raises:
            ValueError: there is no database.
        """
        if exchanges.query is None:
            raise ValueError("a signal runs queries, but there is no database")
        rows = [_outcome(e, exchanges.query) for e in exchanges.items]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self._columns))


def _outcome(e: Exchange, query: Query) -> list[float]:
    sql = extract_sql(e.answer or "")
    if sql is None:
        return [1.0] + [0.0] * 10
    found = query(sql)
    rows = found.rows
    cells = sum(map(len, rows))
    return [
        0.0,
        float(found.outcome == Outcome.REFUSED),
        float(found.outcome == Outcome.FAILED),
        float(found.outcome in (Outcome.TIMED_OUT, Outcome.TOO_LARGE)),
        float(found.outcome == Outcome.DONE),
        float(found.outcome == Outcome.DONE and not rows),
        float(np.log1p(len(rows))),
        float(np.log1p(len(found.columns))),
        float(len(rows) == 1 and cells == 1),
        sum(value is None for row in rows for value in row) / max(1, cells),
        1 - len({repr(row) for row in rows}) / len(rows) if rows else 0.0,
    ]
