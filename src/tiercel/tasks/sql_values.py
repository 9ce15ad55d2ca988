"""Which values the text columns of a database hold, so that a request's words can be known for what they name.

The values come from the database itself, read and never written, or, where there is none, from the literals of the
answers in the traffic. Columns that share values are of one kind: a state is a state in whichever table it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from tiercel.tasks.sql_execution import Limits, Outcome, execute
from tiercel.tasks.sql_schema import Schema

__all__ = ["LITERAL", "ColumnValues", "between", "column_before", "values_in_database", "values_in_queries"]

LITERAL = re.compile(r"\"((?:[^\"]|\"\")*)\"|'((?:[^']|'')*)'")
"""A literal of a query, or a quoted name; what stands between the quotes is one of the two groups."""
MOST_VALUES = 20_000
"""Values of a column; one with more is left out, as its words could be anything."""
LONGEST = 60
"""Characters of a value; longer ones are texts, not names."""
SHARED = 0.5
"""Share of the smaller column's values that the other holds, from which both are of one kind; one value alone never
makes them that."""
_NAME_BEFORE = re.compile(
    r"(\w+)[\"`\]]?\s*(?:=|==|<>|!=|<|>|<=|>=|\bNOT\s+IN\b|\bIN\b|\bNOT\s+LIKE\b|\bLIKE\b)\s*\(?\s*$", re.IGNORECASE
)


class ColumnValues(Struct, frozen=True, kw_only=True):
    """Values by column; columns of one name in several tables are taken together."""

    columns: dict[str, tuple[str, ...]]
    """Values of each column, by its name in lower case; none is empty."""
    kinds: dict[str, str]
    """Kind of each column: the name of one of those that it shares values with."""
    words: frozenset[str] = frozenset()
    """Phrases in lower case that are values, but that requests use as words."""


def values_in_database(database: str | Path, schema: Schema, limits: Limits | None = None) -> ColumnValues:
    """The values of a database's text columns; columns that can't be read in time are left out.

    Args:
        database: a SQLite file or a PostgreSQL URL.
        schema: its tables and columns.
        limits: of the query for each column.

    Raises:
        DataError: the database is not there, can't be reached, or is no database.
        MissingExtraError: sqlglot, or psycopg for PostgreSQL, is not installed.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for table, columns in schema.tables.items():
        for column in columns:
            name, source = (part.replace('"', '""') for part in (column, table))
            query = f'SELECT DISTINCT "{name}" FROM "{source}" LIMIT {MOST_VALUES + 1}'
            told = execute(query, database, limits)
            if told.outcome is Outcome.DONE and len(told.rows) <= MOST_VALUES:
                found[table.lower(), column.lower()] = {cell for (cell,) in told.rows if isinstance(cell, str)}
    return _of(found)


def values_in_queries(queries: Iterable[str]) -> ColumnValues:
    """The texts that queries compare columns with."""
    found: dict[tuple[str, str], set[str]] = {}
    for query in queries:
        for literal in LITERAL.finditer(query):
            column = column_before(query, literal.start())
            if column:
                found.setdefault(("", column), set()).add(between(literal).strip("%"))
    return _of(found)


def between(literal: re.Match[str]) -> str:
    """What a match of `LITERAL` says, without its quotes."""
    quote = literal[0][0]
    return literal[0][1:-1].replace(quote * 2, quote)


def column_before(query: str, at: int) -> str:
    """The column, in lower case, that what stands at `at` is compared with; empty where it is compared with none."""
    start = max(0, at - 200)
    head = query[start:at]
    # A list of values: the column stands before its parenthesis.
    while (shorter := re.sub(r"(?:\"[^\"]*\"|'[^']*'|[\d.]+)\s*,\s*$", "", head)) != head:
        head = shorter
    found = _NAME_BEFORE.search(head)
    return found[1].lower() if found else ""


def _of(found: Mapping[tuple[str, str], set[str]]) -> ColumnValues:
    values: dict[str, set[str]] = {}
    for (_, column), cells in found.items():
        values.setdefault(column, set()).update(c for c in cells if _is_name(c))
    values = {column: cells for column, cells in values.items() if cells}
    tables = Counter(column for _, column in found)
    return ColumnValues(
        columns={column: tuple(sorted(cells)) for column, cells in sorted(values.items())},
        kinds=_kinds(values, tables),
    )


def _is_name(value: str) -> bool:
    return 0 < len(value) <= LONGEST and any(c.isalpha() for c in value)


def _kinds(values: Mapping[str, set[str]], tables: Mapping[str, int]) -> dict[str, str]:
    """Join columns that share values; a kind bears the name that most tables have."""
    # The name that most tables have comes first, and is kept when two kinds become one.
    order = sorted(values, key=lambda c: (-tables.get(c, 0), -len(values[c]), c))
    kinds = {column: column for column in order}
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            shared = len(values[first] & values[second])
            one, other = kinds[first], kinds[second]
            if one != other and shared >= max(2, SHARED * min(len(values[first]), len(values[second]))):
                kept, gone = sorted((one, other), key=order.index)
                kinds = {column: kept if kind == gone else kind for column, kind in kinds.items()}
    return kinds
