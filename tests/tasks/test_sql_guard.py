from __future__ import annotations

import json
import re
import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.conftest import SHOP
from tiercel.errors import ConfigurationError, MissingExtraError, RefusedQueryError
from tiercel.tasks.sql_functions import FUNCTIONS, GRAMMAR_WORDS
from tiercel.tasks.sql_guard import check_read_only, is_read_only

HOSTILE = [
    (row["dialect"], row["sql"])
    for row in map(
        json.loads,
        (Path(__file__).parents[2] / "benchmarks" / "hostile.jsonl").read_text(encoding="utf-8").splitlines(),
    )
]
BOTH = [
    "SELECT 1",
    "SELECT 1;",
    " ; ".join(["SELECT 1", ""]),
    "SELECT 1 -- DROP TABLE t",
    "/* a */ SELECT /* DELETE FROM t; */ 1",
    "VALUES (1, 'a'), (2, 'b')",
    "(SELECT 1)",
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT * FROM c",
    "WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x",
    "SELECT a, count(*) FILTER (WHERE b > 1) OVER (PARTITION BY a ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
    "SELECT row_number() OVER w FROM t WINDOW w AS (ORDER BY a)",
    "SELECT * FROM t LEFT JOIN u USING (a) CROSS JOIN v NATURAL JOIN w",
    "SELECT * FROM (SELECT 1) AS x UNION SELECT 2 EXCEPT SELECT 3 ORDER BY 1 LIMIT 3 OFFSET 1",
    'SELECT \'DELETE FROM t; DROP TABLE t\' AS "drop table", "delete" FROM "update"',
    "SELECT replace(a, 'x', 'y'), lower(a), CAST(a AS VARCHAR(10)), CURRENT_TIMESTAMP FROM t",
    "SELECT CASE a WHEN 1 THEN 'it''s' ELSE 'b' END FROM t WHERE a NOT IN (1, 2) AND b LIKE 'x%' ESCAPE '!'",
    "SELECT min(a) FROM t GROUP BY b HAVING count(*) > 1 ORDER BY sum(c) DESC NULLS LAST",
    "SELECT naïve FROM tablé WHERE EXISTS (SELECT 1 FROM u WHERE u.a = tablé.a)",
]
HARMLESS = [(dialect, sql) for dialect in ("sqlite", "postgres") for sql in BOTH]
HARMLESS += [
    ("sqlite", sql)
    for sql in [
        "SELECT [a b], `c` FROM [my table] AS `m`",
        "SELECT strftime('%Y', d), date('now', '-1 day'), group_concat(DISTINCT a), total(a), iif(a, 1, 2) FROM t",
        "SELECT json_extract(a, '$.x'), a ->> 'x', a -> '$.y' FROM t",
        "SELECT x.value FROM t, json_each(t.a) AS x",
        "SELECT x'00ff', 0x1F, 1e5, .5, 'back\\slash', \"double\" FROM t WHERE (a, b) = (1, 2)",
        "SELECT a FROM t WHERE a COLLATE NOCASE = 'x' OR a GLOB 'x*' OR a ISNULL OR b NOTNULL LIMIT 2, 3",
        "SELECT sql FROM sqlite_master",
    ]
]
HARMLESS += [
    ("postgres", sql)
    for sql in [
        "SELECT DISTINCT ON (a) a::int, b::numeric(10, 2), '2020-01-01'::date, now() - interval '3 months' FROM t",
        "SELECT date_trunc('month', d), extract(year from d), to_char(d, 'YYYY'), d AT TIME ZONE 'UTC' FROM t",
        "SELECT string_agg(a, ',' ORDER BY a), percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t GROUP BY ROLLUP (a)",
        "SELECT g.i, g FROM generate_series(1, 3) AS g(i)",
        "SELECT x.value FROM jsonb_each('{}') AS x",
        "SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.a = t.a LIMIT 1) AS s",
        "SELECT a ->> 'x', a #>> '{x,y}', a @> '{}'::jsonb, a ? 'x', b ~ 'x', b ILIKE 'x%' FROM t",
        "SELECT a = ANY (ARRAY[1, 2]), a[1], a[1:2], pg_catalog.lower('X') FROM s.t",
        "SELECT E'it\\'s', $$dollar 'quote'; --$$, $q$x$q$, 'it''s'",
        'SELECT "user".name FROM "user"',
        "SELECT a /* a /* nested */ ; comment */ FROM t",
    ]
]


