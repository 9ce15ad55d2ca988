"""What a decoder is taught of SQL: plain queries, values as placeholders, and rows put together anew in each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiercel.students.micro_recombination import Recombination
from tiercel.tasks.sql_execution import dialect_of
from tiercel.tasks.sql_placeholders import NAMES, Placeholders
from tiercel.tasks.sql_plain import plain_sql
from tiercel.tasks.sql_schema import Schema, schema_of_database
from tiercel.tasks.sql_values import LITERAL, between, values_in_database, values_in_queries

__all__ = ["SqlLesson", "sql_lesson"]

COVERED = 0.9
"""Share of the texts in queries that placeholders have to stand for; with less, requests would lose values that the
model needs to see."""
MOST_TEXTS = 50
"""Texts of queries, beside placeholders, up to which they are taken for all that there are."""


@dataclass(frozen=True, kw_only=True)
class SqlLesson:
    """What is learnt.

    Attributes:
        rows: requests and plain queries, in the order of the rows that were given; with placeholders where there are.
        placeholders: what hides a request's values and puts them back; None where requests do not name their values.
        variation: more rows from these, for training.
        held_out: the rows that were given to tell when to stop, in the same form.
        texts: that the training rows' queries hold beside placeholders; None where there are no placeholders, or so
            many texts that others must be expected.
    """

    rows: list[tuple[str, str]]
    placeholders: Placeholders | None
    variation: Recombination | None
    held_out: list[tuple[str, str]]
    texts: tuple[str, ...] | None = None


def sql_lesson(
    rows: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    *,
    database: str | Path | None = None,
    schema: Schema | None = None,
) -> SqlLesson:
    """Prepare rows of SQL for training.

    Args:
        rows: requests and queries to train on.
        held_out: rows that tell when to stop.
        database: a SQLite file or a PostgreSQL URL whose values are looked for in requests; None takes the literals of
            the training rows' queries for all values that there are.
        schema: of the database, against which recombined queries are checked; None reads it from the database.

    Raises:
        DataError: the database can't be used.
        MissingExtraError: sqlglot, or psycopg for PostgreSQL, is not installed.
    """
    dialect = dialect_of(database) if database is not None else "sqlite"
    if schema is None and database is not None:
        schema = schema_of_database(database)
    plain = [(request, plain_sql(query, dialect)) for request, query in rows]
    stopping = [(request, plain_sql(query, dialect)) for request, query in held_out]
    requests, queries = [request for request, _ in plain], [query for _, query in plain]
    if database is not None and schema is not None:
        values = values_in_database(database, _asked_for(schema, queries))
    else:
        values = values_in_queries(queries)
    placeholders = Placeholders(values).without_words(requests, queries)
    hidden = [placeholders.hide_row(*row) for row in plain]
    if not _worth_it(queries, [query for _, query in hidden]):
        return SqlLesson(rows=plain, placeholders=None, variation=None, held_out=stopping)
    return SqlLesson(
        rows=hidden,
        placeholders=placeholders,
        variation=Recombination(hidden, placeholders, schema),
        held_out=[placeholders.hide_row(*row) for row in stopping],
        texts=_texts([query for _, query in hidden]),
    )


def _asked_for(schema: Schema, queries: Sequence[str]) -> Schema:
    """The tables that queries may name: a large database has many more, and reading all of their values takes hours."""
    said = "\n".join(queries).lower()
    return Schema(tables={name: columns for name, columns in schema.tables.items() if name.lower() in said})


def _texts(queries: Sequence[str]) -> tuple[str, ...] | None:
    found = {between(literal) for query in queries for literal in LITERAL.finditer(query)} - set(NAMES)
    return tuple(sorted(found)) if len(found) <= MOST_TEXTS and all(t.isprintable() for t in found) else None


def _worth_it(queries: Sequence[str], hidden: Sequence[str]) -> bool:
    """Whether placeholders stand for nearly all texts of the queries, and there are some."""
    texts = sum(len(LITERAL.findall(query)) for query in queries)
    named = sum(between(literal) in NAMES for query in hidden for literal in LITERAL.finditer(query))
    return named > 0 and named >= COVERED * texts
