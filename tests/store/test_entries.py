from __future__ import annotations

import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, func, select

from tests.store.rows import content, entry
from tiercel.errors import StorageError
from tiercel.store.database import Database, open_database
from tiercel.store.entries import Content, Entry, append, find, new_id
from tiercel.store.tables import contents, entries


def _numbers(database: Database) -> tuple[int, int]:
    """Rows of entries and of contents."""
    with database.reading() as connection:
        count = [connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (entries, contents)]
    return count[0], count[1]


def test_ids_are_32_hexadecimal_digits_sort_by_time_and_do_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000_123_456_789
    ids = list[str]()
    for step in range(2_000):
        # A thousandth of a millisecond apart: the fraction has to count, not the millisecond alone.
        monkeypatch.setattr(time, "time_ns", lambda at=now + step * 1_000: at)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {(len(i), i[12], i[16] in "89ab") for i in ids} == {(32, "7", True)}
    assert int(ids[0][:12], 16) == now // 1_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert len({new_id() for _ in range(1_000)}) == 1_000


def test_ids_are_drawn_by_the_system_many_at_a_time_and_no_draw_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = os.urandom, list[bytes]()

    def urandom(size: int) -> bytes:
        drawn.append(real(size))
        return drawn[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    with ThreadPoolExecutor(4) as pool:
        ids = [id_ for some in pool.map(lambda _: [new_id() for _ in range(1_000)], range(8)) for id_ in some]
    chance = [int(id_[16:], 16) & 0x3FFF_FFFF_FFFF_FFFF for id_ in ids]
    assert len(set(chance)) == 8_000
    assert 8 <= len(drawn) <= 40
    numbers = {n & 0x3FFF_FFFF_FFFF_FFFF for data in drawn for (n,) in struct.iter_unpack("Q", data)}
    assert len(set(chance) - numbers) < 512  # those that were drawn before


def test_every_field_comes_back_as_it_was_written(database: Database) -> None:
    full = Entry(
        id=new_id(),
        created=1_700_000_000.125,
        api="messages",
        workload="tickets",
        key="key-1",
        user="0f" * 16,
        tier="student",
        bundle="tickets@3",
        provider="openai",
        model="gpt-4o-mini",
        status=200,
        reason="accepted",
        confidence=0.875,
        stream=True,
        latency_s=0.5,
        first_byte_s=0.25,
        input_tokens=2**31 - 1,
        cached_input_tokens=7,
        output_tokens=8,
        reasoning_tokens=9,
        counted_by="tokenizer",
        compute_s=0.0625,
        cost_usd=0.0,
        frontier_cost_usd=0.03125,
        content=Content(request=b"\x00\xff{}", response=b""),
    )
    bare = Entry(id=new_id(), created=1.0, api="chat", tier="none", status=503)
    assert append(database, [full, bare]) == 2
    assert find(database, full.id) == full
    assert find(database, bare.id) == bare
    assert find(database, new_id()) is None


def test_batches_of_any_size_come_back_whole_and_in_order(database: Database) -> None:
    batch = [entry(content=content(f"{number} " * (number % 7))) for number in range(173)]
    assert append(database, batch[20:81]) == 61
    assert append(database, batch[:1]) == 1
    assert append(database, batch) == 111
    assert _numbers(database) == (173, 173)
    assert [find(database, written.id) for written in batch] == batch


def test_an_entry_does_not_show_what_people_wrote() -> None:
    shown = repr(entry(content=content("my name is Ada", "hello Ada")))
    assert "Ada" not in shown
    assert "gpt-4o" in shown


def test_a_batch_that_is_written_again_changes_nothing(database: Database) -> None:
    first, second = entry(), entry()
    assert append(database, [first]) == 1
    changed = msgspec.structs.replace(first, cost_usd=9.0, content=content("other"))
    assert append(database, [changed, second]) == 1
    assert find(database, first.id) == first
    assert _numbers(database) == (2, 2)
    assert append(database, []) == 0


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"model": "a\0b\ud800c"}, {"model": "a\ufffdb?c"}),
        ({"cost_usd": math.nan, "confidence": math.inf}, {"cost_usd": None, "confidence": None}),
        ({"compute_s": -math.inf}, {"compute_s": 0.0}),
        ({"input_tokens": 10**30, "output_tokens": -(10**30)}, {"input_tokens": 2**31 - 1, "output_tokens": -(2**31)}),
        ({"workload": "Übersetzung 翻訳"}, {"workload": "Übersetzung 翻訳"}),
    ],
)
def test_one_strange_entry_does_not_take_its_batch_with_it(
    database: Database, fields: dict[str, Any], stored: dict[str, Any]
) -> None:
    strange, plain = entry(**fields), entry()
    assert append(database, [strange, plain]) == 2
    assert find(database, strange.id) == msgspec.structs.replace(strange, **stored)
    assert find(database, plain.id) == plain


def test_a_batch_that_fails_half_way_leaves_nothing(database: Database) -> None:
    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INTO contents" in statement:
            raise sqlite3.OperationalError("database or disk is full")

    event.listen(database.engine, "before_cursor_execute", fail)
    with pytest.raises(StorageError, match="full"):
        append(database, [entry(), entry()])
    event.remove(database.engine, "before_cursor_execute", fail)
    assert _numbers(database) == (0, 0)


def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_space(sqlite_database: Database) -> None:
    def limit(pages: int) -> Callable[..., None]:
        def connected(connection: Any, *_: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        return connected

    sqlite_database.close()
    little = limit(30)
    event.listen(sqlite_database.engine, "connect", little)
    with pytest.raises(StorageError, match="the disk is full"):
        for _ in range(100):
            append(sqlite_database, [entry() for _ in range(10)])
    event.remove(sqlite_database.engine, "connect", little)
    sqlite_database.close()
    event.listen(sqlite_database.engine, "connect", limit(100_000))
    before = _numbers(sqlite_database)[0]
    assert append(sqlite_database, [entry() for _ in range(100)]) == 100
    assert _numbers(sqlite_database) == (before + 100, before + 100)


_WRITER = """
import sys
from tests.store.rows import entry
from tiercel.store.database import open_database
from tiercel.store.entries import append
database = open_database(sys.argv[1])
while True:
    batch = [entry() for _ in range(50)]
    append(database, batch)
    print(batch[-1].id, flush=True)
"""


def test_a_killed_writer_leaves_whole_batches_and_all_that_it_reported(store_url: str) -> None:
    program = [sys.executable, "-c", _WRITER, store_url]
    root = Path(__file__).parents[2]
    for _ in range(2):
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout is not None
            told = [process.stdout.readline().strip() for _ in range(20)]
            process.send_signal(signal.SIGKILL)
            told += [line.strip() for line in process.stdout.read().splitlines() if len(line.strip()) == 32]
        assert process.returncode == -signal.SIGKILL
        with closing(open_database(store_url)) as database:
            rows, kept = _numbers(database)
            assert rows == kept
            assert rows % 50 == 0
            assert all(find(database, id_) is not None for id_ in told)
            if database.is_sqlite:
                with database.reading() as connection:
                    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
                    assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
