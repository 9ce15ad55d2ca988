from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.conftest import SHOP
from tiercel.errors import DataError
from tiercel.tasks.sql_schema import read_schema, schema_of_database

TABLES = {
    "customer": ("id", "Name", "city", "credit"),
    "orders": ("id", "customer_id", "unit price", "order"),
    "t": ("a", "b"),
}


def test_a_file_and_its_statements_give_one_schema(shop: Path) -> None:
    assert schema_of_database(shop).tables == TABLES
    assert read_schema(SHOP).tables == TABLES


def test_statements_stand_amid_other_text_and_without_semicolons() -> None:
    text = (
        "Answer with SQL. The tables (all of them):\n"
        'CREATE TABLE "a b"\n("x)" INT, -- a column :-)\n y DECIMAL(10, 2) DEFAULT \')\', PRIMARY KEY (y))\n'
        "CREATE TABLE IF NOT EXISTS c (z TEXT CHECK (z IN ('p', 'q')))\nThank you."
    )
    assert read_schema(text).tables == {"a b": ("x)", "y"), "c": ("z",)}
    assert read_schema("CREATE TABLE s.t (a serial, b timestamptz DEFAULT now())", "postgres").tables == {
        "t": ("a", "b")
    }


@pytest.mark.parametrize("text", ["", "no tables here", "CREATE TABLE t (a INT", "CREATE TABLE t (PRIMARY KEY (a))"])
def test_a_text_without_a_whole_table_is_the_users_mistake(text: str) -> None:
    with pytest.raises(DataError, match="CREATE TABLE"):
        read_schema(text)


def test_a_postgresql_database_tells_what_the_role_may_read(postgres: tuple[str, str]) -> None:
    owner, reader = postgres
    tables = {"customer": ("id", "name", "credit"), "t": ("a",)}
    assert schema_of_database(owner).tables == tables
    assert schema_of_database(reader).tables == tables
    nobody = reader.rpartition("/")[0] + "/postgres"
    with pytest.raises(DataError, match="the PostgreSQL database has no tables") as caught:
        schema_of_database(nobody)
    assert "simsim" not in str(caught.value)


def test_views_count_and_what_is_no_database_is_the_users_mistake(tmp_path: Path, shop: Path) -> None:
    import sqlite3

    with sqlite3.connect(shop) as connection:
        connection.execute("CREATE VIEW rich AS SELECT id, credit AS money FROM customer")
    connection.close()
    assert schema_of_database(shop).tables["rich"] == ("id", "money")
    with pytest.raises(DataError, match="not there"):
        schema_of_database(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="no tables"):
        schema_of_database(tmp_path / "empty")
    (tmp_path / "text").write_text("no database " * 500)
    with pytest.raises(DataError, match="can't be read"):
        schema_of_database(tmp_path / "text")
