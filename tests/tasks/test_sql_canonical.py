from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.conftest import SHOP
from tiercel.tasks.sql_canonical import canonical_sql
from tiercel.tasks.sql_results import same_rows

SAME = [
    ("SELECT T1.name FROM singer AS T1 WHERE T1.age > 20", "select NAME from Singer where (20 < age) -- all of them"),
    (
        "SELECT a.x, b.y FROM a JOIN b ON a.id = b.id WHERE a.z = 1 AND b.w = 2",
        "SELECT T1.x, T2.y FROM a T1, b T2 WHERE T2.w = 2 AND (T1.z = 1 AND T2.id = T1.id)",
    ),
    (
        "SELECT n, count(*) AS c FROM t GROUP BY n ORDER BY c DESC",
        "SELECT n, count(1) FROM t GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "SELECT a FROM t WHERE b IN (SELECT b FROM u AS x WHERE x.c = t.c)",
        "SELECT q.a FROM t q WHERE q.b IN (SELECT u.b FROM u WHERE u.c = q.c)",
    ),
    ("WITH x AS (SELECT a FROM t) SELECT * FROM x", "WITH y AS (SELECT t.a FROM t) SELECT * FROM y AS z;"),
    ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (2, 1, 2)"),
    ("SELECT a FROM t LEFT JOIN u ON t.i = u.i", "SELECT a FROM t AS p LEFT OUTER JOIN u ON u.i = p.i"),
]
DIFFERENT = [
    ("SELECT a, b FROM t", "SELECT b, a FROM t"),
    ("SELECT a FROM t WHERE b > 1", "SELECT a FROM t WHERE b < 1"),
    ("SELECT a FROM t WHERE b > 1", "SELECT a FROM t WHERE b >= 1"),
    ("SELECT a FROM t LEFT JOIN u ON t.i = u.i", "SELECT a FROM t JOIN u ON t.i = u.i"),
    ("SELECT a - b FROM t", "SELECT b - a FROM t"),
    ("SELECT 1 - (2 - 3)", "SELECT 1 - 2 - 3"),
    ("SELECT x.a FROM t x JOIN t y ON x.i = y.j", "SELECT y.a FROM t x JOIN t y ON x.i = y.j"),
    ("SELECT a FROM t WHERE b = 1 AND c = 2 OR d = 3", "SELECT a FROM t WHERE b = 1 AND (c = 2 OR d = 3)"),
    ("SELECT DISTINCT a FROM t", "SELECT a FROM t"),
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT a FROM t ORDER BY a NULLS FIRST", "SELECT a FROM t ORDER BY a NULLS LAST"),
    ("SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 2"),
    ("SELECT a FROM t UNION SELECT b FROM u", "SELECT a FROM t UNION ALL SELECT b FROM u"),
    ("SELECT a FROM t EXCEPT SELECT b FROM u", "SELECT b FROM u EXCEPT SELECT a FROM t"),
    ("SELECT count(a) FROM t", "SELECT count(*) FROM t"),
    ("SELECT count(a) FROM t", "SELECT count(DISTINCT a) FROM t"),
    ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'X'"),
    ("SELECT a FROM t WHERE b = '1'", "SELECT a FROM t WHERE b = 1"),
    (
        "SELECT a FROM t WHERE b IN (SELECT b FROM u WHERE u.c = t.c)",
        "SELECT a FROM t WHERE b IN (SELECT b FROM u WHERE u.c = u.c)",
    ),
    ("SELECT a FROM s.t", "SELECT a FROM t"),
    ("SELECT CAST(a AS INT) FROM t", "SELECT CAST(a AS TEXT) FROM t"),
    ("SELECT max(a) OVER (PARTITION BY b) FROM t", "SELECT max(a) OVER (PARTITION BY c) FROM t"),
    ("SELECT a FROM t WHERE NOT b IN (1)", "SELECT a FROM t WHERE b IN (1)"),
]


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_said_otherwise_has_one_form(one: str, other: str, dialect: str) -> None:
    assert canonical_sql(one, dialect) == canonical_sql(other, dialect)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_meaning_has_another_form(one: str, other: str, dialect: str) -> None:
    assert canonical_sql(one, dialect) != canonical_sql(other, dialect)


def test_quoted_names_keep_their_case_in_postgres_alone() -> None:
    one, other = 'SELECT "Name" FROM t', "SELECT name FROM t"
    assert canonical_sql(one, "sqlite") == canonical_sql(other, "sqlite")
    assert canonical_sql(one, "postgres") != canonical_sql(other, "postgres")


@pytest.mark.parametrize("sql", ["", "SELECT FROM", "DELETE FROM t", "SELECT 1; SELECT 2", "it depends", "(" * 3_000])
def test_what_is_no_query_is_a_value_error(sql: str) -> None:
    with pytest.raises(ValueError):
        canonical_sql(sql)


_COLUMN = st.sampled_from(["id", "name", "city", "credit"])
_VALUE = st.sampled_from(["1", "2", "10.5", "'Bern'", "'Ada'", "NULL"])
_CONDITION = st.recursive(
    st.builds("{} {} {}".format, _COLUMN, st.sampled_from(["=", "<>", "<", ">", "<=", ">=", "IS"]), _VALUE)
    | st.builds("{} IN ({}, {})".format, _COLUMN, _VALUE, _VALUE)
    | st.builds("{} BETWEEN {} AND {}".format, _COLUMN, _VALUE, _VALUE),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["AND", "OR"]), inner)
        | st.builds("NOT ({})".format, inner)
    ),
    max_leaves=3,
)
_QUERY = st.builds(
    "SELECT {}{}, {} FROM customer WHERE {} {}".format,
    st.sampled_from(["", "DISTINCT "]),
    _COLUMN,
    _COLUMN,
    _CONDITION,
    st.sampled_from(["", "ORDER BY id", "ORDER BY 1 DESC, 2", "GROUP BY city", "LIMIT 2"]),
)


def _rewritten(sql: str, rng: random.Random) -> str:
    """Other words for the same: an alias, qualified columns, blanks, case."""
    for column in ("id", "name", "city", "credit"):
        sql = sql.replace(column, f"c.{column.upper()}" if rng.random() < 0.5 else column)
    return sql.replace("FROM customer", "from Customer as c").replace(" ", rng.choice([" ", "  ", "\n"]))


@settings(max_examples=80, deadline=None)
@given(_QUERY, _QUERY, st.randoms(use_true_random=False))
def test_one_form_means_one_result(one: str, other: str, rng: random.Random) -> None:
    again = _rewritten(one, rng)
    assert canonical_sql(again) == canonical_sql(one)
    if canonical_sql(one) == canonical_sql(other):
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(SHOP)
            first, second = (connection.execute(sql).fetchall() for sql in (one, other))
        assert same_rows(first, second, ordered=False)


def test_the_name_of_a_file_is_no_query(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        canonical_sql(str(tmp_path))
