from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tiercel.students.micro_sql import sql_lesson
from tiercel.tasks.sql_schema import Schema

TOWNS = [f"{a}{b}" for a in ("nor", "wes", "hil", "bro") for b in ("ton", "ford", "ham")]
SCHEMA = Schema(tables={"town": ("name", "size")})


def rows(towns: list[str]) -> list[tuple[str, str]]:
    return [(f"size of {t.title()}", f"SELECT T0.SIZE FROM TOWN AS T0 WHERE T0.NAME = '{t}' ;") for t in towns]


def test_values_of_the_database_are_hidden_though_no_training_row_names_them(tmp_path: Path) -> None:
    path = tmp_path / "towns.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE town (name TEXT, size INT)")
        connection.executemany("INSERT INTO town VALUES (?, 1)", [(town,) for town in TOWNS])
        connection.commit()
    for schema in (SCHEMA, None):
        lesson = sql_lesson(rows(TOWNS[:6]), rows(TOWNS[6:8]), database=path, schema=schema)
        assert set(lesson.rows) == {("size of name xa", "SELECT size FROM town WHERE name = 'xa'")}
        assert lesson.held_out == lesson.rows[:2]
        assert lesson.variation is not None
        assert lesson.placeholders is not None
        assert lesson.placeholders.hide(f"size of {TOWNS[-1]}").text == "size of name xa"


def test_without_a_database_the_literals_of_training_rows_are_known() -> None:
    lesson = sql_lesson(rows(TOWNS[:6]), rows(TOWNS[6:7]))
    assert lesson.rows[0] == ("size of name xa", "SELECT size FROM town WHERE name = 'xa'")
    assert lesson.held_out == [(f"size of {TOWNS[6].title()}", f"SELECT size FROM town WHERE name = '{TOWNS[6]}'")]


def test_where_requests_do_not_name_their_values_nothing_is_hidden() -> None:
    coded = [(f"my town, number {i}", query) for i, (_, query) in enumerate(rows(TOWNS))]
    lesson = sql_lesson(coded, [])
    assert (lesson.placeholders, lesson.variation) == (None, None)
    assert lesson.rows[0] == ("my town, number 0", f"SELECT size FROM town WHERE name = '{TOWNS[0]}'")


def test_queries_without_texts_need_no_placeholders() -> None:
    lesson = sql_lesson([("how many towns", "SELECT COUNT(*) FROM TOWN AS T0")] * 3, [])
    assert lesson.placeholders is None
    assert lesson.rows[0][1] == "SELECT COUNT(*) FROM town"
