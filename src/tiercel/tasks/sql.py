"""SQL answers: the query in a model's answer, and its loss against a reference.

With a database the loss is execution accuracy (`sql_execution`): the same result is right, however it was asked for.
Without one it is the equality of canonical forms (`sql_canonical`), which never takes two queries for the same that
give different results, but misses some that say the same in another way.
"""

from __future__ import annotations

import re
from pathlib import Path

from tiercel.tasks.losses import WRONG_FORM, Comparison
from tiercel.tasks.sql_canonical import canonical_sql
from tiercel.tasks.sql_execution import Limits, Outcome, dialect_of, execution_loss
from tiercel.tasks.sql_guard import DIALECTS

__all__ = ["extract_sql", "sql_loss"]

_FENCE = re.compile(r"```[ \t]*(?:(?:sql|sqlite3?|postgres(?:ql)?|pgsql)\b)?[ \t]*\n?(.*?)```", re.I | re.S)
_START = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|with|values)\b", re.I | re.S)


def extract_sql(text: str) -> str | None:
    """The query in a model's answer; None when there is none, or more than one block of code.

    Args:
        text: a bare query, or prose around one block fenced by three backticks.
    """
    blocks = _FENCE.findall(text)
    if len(blocks) > 1:
        return None
    sql = blocks[0] if blocks else text
    return sql.strip() if _START.match(sql) else None


def sql_loss(
    answer: str,
    reference: str,
    database: str | Path | None = None,
    limits: Limits | None = None,
) -> Comparison:
    """Compare a model's answer with a reference.

    Args:
        answer: as the model wrote it, fenced or bare.
        reference: taken to be right; fenced or bare.
        database: a SQLite file or a PostgreSQL URL; None compares canonical forms.
        limits: of each query on the database.

    Raises:
        MissingExtraError: sqlglot (or psycopg, for PostgreSQL) is not installed.
        DataError: the database can't be used.
    """
    got, wanted = extract_sql(answer), extract_sql(reference)
    if got is None:
        return WRONG_FORM
    if wanted is None:
        return Comparison(loss=1.0)
    if database is None:
        return _canonical_loss(got, wanted, DIALECTS)
    found = execution_loss(got, wanted, database, limits)
    if not found.judged:
        # A reference that does not run judges nothing by its result; the texts still can be compared.
        texts = _canonical_loss(got, wanted, (dialect_of(database),))
        return Comparison(loss=texts.loss, parsed=texts.parsed, error=f"reference {found.reference}: {found.error}")
    refused = found.answer is not Outcome.DONE
    return Comparison(loss=found.loss, error=f"{found.answer}: {found.error}" if refused else None)


def _canonical_loss(answer: str, reference: str, dialects: tuple[str, ...]) -> Comparison:
    """Equality of canonical forms in the first dialect that takes both; a query that parses in none has lost."""
    if _plain(answer) == _plain(reference):
        return Comparison(loss=0.0)
    parsed = False
    for dialect in dialects:
        try:
            got = canonical_sql(answer, dialect)
            parsed = True
            return Comparison(loss=float(got != canonical_sql(reference, dialect)))
        except ValueError:
            continue
    return Comparison(loss=1.0, parsed=parsed)


def _plain(sql: str) -> str:
    return " ".join(sql.split()).rstrip("; ")
