from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tiercel.errors import DataError
from tiercel.tasks import sql_values
from tiercel.tasks.sql_schema import schema_of_database
from tiercel.tasks.sql_values import LITERAL, between, column_before, values_in_database, values_in_queries


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    path = tmp_path / "towns.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE town (Name TEXT, State TEXT, size INT, note TEXT);
            CREATE TABLE state (state TEXT, capital TEXT);
            CREATE TABLE river (river TEXT, "flows through" TEXT);
            INSERT INTO state VALUES ('Bern', 'Bern'), ('Vaud', 'Lausanne'), ('Uri', 'Altdorf'), ('Jura', 'Delsberg');
            INSERT INTO town VALUES ('Bern', 'Bern', 140000, NULL), ('Nyon', 'Vaud', 20000, '17'),
                                    ('Lausanne', 'Vaud', 140000, ''), ('Altdorf', 'Uri', 9000, NULL);
            INSERT INTO river VALUES ('Reuss', 'Uri'), ('Aare', 'Bern');
        """)
    return path


def test_values_of_text_columns_are_found_by_column(towns: Path) -> None:
    values = values_in_database(towns, schema_of_database(towns))
    assert values.columns["state"] == ("Bern", "Jura", "Uri", "Vaud")
    assert values.columns["flows through"] == ("Bern", "Uri")
    # Numbers, nothing and texts without letters name nothing.
    assert {"size", "note"}.isdisjoint(values.columns)


def test_columns_that_share_values_are_of_one_kind(towns: Path) -> None:
    kinds = values_in_database(towns, schema_of_database(towns)).kinds
    assert kinds["flows through"] == kinds["state"] == "state"
    assert kinds["capital"] == kinds["name"]
    assert kinds["river"] == "river"
    assert len(set(kinds.values())) == 3


def test_columns_of_too_many_values_or_of_texts_name_nothing(towns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_values, "MOST_VALUES", 3)
    monkeypatch.setattr(sql_values, "LONGEST", 5)
    values = values_in_database(towns, schema_of_database(towns))
    assert "name" not in values.columns  # four names
    assert values.columns["river"] == ("Aare", "Reuss")
    monkeypatch.setattr(sql_values, "LONGEST", 4)
    assert values_in_database(towns, schema_of_database(towns)).columns["river"] == ("Aare",)


def test_reading_values_changes_nothing_in_the_database(towns: Path) -> None:
    before = towns.read_bytes()
    values_in_database(towns, schema_of_database(towns))
    assert towns.read_bytes() == before
    assert [p.name for p in towns.parent.iterdir()] == [towns.name]


def test_a_database_that_is_not_there_is_told(towns: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        values_in_database(towns.with_name("none.sqlite"), schema_of_database(towns))


def test_without_a_database_the_literals_of_queries_are_the_values() -> None:
    values = values_in_queries(
        [
            "SELECT x FROM a WHERE name = 'O''Hara' AND n > 3",
            'SELECT x FROM a WHERE a.State IN ("Bern", "Uri") OR t LIKE \'%lake%\'',
        ]
    )
    assert values.columns == {"name": ("O'Hara",), "state": ("Bern", "Uri"), "t": ("lake",)}


@pytest.mark.parametrize(
    ("query", "column"),
    [
        ("WHERE a.City = 'x'", "city"),
        ("WHERE \"City Name\" <> 'x'", "name"),
        ("WHERE city IN (SELECT c FROM t WHERE b != 'x')", "b"),
        ("WHERE city NOT IN ('a', 3, 'x')", "city"),
        ("WHERE MAX(a) = 'x'", ""),
        ("SELECT 'x'", ""),
    ],
)
def test_a_literal_is_compared_with_the_column_before_it(query: str, column: str) -> None:
    last = list(LITERAL.finditer(query))[-1]
    assert between(last) == "x"
    assert column_before(query, last.start()) == column
