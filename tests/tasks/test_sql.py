from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tiercel.errors import MissingExtraError
from tiercel.tasks.losses import compare
from tiercel.tasks.sql import extract_sql, sql_loss
from tiercel.types import Answer


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  select 1;\n", "select 1;"),
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("```\nSELECT 1\n```", "SELECT 1"),
        ("```sqlite\nWITH x AS (SELECT 1) SELECT * FROM x\n```", "WITH x AS (SELECT 1) SELECT * FROM x"),
        ("Here it is:\n```SQL\nSELECT 1\n```\nIt selects one.", "SELECT 1"),
        ("-- the answer\nSELECT 1", "-- the answer\nSELECT 1"),
        ("(SELECT 1) UNION (SELECT 2)", "(SELECT 1) UNION (SELECT 2)"),
        ("VALUES (1)", "VALUES (1)"),
        ("```sql\nSELECT 1\n```\nor\n```sql\nSELECT 2\n```", None),
        ("You could SELECT 1", None),
        ("```sql\nDELETE FROM t\n```", None),
        ("selection", None),
        ("", None),
    ],
)
def test_the_query_in_an_answer(text: str, sql: str | None) -> None:
    assert extract_sql(text) == sql


def test_without_a_database_canonical_forms_are_compared() -> None:
    reference = "SELECT T1.name FROM customer AS T1 WHERE T1.city = 'Bern' AND T1.id > 1"
    assert sql_loss("```sql\nselect name from customer where 1 < id and city = 'Bern'\n```", reference).loss == 0
    assert sql_loss("select name from customer where city = 'Basel'", reference).loss == 1
    assert sql_loss("SELECT a::int FROM t", "select t.a::INT from t").loss == 0
    broken = sql_loss("SELECT name FROM WHERE", reference)
    assert (broken.loss, broken.parsed) == (1, False)
    assert sql_loss("SELECT 1", "it depends").loss == 1
    odd = "SELECT a FROM t ORDER BY a USING <"
    assert sql_loss(odd, f"{odd};").loss == 0


def test_with_a_database_results_are_compared(shop: Path) -> None:
    reference = "SELECT name FROM customer WHERE city = 'Bern'"
    other_words = "SELECT name FROM customer WHERE id IN (1, 3)"
    assert sql_loss(other_words, reference).loss == 1
    assert sql_loss(other_words, reference, shop).loss == 0
    failed = sql_loss("SELECT nope FROM customer", reference, shop)
    assert failed.loss == 1
    assert failed.parsed
    assert failed.error == "failed: no such column: nope"
    refused = sql_loss("WITH x AS (SELECT 1) SELECT load_extension('x') FROM x", reference, shop)
    assert (refused.error or "").startswith("refused: ")


def test_a_reference_that_does_not_run_is_compared_by_its_form(shop: Path) -> None:
    same = sql_loss("select nope from customer", "SELECT nope FROM customer", shop)
    assert same.loss == 0
    assert (same.error or "").startswith("reference failed: ")
    assert sql_loss("SELECT name FROM customer", "SELECT nope FROM customer", shop).loss == 1


def test_compare_takes_the_database_and_works_without_sqlglot(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(answer: str, reference: str, database: Path | None = None) -> float:
        return compare("sql", Answer(content=answer), Answer(content=reference), database=database).loss

    one, other = "SELECT name FROM customer WHERE id = 1", "SELECT name FROM customer WHERE 1 = id"
    assert loss(one, other) == 0
    assert loss(one, "SELECT 'Ada'") == 1
    assert loss(one, "SELECT 'Ada'", shop) == 0
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    assert loss(one, other) == 1
    assert loss(one, one.lower()) == 0
    with pytest.raises(MissingExtraError, match="sqlglot"):
        loss(one, other, shop)
