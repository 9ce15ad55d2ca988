from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.tasks.test_sql_guard import HOSTILE
from tiercel.errors import DataError
from tiercel.tasks import sql_execution
from tiercel.tasks.sql_execution import Limits, Outcome, execute, execution_loss, orders_rows

FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


def test_a_query_gives_its_columns_and_rows(shop: Path) -> None:
    done = execute("SELECT name AS who, credit FROM customer ORDER BY id", shop)
    assert done.outcome is Outcome.DONE
    assert done.columns == ("who", "credit")
    assert done.rows == (("Ada", 10.5), ("Bob", None), ("Cleo", 0.1))
    assert done.error is None
    assert done.seconds > 0


@pytest.mark.parametrize(
    ("sql", "outcome", "error"),
    [
        ("SELECT nope FROM customer", Outcome.FAILED, "no such column: nope"),
        ("DELETE FROM customer", Outcome.REFUSED, "Delete"),
        ("SELECT load_extension('x')", Outcome.REFUSED, "load_extension"),
        (FOREVER, Outcome.TIMED_OUT, "0.2 s"),
        ("SELECT 1 FROM customer a, customer b, customer c", Outcome.TOO_LARGE, "more than 10 rows"),
        ("SELECT zeroblob(1000000)", Outcome.TOO_LARGE, "100000 bytes"),
    ],
)
def test_a_query_that_gives_nothing_says_why(shop: Path, sql: str, outcome: Outcome, error: str) -> None:
    done = execute(sql, shop, Limits(seconds=0.2, rows=10, value_bytes=100_000))
    assert done.outcome is outcome
    assert error in (done.error or "")
    assert done.rows == ()


@pytest.mark.parametrize("sql", [sql for dialect, sql in HOSTILE if dialect == "sqlite" and sql.strip("; ")])
def test_sqlite_itself_stops_what_the_guard_would_have_let_through(
    sql: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_execution, "check_read_only", lambda *_: None)
    before = shop.read_bytes()
    try:
        done = execute(sql, shop, Limits(seconds=1, rows=100))
        assert done.outcome in (Outcome.REFUSED, Outcome.FAILED) or sql == "EXPLAIN QUERY PLAN SELECT 1"
    except (sqlite3.ProgrammingError, ValueError):
        pass  # several statements, or a NUL: Python's sqlite3 does not pass them on
    assert shop.read_bytes() == before
    assert [p.name for p in shop.parent.iterdir()] == [shop.name]


def test_a_database_in_wal_mode_is_read_without_leaving_files(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    before = shop.read_bytes()
    assert execute("SELECT count(*) FROM customer", shop).rows == ((3,),)
    assert [p.name for p in shop.parent.iterdir()] == [shop.name]
    assert shop.read_bytes() == before
    with closing(sqlite3.connect(shop)) as writer:
        writer.execute("INSERT INTO customer VALUES (4, 'Dan', 'Chur', 1)")
        writer.commit()
        # What stands in the log alone is seen too.
        assert execute("SELECT count(*) FROM customer", shop).rows == ((4,),)


def test_json_tables_and_text_that_is_no_utf8_can_be_read(shop: Path) -> None:
    assert execute("SELECT value FROM json_each('[3, 4]')", shop).rows == ((3,), (4,))
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("UPDATE customer SET name = CAST(x'ff41' AS TEXT) WHERE id = 1")
        connection.commit()
    assert execute("SELECT name FROM customer WHERE id = 1", shop).rows == (("\udcffA",),)


def test_a_database_that_is_none_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not there"):
        execute("SELECT 1", tmp_path / "nothing.sqlite")
    (tmp_path / "text").write_text("this is no database, however long it is " * 50)
    with pytest.raises(DataError, match="can't be read"):
        execute("SELECT 1", tmp_path / "text")


@pytest.mark.parametrize(
    ("answer", "reference", "loss"),
    [
        (
            "SELECT name FROM customer WHERE city = 'Bern'",
            'SELECT T1.Name FROM customer AS T1 WHERE T1.city = "Bern"',
            0,
        ),
        ("SELECT name FROM customer ORDER BY id DESC", "SELECT name FROM customer", 0),
        ("SELECT name FROM customer ORDER BY id DESC", "SELECT name FROM customer ORDER BY id", 1),
        ("SELECT name, city FROM customer", "SELECT city, name FROM customer", 1),
        ("SELECT city FROM customer", "SELECT DISTINCT city FROM customer", 1),
        ("SELECT sum(credit) FROM customer", "SELECT 10.6", 0),
        ("SELECT name, city FROM customer WHERE 0", "SELECT name FROM customer WHERE 0", 1),
    ],
)
def test_the_loss_is_that_of_the_result(shop: Path, answer: str, reference: str, loss: float) -> None:
    found = execution_loss(answer, reference, shop)
    assert found.loss == loss
    assert found.judged
    assert found.error is None


def test_a_query_that_can_not_be_run_has_lost_and_is_counted_apart(shop: Path) -> None:
    found = execution_loss("SELECT nope FROM customer", "SELECT name FROM customer", shop)
    assert (found.loss, found.answer, found.judged) == (1, Outcome.FAILED, True)
    assert "nope" in (found.error or "")
    found = execution_loss(FOREVER, "SELECT 1", shop, Limits(seconds=0.1))
    assert (found.loss, found.answer) == (1, Outcome.TIMED_OUT)
    found = execution_loss("SELECT 1", "SELECT nope", shop)
    assert (found.answer, found.reference, found.judged) == (Outcome.DONE, Outcome.FAILED, False)


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t ORDER BY a LIMIT 3", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
        ("(SELECT a FROM t ORDER BY a)", True),
        ("SELECT a FROM t", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT a FROM t WHERE a IN (SELECT a FROM t ORDER BY a LIMIT 1)", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
    ],
)
def test_only_an_outer_order_orders_rows(sql: str, ordered: bool) -> None:
    assert orders_rows(sql) is ordered
