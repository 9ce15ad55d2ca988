from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from tiercel.students.micro_recombination import Recombination
from tiercel.tasks.sql_placeholders import PLACEHOLDER, Placeholders
from tiercel.tasks.sql_schema import Schema
from tiercel.tasks.sql_values import ColumnValues

SCHEMA = Schema(tables={"state": ("state", "size"), "town": ("town", "state", "people"), "river": ("river", "state")})
STATES = ("colorado", "ohio", "utah", "iowa")
VALUES = ColumnValues(
    columns={"state": STATES, "town": ("provo", "utah"), "river": ("colorado", "ohio", "red")},
    kinds={"state": "state", "town": "town", "river": "river"},
)
PLACEHOLDERS = Placeholders(VALUES)
ROWS = [
    ("what is the largest state", "SELECT state FROM state WHERE size = (SELECT MAX(size) FROM state)"),
    ("what is the smallest state", "SELECT state FROM state WHERE size = (SELECT MIN(size) FROM state)"),
    ("how large is the largest state", "SELECT size FROM state WHERE size = (SELECT MAX(size) FROM state)"),
    ("how large is the smallest state", "SELECT size FROM state WHERE size = (SELECT MIN(size) FROM state)"),
    ("which states have rivers", "SELECT state FROM river"),
    *(
        PLACEHOLDERS.hide_row(*row)
        for row in (
            ("which states does the colorado cross", "SELECT state FROM river WHERE river = 'colorado'"),
            ("what towns are in utah", "SELECT town FROM town WHERE state = 'utah'"),
            ("how many people live in iowa", "SELECT SUM(people) FROM town WHERE state = 'iowa'"),
            ("what rivers of utah cross ohio", "SELECT r FROM x WHERE state = 'utah' AND state = 'ohio'"),
        )
    ),
]


@pytest.fixture(scope="module")
def made() -> list[tuple[str, str]]:
    recombination = Recombination(ROWS, PLACEHOLDERS, SCHEMA, share=0.6)
    return [row for seed in range(60) for row in recombination(ROWS, seed)]


def test_a_query_takes_the_place_of_a_value_of_its_kind(made: list[tuple[str, str]]) -> None:
    assert (
        "what towns are in the largest state",
        "SELECT town FROM town WHERE state = (SELECT state FROM state WHERE size = (SELECT MAX(size) FROM state))",
    ) in made
    inner = "SELECT state FROM river WHERE river = 'xa'"
    assert {
        (f"how many people live in the states that the {kinds} xa cross", query)
        for query in [f"SELECT SUM(people) FROM town WHERE state IN ({inner})"]
        for kinds in ("river", "river/state")
    } <= set(made)


def test_what_is_learnt_of_one_row_goes_into_another() -> None:
    rows = [row for row in ROWS if row[0] != "how large is the smallest state"]
    rows += [("name the largest state", ROWS[0][1]), ("name the smallest state", ROWS[1][1])]
    recombination = Recombination(rows, PLACEHOLDERS, SCHEMA, share=0.6)
    made = [row for seed in range(20) for row in recombination(rows, seed)]
    assert ROWS[3] in made


def test_a_placeholder_is_read_with_kinds_of_other_values(made: list[tuple[str, str]]) -> None:
    seen = {p[1] for request, query in made if query.endswith("river WHERE river = 'xa'") for p in _places(request)}
    assert seen == {"river", "river/state"}


def test_all_that_is_made_fits_the_schema(made: list[tuple[str, str]]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for table, columns in SCHEMA.tables.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        for request, query in set(made) - set(ROWS):
            if "FROM x" in query:
                assert [p[2] for p in _places(request)] == ["xa", "xb"], "only its kinds were changed"
                continue
            connection.execute(f"EXPLAIN {query}")
            named = {p[2] for p in _places(request)}
            assert named >= {name for name in ("xa", "xb", "xc") if f"'{name}'" in query}


def test_a_row_that_stays_is_the_same_object_and_a_seed_repeats_itself() -> None:
    recombination = Recombination(ROWS, PLACEHOLDERS, SCHEMA, share=0.0)
    assert recombination(ROWS, 3) == recombination(ROWS, 3)
    without = [row for row in ROWS if not _places(row[0])]
    assert all(a is b for a, b in zip(recombination(without, 1), without, strict=True))
    recombination = Recombination(ROWS, PLACEHOLDERS, SCHEMA, share=0.6)
    assert recombination(ROWS, 3) == recombination(ROWS, 3) != recombination(ROWS, 4)


def _places(request: str) -> list[re.Match[str]]:
    return list(PLACEHOLDER.finditer(request))
