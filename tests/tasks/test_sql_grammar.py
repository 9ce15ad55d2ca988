from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.conftest import SHOP
from tests.tasks.test_sql_guard import HOSTILE
from tiercel.errors import DataError
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.sql_grammar import RESERVED, aliases_in, limit_texts, sql_grammar
from tiercel.tasks.sql_schema import Schema, read_schema

SCHEMA = read_schema(SHOP)
GRAMMAR = Grammar(sql_grammar(SCHEMA))

INSIDE = [
    "SELECT name FROM customer",
    "select NAME, City from CUSTOMER where CREDIT >= 10.5;",
    'SELECT "Name", `city`, [credit] FROM "customer" AS T1 WHERE T1."Name" = "Ada" AND T1.city <> \'it\'\'s\'',
    "SELECT count(*), count(DISTINCT T1.city), avg(credit) AS mean_credit FROM customer T1",
    'SELECT orders."unit price", "orders".[order], o.`unit price` FROM orders, orders AS o',
    "SELECT c.name, o.id FROM customer AS c LEFT OUTER JOIN orders AS o ON c.id = o.customer_id NATURAL JOIN t",
    "SELECT CUSTOMERalias0.NAME FROM CUSTOMER AS CUSTOMERalias0 WHERE CUSTOMERalias0.ID IN ( SELECT customer_id FROM orders ) ;",
    "SELECT city, sum(credit) FROM customer GROUP BY city HAVING sum(credit) > 1 ORDER BY 2 DESC, city LIMIT 3 OFFSET 1",
    "SELECT name FROM customer WHERE credit BETWEEN 1 AND 2 + 3 OR NOT city LIKE '%e%' OR credit IS NOT NULL OR id NOT IN (1, -2)",
    "SELECT CASE WHEN credit > 1 THEN 'rich' WHEN id = 1 THEN \"poor\" ELSE NULL END, CAST(credit AS INTEGER) FROM customer",
    "SELECT name FROM customer UNION ALL SELECT city FROM customer EXCEPT SELECT 'x' INTERSECT SELECT b FROM t ORDER BY 1",
    "SELECT x.total FROM (SELECT sum(credit) AS s FROM customer) AS x".replace("total", "s"),
    "WITH cte1 AS (SELECT id AS i FROM customer), d(a1, b1) AS (SELECT 1, 2) SELECT cte1.i, d.a1 FROM cte1 JOIN d ON cte1.i = d.a1",
    "SELECT rank() OVER (PARTITION BY city ORDER BY credit DESC), sum(credit) OVER () FROM customer",
    "SELECT strftime('%Y', 'now'), round(credit, 1), coalesce(city, 'none'), substr(name, 1, 2) || '!' FROM customer",
    "SELECT a - -1, a - 1, a -1, -a, +a, ~a, a->>'x', a % 2, x'00ff', 1e5, .5, CURRENT_DATE FROM t",
    "SELECT 1 WHERE EXISTS (SELECT * FROM t WHERE t.a = 1) AND (a, b) = (1, 2)",
    "SELECT T1.* FROM customer AS T1 JOIN (orders AS T2 JOIN t) USING (id)",
    "SELECT group_concat(DISTINCT name), group_concat(name, ', '), max(id, 3), min(DISTINCT id) FROM customer",
    "SELECT name AS \"the name\", city AS 'where', id AS number_of FROM customer",
]
OUTSIDE = [
    "",
    "SELECT",
    "SELECT surname FROM customer",
    "SELECT name FROM customers",
    "SELECT name FROM clients",
    "SELECT customer.a FROM customer",
    'SELECT customer."unit price" FROM customer',
    "SELECT T1.surname FROM customer AS T1",
    "SELECT clients.name FROM customer",
    'SELECT "surname" FROM customer',
    "SELECT [surname] FROM customer",
    "SELECT name FROM customer WHERE surname = 'x'",
    'SELECT name FROM customer WHERE "surname" = 1',
    "SELECT name FROM customer ORDER BY surname",
    'SELECT name FROM customer GROUP BY "surname"',
    "SELECT sum(price) FROM orders",
    "SELECT unit price FROM orders",
    "SELECT order FROM orders",
    "SELECT nameFROM customer",
    "SELECT name FROM customerWHERE id = 1",
    "SELECT name FROM customer WHERE id = 1AND id = 2",
    "SELECT a --1 FROM t",
    "SELECT a /* hidden */ FROM t",
    "SELECT name FROM customer; DELETE FROM t",
    "SELECT name FROM customer; SELECT 1",
    "SELECT name FROM customer WHERE name = 'Ada",
    "SELECT load_extension('x')",
    "SELECT readfile('x') FROM t",
    "SELECT abs() FROM t",
    "SELECT abs(1, 2) FROM t",
    "SELECT name INTO x FROM customer",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM pragma_table_info('t')",
    "VALUES (1)",
    "```sql\nSELECT 1\n```",
]


