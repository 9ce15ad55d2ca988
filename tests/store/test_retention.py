from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from tests.store.rows import content, entry
from tiercel.errors import ConfigurationError
from tiercel.store import retention
from tiercel.store.costs import costs
from tiercel.store.database import Database, open_database
from tiercel.store.entries import Content, Entry, append, find, new_id
from tiercel.store.export import export_traces
from tiercel.store.retention import (
    delete_old_contents,
    forget_traces,
    forget_user,
    forgetting,
    traces_of,
    user_hash,
    user_salt,
)
from tiercel.store.tables import contents

DAY = 86_400.0


def _left(database: Database) -> set[str]:
    return {row["id"] for row in export_traces(database)}


def _bytes_of(database: Database) -> bytes:
    path = database.path
    assert path is not None
    files = list(path.parent.glob(path.name + "*"))
    assert len(files) == 3
    return b"".join(file.read_bytes() for file in files)


def test_old_contents_go_and_their_entries_stay(database: Database) -> None:
    old = [entry(created=100 * DAY - i) for i in range(1, 451)]
    new = [entry(created=100 * DAY + i) for i in range(10)]
    append(database, old + new)
    before = costs(database, by=())
    assert delete_old_contents(database, days=30, now=130 * DAY) == 450
    assert _left(database) == {e.id for e in new}
    assert costs(database, by=()) == before
    kept = find(database, old[0].id)
    assert kept is not None
    assert kept.content is None
    assert delete_old_contents(database, days=30, now=130 * DAY) == 0


@pytest.mark.parametrize("days", [-1, float("nan"), float("inf")])
def test_a_wrong_number_of_days_deletes_nothing(sqlite_database: Database, days: float) -> None:
    append(sqlite_database, [entry()])
    with pytest.raises(ConfigurationError, match="days"):
        delete_old_contents(sqlite_database, days=days)
    assert len(_left(sqlite_database)) == 1


def test_a_user_is_forgotten_and_the_sums_stay(database: Database) -> None:
    salt = user_salt(database)
    ada, bob = user_hash("ada", salt), user_hash("bob", salt)
    hers = [entry(user=ada, created=float(i)) for i in range(250)]
    bare = entry(user=ada, created=900.0, content=None)
    his = [entry(user=bob, created=1000.0 + i) for i in range(5)]
    append(database, [*hers, bare, *his])
    before = costs(database, by=("workload",))
    assert traces_of(database, ada) == [e.id for e in (*hers, bare)]
    done = forget_user(database, ada)
    assert done.trace_ids == tuple(e.id for e in (*hers, bare))
    assert done.contents == 250
    assert done.erased is database.is_sqlite
    assert _left(database) == {e.id for e in his}
    assert costs(database, by=("workload",)) == before
    assert {line.group["user"] for line in costs(database, by=("user",))} == {None, bob}
    again = forget_user(database, ada)
    assert (again.trace_ids, again.contents) == ((), 0)


def test_a_user_is_found_by_every_name_and_then_by_none(database: Database) -> None:
    hers = entry(user="ada", further_users=("acct-7", "session-3"))
    also_hers = entry(user="acct-7")
    his = entry(user="bob", further_users=("acct-8",))
    append(database, [hers, also_hers, his])
    assert append(database, [hers]) == 0  # a batch of unknown fate
    assert set(traces_of(database, "acct-7")) == {hers.id, also_hers.id}
    assert traces_of(database, "session-3") == [hers.id]
    assert set(forget_user(database, "acct-7").trace_ids) == {hers.id, also_hers.id}
    assert [traces_of(database, name) for name in ("ada", "acct-7", "session-3")] == [[], [], []]
    assert find(database, his.id) == his


def test_each_deletion_on_request_can_be_seen_by_who_keeps_copies(database: Database) -> None:
    seen = [forgetting(database)]
    append(database, [one := entry()])
    delete_old_contents(database, days=30, now=one.created)
    assert forgetting(database) == seen[0]
    for delete in (
        lambda: forget_user(database, "nobody"),
        lambda: forget_user(database, "nobody"),
        lambda: forget_traces(database, [one.id]),
    ):
        delete()
        seen.append(forgetting(database))
    assert len(set(seen)) == 4
    assert user_salt(database) not in seen


def test_traces_are_forgotten_by_id_and_unknown_ids_are_left_out(database: Database) -> None:
    all_ = [entry(created=float(i)) for i in range(450)]
    append(database, all_)
    gone = [e.id for e in all_[:430]]
    done = forget_traces(database, [*reversed(gone), new_id(), "not an id"])
    assert set(done.trace_ids) == set(gone)
    assert done.contents == 430
    assert _left(database) == {e.id for e in all_[430:]}


def test_a_forgotten_content_does_not_come_back_when_its_batch_is_written_again(sqlite_database: Database) -> None:
    one = entry()
    append(sqlite_database, [one])
    forget_traces(sqlite_database, [one.id])
    assert append(sqlite_database, [one]) == 0
    assert _left(sqlite_database) == set()


