from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.tasks.test_sql_guard import HOSTILE
from tiercel.errors import DataError, MissingExtraError
from tiercel.tasks.sql import sql_loss
from tiercel.tasks.sql_execution import Limits, Outcome, execute, execution_loss
from tiercel.tasks.sql_postgres import run

Urls = tuple[str, str]


def _state(url: str) -> Any:
    """Rows, tables, roles, settings and large objects: what a statement could have changed."""
    import psycopg

    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM t), (SELECT sum(a) FROM t), (SELECT is_called FROM s), "
            "(SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace), "
            "(SELECT count(*) FROM pg_largeobject_metadata), (SELECT array_agg(rolname::text || rolsuper) FROM pg_roles), "
            "(SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)"
        ).fetchone()


def test_a_query_gives_its_columns_and_rows(postgres: Urls) -> None:
    done = execute("SELECT name AS who, credit FROM customer ORDER BY id;", postgres[1])
    assert done.outcome is Outcome.DONE
    assert done.columns == ("who", "credit")
    assert [(row[0], row[1] and float(row[1])) for row in done.rows] == [("Ada", 10.5), ("Bob", None), ("Cleo", 0.1)]


@pytest.mark.parametrize(
    ("sql", "outcome", "error"),
    [
        ("SELECT nope FROM customer", Outcome.FAILED, "nope"),
        ("SELECT rolpassword FROM pg_authid", Outcome.REFUSED, "permission denied"),
        ("SELECT count(*) FROM generate_series(1, 1000000000)", Outcome.TIMED_OUT, "0.3 s"),
        ("SELECT generate_series(1, 100)", Outcome.TOO_LARGE, "more than 50 rows"),
        ("SELECT pg_sleep(60)", Outcome.REFUSED, "pg_sleep"),
    ],
)
def test_a_query_that_gives_nothing_says_why(postgres: Urls, sql: str, outcome: Outcome, error: str) -> None:
    done = execute(sql, postgres[1], Limits(seconds=0.3, rows=50))
    assert done.outcome is outcome
    assert error in (done.error or "")


def test_the_server_itself_stops_what_the_guard_would_have_let_through(postgres: Urls) -> None:
    owner, reader = postgres
    before = _state(owner)
    for dialect, sql in HOSTILE:
        if dialect == "postgres" and "\0" not in sql:
            run(sql, reader, 0.1, 10)
    assert _state(owner) == before


def test_the_owner_can_not_write_either(postgres: Urls) -> None:
    before = _state(postgres[0])
    for sql in ("DELETE FROM t", "WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", "SELECT 1; DELETE FROM t"):
        assert run(sql, postgres[0], 1, 10)[0] == "failed"
    assert run("SELECT nextval('s')", postgres[0], 1, 10)[0] == "refused"
    assert _state(postgres[0]) == before


def test_losses_of_results_and_of_answers(postgres: Urls) -> None:
    url = postgres[1]
    assert execution_loss("SELECT 21.2 / 2", "SELECT sum(credit) FROM customer", url).loss == 0
    assert execution_loss("SELECT name FROM customer", "SELECT name FROM customer ORDER BY id DESC", url).loss == 1
    fenced = "```sql\nSELECT count(*)::text FROM customer\n```"
    assert sql_loss(fenced, "SELECT '3'", url).loss == 0


def test_a_server_that_is_not_there_is_the_users_mistake_and_the_password_stays_secret(postgres: Urls) -> None:
    with pytest.raises(DataError, match="can't be reached") as caught:
        execute("SELECT 1", "postgresql://reader:hunter2@127.0.0.1:9/postgres")
    assert "hunter2" not in str(caught.value)


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"tiercel\[postgres\]"):
        execute("SELECT 1", "postgresql://reader@127.0.0.1:9/postgres")