@pytest.mark.parametrize("sql", INSIDE)
def test_queries_over_the_schema_follow_the_grammar(sql: str) -> None:
    assert GRAMMAR.accepts(sql), sql[: GRAMMAR.reached(sql)]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_unknown_names_writes_and_other_texts_do_not(sql: str) -> None:
    assert not GRAMMAR.accepts(sql)


def test_nothing_hostile_follows_the_grammar() -> None:
    assert [sql for dialect, sql in HOSTILE if dialect == "sqlite" and GRAMMAR.accepts(sql)] == []


def test_texts_in_double_quotes_can_be_left_out_and_aliases_added() -> None:
    strict = Grammar(sql_grammar(SCHEMA, quoted_texts=False))
    assert not strict.accepts('SELECT name FROM customer WHERE city = "Bern"')
    assert strict.accepts('SELECT name FROM customer WHERE city = "credit"')
    sql = "SELECT who.name, count(*) AS total FROM customer AS who GROUP BY who.id ORDER BY total"
    assert not GRAMMAR.accepts(sql)
    names = aliases_in([sql, "SELECT CAST(a AS REAL) FROM t AS T1, u AS UALIAS0, v AS s"])
    assert names == ("total", "who")
    assert Grammar(sql_grammar(SCHEMA, aliases=names)).accepts(sql)


def test_names_that_need_quotes_can_be_written_in_quotes_alone() -> None:
    schema = Schema(tables={'we"ird': ("select", "a`b", "c]d", "é"), "group": ("x",)})
    grammar = Grammar(sql_grammar(schema))
    for sql in ('SELECT "we""ird"."select", "a`b", [a`b], `c]d`, "É" FROM [we"ird]', 'SELECT "group".x FROM `group`'):
        assert grammar.accepts(sql.replace("É", "é")), sql[: grammar.reached(sql)]
    for sql in ("SELECT select FROM `group`", "SELECT x FROM group", "SELECT [c]d] FROM `group`"):
        assert not grammar.accepts(sql)
    with pytest.raises(DataError, match="no tables"):
        sql_grammar(Schema(tables={}))
    with pytest.raises(DataError, match="rename"):
        sql_grammar(Schema(tables={"t": ("a\nb",)}))


KEYWORDS = """
    abort action add after all alter always analyze and as asc attach autoincrement before begin between by cascade case
    cast check collate column commit conflict constraint create cross current current_date current_time current_timestamp
    database default deferrable deferred delete desc detach distinct do drop each else end escape except exclude
    exclusive exists explain fail filter first following for foreign from full generated glob group groups having if
    ignore immediate in index indexed initially inner insert instead intersect into is isnull join key last left like
    limit match materialized natural no not nothing notnull null nulls of offset on or order others outer over partition
    plan pragma preceding primary query raise range recursive references regexp reindex release rename replace restrict
    returning right rollback row rows savepoint select set table temp temporary then ties to transaction trigger
    unbounded union unique update using vacuum values view virtual when where window with without within
"""


def test_every_word_that_sqlite_refuses_bare_is_reserved() -> None:
    refused: set[str] = set()
    with closing(sqlite3.connect(":memory:")) as connection:
        for word in KEYWORDS.split():
            source = f'(SELECT 1 AS "{word}")'
            for sql in (f"SELECT {word} FROM {source} ORDER BY {word}", f"SELECT x.{word} FROM {source} AS x"):
                try:
                    connection.execute(sql)
                except sqlite3.OperationalError:
                    refused.add(word)
    assert len(refused) > 50
    assert refused - RESERVED == set()


