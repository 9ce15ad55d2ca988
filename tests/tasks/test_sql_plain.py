from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tiercel.tasks.sql_canonical import canonical_sql
from tiercel.tasks.sql_plain import plain_sql

PLAIN = [
    (
        'SELECT CITYalias0.NAME FROM CITY AS CITYalias0 WHERE ( CITYalias0.SIZE > 5 ) AND CITYalias0.STATE = "Bern" ;',
        'SELECT name FROM city WHERE size > 5 AND state = "Bern"',
    ),
    (
        "SELECT A0.x FROM a A0 WHERE A0.y = (SELECT MAX(A1.y) FROM a A1 WHERE A1.z = 'Q') AND A0.z = 'Q'",
        "SELECT x FROM a WHERE y = (SELECT MAX(y) FROM a WHERE z = 'Q') AND z = 'Q'",
    ),
    ("SELECT p.x FROM a p JOIN b q ON p.i = q.i", "SELECT a.x FROM a JOIN b ON a.i = b.i"),
    ("SELECT p.x FROM a p JOIN a q ON p.i = q.j", "SELECT t1.x FROM a AS t1 JOIN a AS t2 ON t1.i = t2.j"),
    ("SELECT x FROM a WHERE (b = 1 OR c = 2) AND d = 3", "SELECT x FROM a WHERE (b = 1 OR c = 2) AND d = 3"),
]
LEFT = [
    "SELECT p.x FROM a AS p WHERE EXISTS(SELECT 1 FROM b AS q WHERE q.i = p.i)",
    "SELECT p.x + 1 AS x FROM a AS p ORDER BY p.x",
    "SELECT p.x FROM a AS p UNION SELECT q.y FROM b AS q ORDER BY p.x",
    "SELECT p.x FROM t1 AS p, a AS q, a AS r WHERE q.i = r.i",
    "SELECT p.x FROM a AS p JOIN b AS q USING (i)",
]


@pytest.mark.parametrize(("query", "plain"), PLAIN)
def test_aliases_that_are_not_needed_are_dropped(query: str, plain: str) -> None:
    assert plain_sql(query) == plain
    assert plain_sql(plain) == plain


@pytest.mark.parametrize("query", LEFT)
def test_a_query_that_needs_its_aliases_keeps_them(query: str) -> None:
    assert " AS p" in plain_sql(query)
    assert canonical_sql(plain_sql(query)) == canonical_sql(query)


@pytest.mark.parametrize("text", ["", "no query at all (", "DROP TABLE a", "SELECT 1; SELECT 2"])
def test_what_is_no_query_stays_as_it_is(text: str) -> None:
    assert plain_sql(text) == text


def test_names_that_postgres_tells_apart_keep_their_case() -> None:
    assert plain_sql('SELECT T."Name" FROM Customer T', "postgres") == 'SELECT "Name" FROM customer'


def test_plain_queries_give_the_same_rows(shop: Path) -> None:
    queries = [
        "SELECT C0.Name FROM customer C0 WHERE C0.id IN (SELECT O0.customer_id FROM orders O0 WHERE O0.id > 1)",
        "SELECT X.b, COUNT(*) AS n FROM customer AS Y, t AS X WHERE (X.a = Y.id) AND (Y.\"Name\" <> 'x') GROUP BY X.b",
        "SELECT D.n FROM (SELECT COUNT(*) AS n, C.city FROM customer C GROUP BY C.city) D WHERE D.n > 1",
        "SELECT a.id FROM customer a, customer b WHERE a.city = b.city AND a.id < b.id",
    ]
    with closing(sqlite3.connect(shop)) as connection:
        for query in queries:
            plain = plain_sql(query)
            assert plain != query
            assert connection.execute(plain).fetchall() == connection.execute(query).fetchall() != []
