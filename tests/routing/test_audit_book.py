"""Several gateways keep one book, and what it exports is verified by a program that shares no code with it."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from tests.routing.audit_streams import MASTER, RULE, opened, traffic
from tiercel.errors import CertificateError, DataError, StorageError
from tiercel.routing import audit_verifier
from tiercel.routing.audit_book import AuditBook
from tiercel.routing.audit_events import AnchorScored, AnchorsFixed, Drawn, Event, Feedback, Passed, Resolved, Taken
from tiercel.routing.audit_verifier import BadRow, canonical, verify_lines
from tiercel.routing.monitor import Outcome
from tiercel.store.audit_log import GENESIS, audit_key, read_rows
from tiercel.store.audit_tables import audit_log
from tiercel.store.database import Database, open_database
from tiercel.store.tables import salts

Row = dict[str, Any]


@pytest.fixture
def database(tmp_path: Path) -> Iterable[Database]:
    """A store in an SQLite file, with a key that is the same in every run."""
    database = _opened(tmp_path)
    yield database
    database.close()


def _opened(folder: Path) -> Database:
    database = open_database(folder / "store.db")
    with database.writing() as connection:
        connection.execute(insert(salts), {"name": "audits", "value": MASTER})
    return database


def flat(stream: Iterable[tuple[Event, ...]]) -> list[Event]:
    return [event for events in stream for event in events]


def written(book: AuditBook, events: list[Event], *, workload: str = "tickets", now: float = 1e9) -> list[Outcome]:
    outcomes = book.record(workload, events, now=now)
    assert all(isinstance(o, Outcome) for o in outcomes), outcomes
    return [o for o in outcomes if isinstance(o, Outcome)]


def exported(book: AuditBook, tmp_path: Path, *, keys: bool = True) -> list[str]:
    book.export(tmp_path / "log.jsonl", show_current_keys=keys)
    return (tmp_path / "log.jsonl").read_text().splitlines()


def eventful(book: AuditBook, database: Database) -> None:
    """Two epochs and all kinds of rows: a broken one with segments, late results, feedback, anchors, failures."""
    master = audit_key(database)
    written(book, [opened(master=master, segments=("de", "en"), restarts=16)])
    written(book, [AnchorsFixed(epoch=1, subject="judge", digest="d", rows=50, error=0.02)])
    stream = flat(traffic(700, 0.5, master=master, segments=("de", "en"), failing=0.05))
    written(book, [e for e in stream if not isinstance(e, Resolved)][:60])
    late = [e for e in stream if isinstance(e, Resolved)]
    drawn = {row.trace for row in read_rows(book._database) if row.kind == "drawn"}
    first = [e for e in late if e.trace in drawn]
    written(book, [Taken(epoch=1, trace=first[-1].trace, by="other", of="")])
    written(book, [Feedback(epoch=1, trace=first[-1].trace, student_loss=1.0)])
    written(book, list(reversed(first)))
    written(
        book,
        [Feedback(epoch=1, trace=first[0].trace, student_loss=1.0), Feedback(epoch=1, trace="no", student_loss=0.5)],
    )
    written(book, [AnchorScored(epoch=1, trace="a1", subject="judge", error=0.0)])
    rest = [e for e in stream if getattr(e, "trace", None) not in drawn and not isinstance(e, Passed)]
    written(book, rest[:-1])
    written(book, [opened(2, master=master, gains=True)])
    written(book, rest[-1:])
    written(book, flat(traffic(200, 0.1, epoch=2, master=master, prefix="second")))


def test_what_is_exported_is_verified(database: Database, tmp_path: Path) -> None:
    book = AuditBook(database)
    eventful(book, database)
    lines = exported(book, tmp_path)
    report = verify_lines(lines)
    kinds = {json.loads(line)["kind"] for line in lines[1:]}
    assert kinds == {"epoch", "passed", "drawn", "resolved", "taken", "feedback", "anchors", "anchor", "verdict"}
    assert (report.rows, report.unshown) == (len(lines) - 1, 0)
    assert report.draws > 100 and report.evalues > 500 and report.verdicts >= 2
    assert report.states == {"tickets": "epoch 2, unknown"}
    assert verify_lines(lines, head=report.head).rows == report.rows
    with pytest.raises(BadRow, match="rows are missing"):
        verify_lines(lines[:-3], head=report.head)


def test_draws_of_a_running_epoch_are_not_shown_unless_asked_for(database: Database, tmp_path: Path) -> None:
    book = AuditBook(database)
    eventful(book, database)
    lines = exported(book, tmp_path, keys=False)
    assert book.key("tickets", 1).hex() in lines[0] and book.key("tickets", 2).hex() not in lines[0]
    assert audit_key(database).hex() not in "".join(lines)
    report = verify_lines(lines)
    assert report.draws > 0 and report.unshown > 0 and "not repeated" in str(report)


def test_the_verifier_runs_as_a_copied_file(database: Database, tmp_path: Path) -> None:
    book = AuditBook(database)
    written(book, [opened(master=audit_key(database)), *flat(traffic(100, 0.1, master=audit_key(database)))])
    lines = exported(book, tmp_path)
    copy = shutil.copy(audit_verifier.__file__, tmp_path / "verify.py")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # Isolated: neither this project nor any package can be imported.
        command = [sys.executable, "-I", "-S", str(copy), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    good = run("log.jsonl")
    assert (good.returncode, good.stderr) == (0, "") and f"{len(lines) - 1} rows hold" in good.stdout
    (tmp_path / "log.jsonl").write_text("\n".join([*lines[:7], lines[7].replace('"t', '"T', 1), *lines[8:]]))
    bad = run("log.jsonl")
    assert bad.returncode == 1 and bad.stderr.startswith("the log does not hold: row 7 (line 8): ")
    assert run("nowhere.jsonl").returncode == 2
    assert run("log.jsonl", "--head", "0").returncode == 1


def _rehashed(lines: list[str], change: Callable[[list[Row]], None]) -> list[str]:
    """The log of a forger who changes rows and makes the chain anew."""
    rows = [json.loads(line) for line in lines[1:]]
    change(rows)
    previous = GENESIS
    for number, row in enumerate(rows, start=1):
        row.pop("hash", None)
        row |= {"sequence": number, "previous": previous}
        row["hash"] = previous = audit_verifier.hashlib.sha256(canonical(row).encode()).hexdigest()
    return [lines[0], *map(canonical, rows)]


def _first(rows: list[Row], kind: str, n: int = 0) -> Row:
    return [row for row in rows if row["kind"] == kind][n]


def _lost(rows: list[Row]) -> Row:
    """The first result that is a loss and moves the processes."""
    return next(
        r for r in rows if r["kind"] == "resolved" and r["body"]["student_loss"] == 1.0 and r["body"]["evalues"]
    )


def _draw_of_lost(rows: list[Row]) -> Row:
    return next(r for r in rows if r["kind"] == "drawn" and r["trace"] == _lost(rows)["trace"])


def _set(kind: str, n: int, **values: Any) -> Callable[[list[Row]], None]:
    return lambda rows: _first(rows, kind, n)["body"].update(values)


def _drop(kind: str, n: int = 0) -> Callable[[list[Row]], None]:
    return lambda rows: rows.remove(_first(rows, kind, n))


FORGERIES: dict[str, tuple[Callable[[list[Row]], None], str]] = {
    "a loss made good": (lambda rows: _lost(rows)["body"].update(student_loss=0.0), "its e-values are"),
    "a draw taken out": (_drop("drawn", 3), "never drawn|e-values|it became"),
    "a result taken out": (_drop("resolved", 3), "e-values|verdict|it became"),
    "zeros put in": (_set("passed", 4, refused=500), "its e-values are"),
    "a propensity raised": (_set("drawn", 2, propensity=0.8), "the rule gives"),
    "a score moved to fit": (lambda rows: _draw_of_lost(rows)["body"].update(propensity=0.2, score=0.9, draw=0.0), "its id gives"),
    "a weight moved to fit": (lambda rows: _draw_of_lost(rows)["body"].update(propensity=0.8, score=0.5), "its e-values are"),
    "a draw moved": (_set("drawn", 2, draw=0.01), "its id gives"),
    "an e-value made up": (_set("resolved", 30, evalues={"": [[0.5, 1]] * 3}), "its e-values are"),
    "a verdict taken out": (_drop("verdict"), "which is not here|is missing"),
    "a verdict softened": (_set("verdict", 0, state="within"), "which is not here"),
    "a verdict made up": (lambda rows: rows.append(dict(_first(rows, "verdict"))), "a verdict that no e-value gives"),
    "a bound moved": (_set("epoch", 0, max_loss=0.2), "its e-values are"),
    "a level moved": (_set("epoch", 0, broken_delta=0.04), "more of the error budget"),
    "a larger budget later": (_set("epoch", 1, budget=0.5), "budget was changed"),
    "another key": (_set("epoch", 0, key_commitment="0" * 64), "not the one that it commits to"),
    "an epoch taken out": (_drop("epoch", 1), "has no epoch 2"),
    "a floor of zero": (_set("epoch", 0, rule={"threshold": 0.5, "width": 0.25, "floor": 0.0, "top": 0.8}), "audit rule"),
    "a loss beyond 1": (_set("resolved", 4, source="judge", student_loss=1.5, frontier_loss=0.0), "outside"),
    "an audit taken from nobody": (_set("taken", 0, of="x"), "not to be taken up"),
    "an unknown kind": (lambda rows: _first(rows, "feedback").update(kind="note"), "not known"),
    "an undrawn request that was drawn": (
        lambda rows: _first(rows, "passed").update(
            body=_first(rows, "passed")["body"] | {"undrawn": 9, "listed": [["t4", 0.5]]}
        ),
        "its draw asks for an audit|e-values",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def log_lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("log")
    database = _opened(folder)
    book = AuditBook(database)
    eventful(book, database)
    lines = exported(book, folder)
    database.close()
    return lines


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_even_where_the_chain_was_made_anew(name: str, log_lines: list[str]) -> None:
    assert verify_lines(_rehashed(log_lines, lambda rows: None)).rows == len(log_lines) - 1
    change, message = FORGERIES[name]
    with pytest.raises(BadRow, match=rf"row \d+.*({message})"):
        verify_lines(_rehashed(log_lines, change))


def test_every_changed_row_is_named(log_lines: list[str]) -> None:
    for number in range(1, len(log_lines), 29):
        row = json.loads(log_lines[number])
        row["created"] += 1.0
        with pytest.raises(BadRow, match=rf"row {number} \(line {number + 1}\): it was changed"):
            verify_lines([*log_lines[:number], canonical(row), *log_lines[number + 1 :]])
        with pytest.raises(BadRow, match=r"taken out, added or moved|ends in"):
            verify_lines([*log_lines[:number], *log_lines[number + 1 :]], head=json.loads(log_lines[-1])["hash"])


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"sequence":1}', '{"format":2,"keys":[]}', "[" * 5_000])
def test_a_file_that_is_no_log_is_named_as_such(line: str, log_lines: list[str]) -> None:
    with pytest.raises(BadRow, match="line 1"):
        verify_lines([line])
    with pytest.raises(BadRow, match="line 2"):
        verify_lines([log_lines[0], line])
    with pytest.raises(BadRow, match="is empty"):
        verify_lines([])


def test_gateways_that_take_turns_have_the_same_monitors(database: Database) -> None:
    books = [AuditBook(database) for _ in range(3)]
    master = audit_key(database)
    written(books[0], [opened(master=master)])
    for i, events in enumerate(traffic(400, 0.2, master=master)):
        for j, event in enumerate(events):
            written(books[(i + j) % 3], [event], now=1e9 - i)
    for book in books:
        book.catch_up()
    states = {book.monitor("tickets").encode() for book in books}
    assert len(states) == 1
    assert AuditBook(database).monitor("tickets").epoch == 0


def test_a_start_from_snapshots_leads_to_the_same_monitors(database: Database) -> None:
    book, master = AuditBook(database), audit_key(database)
    written(book, [opened(master=master)])
    written(book, [opened(workload="mail", master=master)], workload="mail")
    events = flat(traffic(500, 0.2, master=master))
    written(book, events[:99])
    book.save()
    written(book, events[99:])
    fresh = AuditBook(database)
    fresh.catch_up()
    assert fresh.workloads == ("mail", "tickets")
    for name in fresh.workloads:
        assert fresh.monitor(name).encode() == book.monitor(name).encode()


def test_an_event_that_can_not_be_stops_no_other_and_is_not_written(database: Database) -> None:
    book, master = AuditBook(database), audit_key(database)
    written(book, [opened(master=master)])
    stream = flat(traffic(200, 0.1, master=master))
    drawn = next(e for e in stream if isinstance(e, Drawn))
    forged = Drawn(epoch=1, trace="zz", score=drawn.score, propensity=drawn.propensity, draw=0.0)
    unstorable = [
        Passed(epoch=1, refused=0, undrawn=1, listed=(("a", math.inf),)),
        Feedback(epoch=1, trace="a\0b", student_loss=0.0),
        Feedback(epoch=1, trace="\ud800", student_loss=0.0),
    ]
    mixed = [
        *unstorable,
        Resolved(epoch=1, trace="nobody", source="expired"),
        *stream,
        forged,
        drawn,
        opened(2, master=bytes(32)),
    ]
    outcomes = book.record("tickets", mixed, now=0.0)
    refused = [str(o) for o in outcomes if isinstance(o, DataError)]
    assert all("can't hold" in text for text in refused[:3])
    del refused[:3]
    assert len(refused) == 4 and len(outcomes) == len(mixed)
    assert "no audit of nobody" in refused[0] and "not the one that its id gives" in refused[1]
    assert "drawn already" in refused[2] and "commits to another key" in refused[3]
    assert sum(1 for _ in read_rows(database)) == 1 + len(stream)


def test_a_write_that_fails_leaves_the_book_as_the_log_is(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    book, master = AuditBook(database), audit_key(database)
    written(book, [opened(master=master)])
    before = book.monitor("tickets").encode()
    events = flat(traffic(50, 0.1, master=master))

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("tiercel.store.audit_log._stored", full)
        with pytest.raises(StorageError):
            book.record("tickets", events, now=0.0)
    # A store that hiccups sends nothing back to the frontier.
    assert not book.monitor("tickets").sends_back()
    book.catch_up()
    assert book.monitor("tickets").encode() == before
    written(book, events)


def test_a_log_that_was_tampered_with_is_not_taken(database: Database) -> None:
    book, master = AuditBook(database), audit_key(database)
    written(book, [opened(master=master), *flat(traffic(50, 0.1, master=master))])
    with database.writing() as connection:
        connection.execute(update(audit_log).where(audit_log.c.sequence == 5).values(created=1.0))
    with pytest.raises(CertificateError, match="row 5 of the audit log does not follow"):
        AuditBook(database).catch_up()
    with pytest.raises(CertificateError, match="row 5"):
        list(read_rows(database))


def test_audits_that_take_too_long_are_given_up_and_counted(database: Database) -> None:
    book, master = AuditBook(database), audit_key(database)
    written(book, [opened(master=master)], now=0.0)
    stream = [e for e in flat(traffic(100, 0.0, master=master)) if not isinstance(e, Resolved)]
    written(book, stream, now=100.0)
    drawn = sum(isinstance(e, Drawn) for e in stream)
    assert book.overdue(older_than_s=60.0, now=150.0) == {}
    late = book.overdue(older_than_s=60.0, now=161.0)
    assert len(late["tickets"]) == drawn
    written(book, late["tickets"], now=161.0)
    assert book.overdue(older_than_s=60.0, now=161.0) == {}
    counts = book.monitor("tickets").status().counts
    assert (counts.expired, counts.judged) == (drawn, 0)


def test_the_book_decides_as_the_record_is_checked(database: Database) -> None:
    book, master = AuditBook(database), audit_key(database)
    with pytest.raises(DataError, match="has no epoch"):
        book.decide("tickets", "t", 0.9)
    written(book, [opened(master=master)])
    epoch, draw = next(d for d in (book.decide("tickets", f"t{i}", 0.55) for i in range(99)) if d[1].audited)
    assert epoch == 1 and draw.propensity == RULE.propensity(0.55)
    trace = next(f"t{i}" for i in range(99) if book.decide("tickets", f"t{i}", 0.55)[1] == draw)
    written(book, [Drawn(epoch=1, trace=trace, score=0.55, propensity=draw.propensity, draw=draw.draw)])
    assert "secret" not in repr(book) and master.hex() not in repr(book)
    out = io.StringIO()
    out.write(repr(book))
    assert book.key("tickets", 1).hex() not in out.getvalue()