def test_the_grammar_grows_with_the_schema_and_not_with_its_square() -> None:
    def size(tables: int) -> int:
        return len(
            sql_grammar(Schema(tables={f"table_{i}": tuple(f"c{i}_{j}" for j in range(8)) for i in range(tables)}))
        )

    assert size(80) - size(40) < 2.3 * (size(40) - size(20))


def _sentence(rng: random.Random, budget: int = 150) -> str:
    """A text that the grammar makes: rules chosen by chance, the shortest once the budget is spent."""
    written: list[str] = []
    stack = ["root"]
    while stack:
        symbol = stack.pop()
        if isinstance(symbol, str):
            ways = GRAMMAR.rules[symbol]
            way = min(ways, key=_cost) if budget <= 0 or symbol.startswith("blank") else rng.choice(ways)
            budget -= 1
            stack.extend(reversed(way))
        elif symbol[0]:
            written.append(rng.choice("ab %_é"))
        else:
            low, high = rng.choice(symbol[1])
            written.append(chr(rng.randint(ord(low), ord(high))))
    return "".join(written)


def _costs() -> dict[str, int]:
    costs = dict.fromkeys(GRAMMAR.rules, 10**9)
    while True:
        better = {n: 1 + min(sum(costs.get(s, 1) for s in way) for way in ways) for n, ways in GRAMMAR.rules.items()}
        if better == costs:
            return costs
        costs = better


COSTS = _costs()


def _cost(way: Iterator[object]) -> int:
    return sum(COSTS.get(symbol, 1) if isinstance(symbol, str) else 1 for symbol in way)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_what_the_grammar_makes_is_syntax_of_sqlite_and_reads_only(seed: int) -> None:
    sql = _sentence(random.Random(seed))
    assert GRAMMAR.accepts(sql)
    assert "--" not in re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "x", sql)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SHOP)
        denied: list[int] = []
        allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
        connection.set_authorizer(lambda action, *_: denied.append(action) or 0 if action not in allowed else 0)
        try:
            connection.execute(f"EXPLAIN {sql}")
        except sqlite3.OperationalError as error:
            assert "syntax" not in str(error), sql
            assert "token" not in str(error), sql
        assert denied == []


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=30).filter(lambda t: not re.search(r"[\x00-\x1f\x7f]", t)),
    st.floats(0, 1e9),
    st.integers(0, 10**9),
)
def test_literals_come_back_as_they_were(text: str, real: float, whole: int) -> None:
    quoted, double = "'" + text.replace("'", "''") + "'", '"' + text.replace('"', '""') + '"'
    assert GRAMMAR.accepts(
        f"SELECT name FROM customer WHERE name = {quoted} OR name = {double} OR id IN ({quoted}, {whole})"
    )
    sql = f"SELECT {quoted}, {whole}, {real:.6f}, {real:.3e}"
    assert GRAMMAR.accepts(sql)
    if "\ud800" <= max(text, default="a") <= "\udfff":
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute(sql).fetchone() == (text, whole, float(f"{real:.6f}"), float(f"{real:.3e}"))


def test_a_limited_grammar_knows_no_other_texts() -> None:
    limited = Grammar(limit_texts(sql_grammar(SCHEMA), ("xa", "it's", 'a"\\')))
    for text in ("'xa'", '"xa"', "'%xa%'", "'it''s'", '"it\'s"', "'a\"\\'"):
        assert limited.accepts(f"SELECT name FROM customer WHERE city = {text}"), text
    for text in ("'xb'", '"Bern"', "''", "'xaxa'"):
        assert not limited.accepts(f"SELECT name FROM customer WHERE city = {text}"), text
    assert limited.accepts('SELECT "Name" FROM "customer"')


def test_without_texts_nothing_is_compared_with_one() -> None:
    limited = Grammar(limit_texts(sql_grammar(SCHEMA), ()))
    assert limited.accepts('SELECT "Name" FROM customer WHERE credit > 3')
    assert not limited.accepts("SELECT name FROM customer WHERE city = ''")
