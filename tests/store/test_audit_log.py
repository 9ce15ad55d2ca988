"""One chain of rows, whoever appends, on SQLite and on PostgreSQL."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from tests.store.audit_worker import REQUESTS
from tiercel.errors import CertificateError, DataError
from tiercel.routing.audit_verifier import verify_lines
from tiercel.store.audit_log import (
    GENESIS,
    AuditRow,
    NewRow,
    appending,
    audit_key,
    canonical,
    export_log,
    load_snapshots,
    read_rows,
    row_hash,
    save_snapshots,
)
from tiercel.store.audit_tables import audit_log
from tiercel.store.database import Database, open_database

PROCESSES = 3


def new(n: int, **body: object) -> NewRow:
    return NewRow(kind="passed", workload="tickets", epoch=1, trace=None if n % 2 else f"t{n}", body={"n": n, **body})


def fill(database: Database, count: int) -> list[AuditRow]:
    with appending(database) as chain:
        return [chain.add(new(n), created=0.5 - n) for n in range(count)]


def test_rows_come_back_as_they_were_written(database: Database) -> None:
    odd = {"text": "Grüße \0 \ud800 ✓", "small": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3, "none": None}
    with appending(database) as chain:
        assert chain.head == (0, GENESIS) and not chain.missed
        row = chain.add(NewRow(kind="drawn", workload="tickets", epoch=3, trace="ä", body=odd), created=1.25)
    assert list(read_rows(database)) == [row]
    assert row.body == odd and row.hash == row_hash(row) and len(row.hash) == 64


def test_each_row_follows_from_the_one_before(sqlite_database: Database) -> None:
    rows = fill(sqlite_database, 2_300)
    assert [r.sequence for r in rows] == list(range(1, 2_301))
    assert [r.previous for r in rows] == [GENESIS, *(r.hash for r in rows[:-1])]
    assert list(read_rows(sqlite_database)) == rows
    for after in (1, 999, 1_000, 1_001, 2_299, 2_300):
        assert list(read_rows(sqlite_database, after=after)) == rows[after:]


def test_who_appends_sees_what_was_missed(database: Database) -> None:
    rows = fill(database, 5)
    with appending(database, after=3) as chain:
        assert chain.missed == rows[3:] and chain.head == (5, rows[-1].hash)
        chain.add(new(6), created=0.0)
    with appending(database, after=6) as chain:
        assert not chain.missed and chain.head[0] == 6


def test_nothing_is_written_when_the_block_raises(database: Database) -> None:
    fill(database, 2)
    with pytest.raises(RuntimeError), appending(database) as chain:
        chain.add(new(3), created=0.0)
        raise RuntimeError
    assert len(list(read_rows(database))) == 2


@pytest.mark.parametrize(
    "row", [new(1, x=math.nan), new(1, x=object()), NewRow(kind="drawn", workload="a\0b", epoch=1, body={}),
            NewRow(kind="drawn", workload="a", epoch=1, trace="\ud800", body={})],
)  # fmt: skip
def test_what_can_not_be_stored_is_refused(row: NewRow, sqlite_database: Database) -> None:
    with appending(sqlite_database) as chain, pytest.raises(DataError, match="the audit log can't hold"):
        chain.add(row, created=0.0)
    assert not list(read_rows(sqlite_database))


@pytest.mark.parametrize("field", ["created", "kind", "workload", "epoch", "trace", "body", "previous", "hash"])
def test_a_changed_row_is_named(field: str, sqlite_database: Database) -> None:
    fill(sqlite_database, 6)
    value = {"created": 9.0, "epoch": 2, "body": '{"n":77}'}.get(field, "x")
    with sqlite_database.writing() as connection:
        connection.execute(update(audit_log).where(audit_log.c.sequence == 4).values({field: value}))
    with pytest.raises(CertificateError, match="row 4 of the audit log does not follow"):
        list(read_rows(sqlite_database))


def test_a_row_that_is_taken_out_is_seen(sqlite_database: Database) -> None:
    fill(sqlite_database, 6)
    with sqlite_database.writing() as connection:
        connection.execute(delete(audit_log).where(audit_log.c.sequence.in_((3, 6))))
    with pytest.raises(CertificateError, match="row 4 of the audit log"):
        list(read_rows(sqlite_database))
    for after in (3, 6):
        with pytest.raises(CertificateError, match=f"row {after} of the audit log is missing"):
            list(read_rows(sqlite_database, after=after))


def test_the_export_is_the_log_line_by_line(sqlite_database: Database) -> None:
    rows, out = fill(sqlite_database, 3), io.StringIO()
    assert export_log(sqlite_database, out, keys=[{"workload": "tickets", "epoch": 1, "key": "00"}]) == 3
    header, *lines = out.getvalue().splitlines()
    assert json.loads(header) == {"format": 1, "keys": [{"workload": "tickets", "epoch": 1, "key": "00"}]}
    assert [json.loads(line)["hash"] for line in lines] == [r.hash for r in rows]
    assert all(line == canonical(json.loads(line)) for line in lines)


def test_the_key_is_made_once(database: Database, store_url: str) -> None:
    key = audit_key(database)
    other = open_database(store_url)
    assert len(key) == 32 and key == audit_key(database) == audit_key(other)
    other.close()


def test_snapshots_are_kept_as_long_as_the_log_reaches_them(database: Database) -> None:
    assert load_snapshots(database) == (0, GENESIS, {})
    rows = fill(database, 4)
    save_snapshots(database, {"a": b"1", "b": b"2"}, sequence=3)
    assert load_snapshots(database) == (3, rows[2].hash, {"a": b"1", "b": b"2"})
    save_snapshots(database, {"b": b"3"}, sequence=4)
    assert load_snapshots(database) == (4, rows[3].hash, {"b": b"3"})
    save_snapshots(database, {"b": b"3"}, sequence=9)
    assert load_snapshots(database) == (0, GENESIS, {})


def test_several_processes_make_one_chain_and_the_same_monitors(store_url: str, tmp_path: Path) -> None:
    database = open_database(store_url)
    command = [sys.executable, "-m", "tests.store.audit_worker", store_url]
    processes = [
        subprocess.Popen(
            [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for n in range(PROCESSES)
    ]

    def all_say() -> list[str]:
        return [p.stdout.readline().strip() for p in processes if p.stdout is not None]

    def go() -> None:
        for p in processes:
            assert p.stdin is not None
            p.stdin.write("go\n")
            p.stdin.flush()

    try:
        assert all_say() == ["ready"] * PROCESSES
        go()
        assert all_say() == ["done"] * PROCESSES
        go()
        assert len(set(all_say())) == 1
        assert [p.wait(60) for p in processes] == [0] * PROCESSES
    finally:
        for p in processes:
            p.kill()
            p.communicate()
    rows = list(read_rows(database))
    # All of them wrote, and only one of them could open the epoch.
    writers = [row.created for row in rows if row.kind == "drawn"]
    assert set(writers) == {0.0, 1.0, 2.0}
    assert [row.kind for row in rows].count("epoch") == 1
    passed = [row.body for row in rows if row.kind == "passed"]
    requests = sum(b["refused"] + b["undrawn"] for b in passed) + len(writers)
    assert PROCESSES * (REQUESTS - 40) < requests <= PROCESSES * REQUESTS
    out = io.StringIO()
    export_log(database, out)
    assert verify_lines(out.getvalue().splitlines()).rows == len(rows)
    database.close()