@pytest.mark.parametrize(("dialect", "sql"), HOSTILE)
def test_what_does_more_than_read_is_refused(dialect: str, sql: str) -> None:
    with pytest.raises(RefusedQueryError, match=r"let through|does not parse"):
        check_read_only(sql, dialect)


@pytest.mark.parametrize(("dialect", "sql"), HARMLESS)
def test_what_reads_passes(dialect: str, sql: str) -> None:
    check_read_only(sql, dialect)


def test_functions_can_be_added_and_stay_refused_elsewhere() -> None:
    sql = "SELECT haversine(a, b) FROM t"
    check_read_only(sql, functions=["Haversine"])
    assert not is_read_only(sql)
    assert not is_read_only("SELECT haversine(a, readfile(b)) FROM t", functions=["haversine"])


def test_no_allowed_name_reads_files_loads_code_sleeps_or_changes_settings() -> None:
    bad = re.compile(
        r"(pg|lo|dblink|fts\d?|txid|inet_server|query_to|table_to|database_to|binary_upgrade)_.*|.*file|nextval"
    )
    for dialect, names in FUNCTIONS.items():
        assert [n for n in names | GRAMMAR_WORDS if bad.fullmatch(n)] == [], dialect
        assert names.isdisjoint(
            {"edit", "load_extension", "setval", "set_config", "setseed", "currval", "xpath", "dblink"}
        )


def test_long_deep_and_foreign_text_is_refused_and_no_crash() -> None:
    for sql in (
        "SELECT " + "1," * 60_000 + "1",
        "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
        "SELECT " + "NOT " * 20_000 + "1",
    ):
        assert not is_read_only(sql)
    with pytest.raises(ConfigurationError, match="sqlite, postgres"):
        check_read_only("SELECT 1", "oracle")


def test_without_sqlglot_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(MissingExtraError, match=r"tiercel\[sql\]"):
        check_read_only("SELECT 1")


_PIECES = re.compile(r"\s+|\w+|'[^']*'|\"[^\"]*\"|--|/\*|\*/|.", re.DOTALL)
_STATEMENTS = [sql for dialect, sql in HOSTILE + HARMLESS if dialect == "sqlite"] + [
    "DELETE FROM orders",
    "UPDATE customer SET city = 'x'",
    "DROP TABLE t",
    "CREATE TABLE z AS SELECT * FROM orders",
    "INSERT INTO customer SELECT id + 10, name, city, credit FROM customer",
    "PRAGMA user_version = 3",
]


@st.composite
def _mutations(draw: st.DrawFn) -> str:
    """Two statements cut and spliced, with pieces dropped, doubled and swapped."""
    first, second = (_PIECES.findall(draw(st.sampled_from(_STATEMENTS))) for _ in range(2))
    at, until = draw(st.integers(0, len(first))), draw(st.integers(0, len(second)))
    glue = draw(
        st.sampled_from(["", " ", ";", "; ", "--", "\n", "/*", "*/", "'", '"', "[", "(", ") ", " UNION ", " AS "])
    )
    pieces = [*first[:at], glue, *second[until:], *draw(st.sampled_from([[], first[at:]]))]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(pieces) - 1)))
        change = draw(st.sampled_from(["drop", "double", "swap"]))
        if change == "drop":
            del pieces[place : place + 1]
        elif change == "double":
            pieces[place:place] = pieces[place : place + 1]
        else:
            pieces[place : place + 2] = pieces[place : place + 2][::-1]
    return "".join(pieces)


@cache
def _shop_bytes() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SHOP)
        return connection.serialize()


@settings(max_examples=250, deadline=None)
@given(_mutations())
def test_nothing_that_passes_changes_a_database_that_could_be_written(sql: str) -> None:
    if not is_read_only(sql):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.sqlite"
        before = _shop_bytes()
        path.write_bytes(before)
        with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.Error):
            connection.set_progress_handler(lambda: 1, 200_000)
            connection.executescript(sql)
        assert path.read_bytes() == before
        assert [p.name for p in Path(folder).iterdir()] == ["shop.sqlite"]


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(["sqlite", "postgres"]),
)
def test_a_literal_hides_nothing(text: str, dialect: str) -> None:
    literal = "'" + text.replace("'", "''") + "'"
    check_read_only(f"SELECT {literal} AS x FROM t WHERE a = {literal}", dialect)
    name = '"' + text.replace('"', '""') + 'x"'
    check_read_only(f"SELECT {name} FROM t", dialect)
    assert not is_read_only(f"SELECT {literal}; DELETE FROM t", dialect)
    assert not is_read_only(f"SELECT {literal}, load_extension({literal})", dialect)
