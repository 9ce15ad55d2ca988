"""The signal that runs an answer's SQL, on a real database that it can't change."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.signal_check import check_signal
from tiercel.routing.sql_signals import SqlExecution, query_on


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("db") / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE pens (name TEXT, price REAL)")
        connection.executemany("INSERT INTO pens VALUES (?, ?)", [("red", 1.5), ("blue", None), ("blue", None)])
    return path


def _run(database: Path, answer: str | None) -> dict[str, float]:
    signal = SqlExecution()
    row = signal.transform(Exchanges([Exchange(request="", answer=answer)], query=query_on(database)))[0]
    return dict(zip(signal.columns(), row.tolist(), strict=True))


def test_rows_of_a_query_that_runs_are_described(database: Path) -> None:
    found = _run(database, "Here it is:\n```sql\nSELECT name, price FROM pens\n```")
    assert (found["done"], found["failed"], found["empty"]) == (1, 0, 0)
    assert found["log_rows"] == pytest.approx(np.log1p(3)) and found["log_columns"] == pytest.approx(np.log1p(2))
    assert found["nulls"] == pytest.approx(2 / 6) and found["repeated_rows"] == pytest.approx(1 / 3)
    assert _run(database, "SELECT count(*) FROM pens")["single_value"] == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("SELECT name FROM pens WHERE price > 100", "empty"),
        ("SELECT colour FROM pens", "failed"),
        ("SELECT FROM WHERE", "refused"),
        ("SELECT a.name FROM pens a, pens b, pens c, pens d, pens e, pens f, pens g", "stopped"),
        ("I can't answer that.", "no_query"),
        (None, "no_query"),
    ],
)
def test_a_query_that_fails_says_how(database: Path, answer: str | None, outcome: str) -> None:
    found = _run(database, answer)
    assert found[outcome] == 1
    assert sum(found[k] for k in ("no_query", "refused", "failed", "stopped", "done")) == 1


def test_a_query_that_writes_is_refused_and_changes_nothing(database: Path) -> None:
    before = database.read_bytes()
    assert _run(database, "DELETE FROM pens")["no_query"] == 1
    assert _run(database, "WITH a AS (SELECT 1) DELETE FROM pens")["refused"] == 1
    assert database.read_bytes() == before


def test_the_signal_passes_the_common_suite_on_a_real_database(database: Path) -> None:
    answers = ["SELECT name FROM pens", "SELECT nothing FROM pens", None, "prose", "SELECT 1; SELECT 2"] * 6
    exchanges = Exchanges([Exchange(request="Which?", answer=a) for a in answers], query=query_on(database))
    check_signal(SqlExecution, exchanges, Outcomes(weak=np.ones(len(answers)), strong=np.ones(len(answers))))


def test_without_a_database_the_signal_says_so() -> None:
    with pytest.raises(ValueError, match="no database"):
        SqlExecution().transform(Exchanges([Exchange(request="", answer="SELECT 1")]))