def test_deleted_text_is_in_no_file_and_nothing_else_is_harmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows of these sizes, plain deletion leaves four of them in the free space of pages."""
    monkeypatch.setattr(retention, "_PAUSE_S", 0.0)
    monkeypatch.setattr(retention, "_MARGIN", 300)
    rnd = random.Random(1)

    def made(number: int) -> Entry:
        mark = f"<{number:032x}>".encode()
        text = (mark * 30)[: rnd.randint(300, 1_000)]
        sizes = {"request": text, "response": mark * rnd.choice([1, 1, 1, 300])}
        return entry(
            id=f"{number:032x}", created=float(number), user=f"user-{rnd.randint(1, 20)}", content=Content(**sizes)
        )

    with closing(open_database(tmp_path / "store.db")) as database:
        live = {e.id: e for e in map(made, range(6_000))}
        append(database, list(live.values()))
        for turn in range(6):
            forget_traces(database, rnd.sample(sorted(live), len(live) // 4))
            forget_user(database, f"user-{turn}")
            delete_old_contents(database, days=0, now=turn * 400.0)
            left = _left(database)
            live = {i: e for i, e in live.items() if i in left}
        found = {m.decode() for m in re.findall(rb"<([0-9a-f]{32})>", _bytes_of(database))}
        assert found == set(live)
        assert 300 < len(live) < 3_000
        assert all(find(database, i).content == e.content for i, e in live.items())  # pyright: ignore[reportOptionalMemberAccess]
        with database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            rows = connection.execute(select(func.count()).select_from(contents)).scalar_one()
            assert len(live) < rows < 5_500


def test_text_in_the_write_ahead_log_and_in_long_rows_goes_too(sqlite_database: Database) -> None:
    secret = "the patient's name is Ada Lovelace. "
    hers = entry(user="ada", content=content(secret * 3_000, secret))
    append(sqlite_database, [hers, entry(content=content("harmless words"))])
    assert secret.encode() in _bytes_of(sqlite_database)
    assert forget_user(sqlite_database, "ada").erased
    rest = _bytes_of(sqlite_database)
    assert b"Ada Lovelace" not in rest
    assert b"harmless words" in rest


def test_space_of_expired_contents_is_used_again(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "store.db")) as database:
        sizes = list[int]()
        for day in range(6):
            append(database, [entry(created=day * DAY, content=content("x" * 1_000)) for _ in range(2_500)])
            delete_old_contents(database, days=0.5, now=day * DAY)
            sizes.append((tmp_path / "store.db").stat().st_size)
        # Without reuse each day would add three megabytes and more.
        assert sizes[-1] - sizes[2] < 6e6


def test_a_reader_in_the_way_is_told_and_the_next_deletion_clears_the_log(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import event

    # Not the fifteen seconds that a user would wait.
    sqlite_database.close()
    event.listen(sqlite_database.engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout = 50"))
    append(sqlite_database, [entry(content=content("Ada Lovelace")), entry(user="bob")])
    with sqlite_database.reading() as connection:
        connection.execute(select(contents.c.id)).all()
        done = forget_traces(sqlite_database, list(_left(sqlite_database))[:1])
        assert (done.contents, done.erased) == (1, False)
    assert forget_user(sqlite_database, "bob").erased


def test_a_writer_gets_through_while_contents_are_deleted(database: Database) -> None:
    append(database, [entry(created=1.0) for _ in range(3_000)])
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete_old_contents, database, days=1)
        written = 0
        while not deleting.done():
            written += append(database, [entry(created=4e9)])
        assert deleting.result() == 3_000
    assert len(_left(database)) == written > 0


def test_the_salt_is_made_once_and_stays(store_url: str) -> None:
    with closing(open_database(store_url)) as database:
        with ThreadPoolExecutor(4) as pool:
            found = {pool.submit(user_salt, database).result() for _ in range(8)}
            more = {done.result() for done in [pool.submit(user_salt, database) for _ in range(8)]}
        assert len(found | more) == 1
    with closing(open_database(store_url)) as database:
        assert {user_salt(database)} == found
    assert len(found.pop()) == 32


def test_threads_that_make_the_salt_at_once_agree(store_url: str) -> None:
    opened: list[Any] = [open_database(store_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        salts = {done.result() for done in [pool.submit(user_salt, database) for database in opened]}
    for database in opened:
        database.close()
    assert len(salts) == 1


def test_salts_of_two_databases_differ(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "a.db")) as a, closing(open_database(tmp_path / "b.db")) as b:
        assert user_salt(a) != user_salt(b)


@given(st.text(), st.text())
def test_a_users_hash_depends_on_user_and_salt_and_takes_any_text(first: str, second: str) -> None:
    salt, other = b"s" * 32, b"t" * 32
    assert re.fullmatch("[0-9a-f]{32}", user_hash(first, salt))
    assert user_hash(first, salt) != user_hash(first, other)
    assert (user_hash(first, salt) == user_hash(second, salt)) is (first == second)


def test_a_half_surrogate_is_a_user_too() -> None:
    assert user_hash("\ud800", b"s") != user_hash("?", b"s")
