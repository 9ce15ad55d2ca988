from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import exc, text

from tiercel.errors import ConfigurationError, StorageError
from tiercel.store.database import Database, open_database


def _put(database: Database, name: str) -> None:
    with database.writing() as connection:
        connection.execute(text("INSERT INTO salts (name, value) VALUES (:n, :v)"), {"n": name, "v": b"x"})


def _names(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.execute(text("SELECT name FROM salts")).scalars())


def test_what_was_written_is_there_after_reopening(store_url: str) -> None:
    database = open_database(store_url)
    _put(database, "a")
    database.close()
    again = open_database(store_url, migrate=False)
    assert _names(again) == {"a"}
    again.close()


def test_a_writing_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.writing() as connection:
        connection.execute(text("INSERT INTO salts (name, value) VALUES ('a', :v)"), {"v": b"x"})
        raise KeyError
    assert _names(database) == set()


def test_a_reading_block_can_not_write_and_the_next_writer_can(database: Database) -> None:
    with pytest.raises((StorageError, exc.DBAPIError)), database.reading() as connection:
        connection.execute(text("INSERT INTO salts (name, value) VALUES ('a', :v)"), {"v": b"x"})
    _put(database, "b")
    assert _names(database) == {"b"}


def test_a_reading_block_sees_one_state(database: Database) -> None:
    with database.reading() as connection:
        before = connection.execute(text("SELECT count(*) FROM salts")).scalar()
        _put(database, "a")
        assert connection.execute(text("SELECT count(*) FROM salts")).scalar() == before
    assert _names(database) == {"a"}


def test_threads_that_read_and_then_write_lose_no_update(database: Database) -> None:
    """Each takes the lock before it reads (FOR UPDATE where several may write), so no count is lost."""
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    lock = "" if database.is_sqlite else " FOR UPDATE"

    def add() -> None:
        for _ in range(10):
            with database.writing() as connection:
                n = connection.execute(text("SELECT n FROM counter" + lock)).scalar_one()
                connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add) for _ in range(4)]:
            done.result()
    with database.reading() as connection:
        assert connection.execute(text("SELECT n FROM counter")).scalar() == 40


def test_the_write_lock_is_taken_before_the_first_statement(sqlite_database: Database) -> None:
    with sqlite_database.writing(), closing(sqlite3.connect(sqlite_database.path or "", timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM salts").fetchone() == (0,)


def test_a_file_is_made_for_its_owner_alone_with_its_folders(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        database = open_database(tmp_path / "a" / "b" / "store.db")
        _put(database, "a")
        files = sorted((tmp_path / "a" / "b").iterdir())
        assert len(files) == 3
        assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
        database.close()
    finally:
        os.umask(mask)


def test_connections_are_set_up_for_wal_keys_and_deletion(sqlite_database: Database) -> None:
    with sqlite_database.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 15_000,
    }


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "50% off?#@ü&x=1" / "my store.db"
    open_database(path).close()
    assert path.exists()
    open_database(f"sqlite:///{tmp_path}/other.db").close()
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is no file"),
        (":memory:", "is no file"),
        ("sqlite://", "names no file"),
        ("mysql://user:hunter2@host/db", "can't be a mysql database"),
        ("postgresql://user:hunter2@host:port/db", "can't be read"),
        (".", "is a folder"),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words) as told:
        open_database(url)
    assert "hunter2" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_database_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and rather long ones\n" * 100)
    with pytest.raises(ConfigurationError, match="is not an SQLite database"):
        open_database(path)
    assert path.read_text().startswith("these are notes")


def test_another_programs_tables_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entries (title TEXT)")
    with pytest.raises(ConfigurationError, match="another program"):
        open_database(path)
    with closing(sqlite3.connect(path)) as connection:
        assert [r[0] for r in connection.execute("SELECT name FROM sqlite_master")] == ["entries"]


def test_without_migrate_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no store"):
        open_database(tmp_path / "none.db", migrate=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigurationError, match="holds no store"):
        open_database(tmp_path / "empty.db", migrate=False)


def test_a_newer_database_is_refused(store_url: str) -> None:
    database = open_database(store_url)
    with database.writing() as connection:
        connection.execute(text("UPDATE tiercel_version SET version_num = '9999'"))
    database.close()
    for migrate in (True, False):
        with pytest.raises(ConfigurationError, match="newer version"):
            open_database(store_url, migrate=migrate)


def test_a_folder_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be made"):
        open_database(tmp_path / "file" / "store.db")


def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="password authentication failed") as told:
        open_database(postgres_url.replace("open%20sesame", "hunter2"))
    assert "hunter2" not in str(told.value)


def test_a_missing_postgres_database_is_told(postgres_server: str) -> None:
    with pytest.raises(ConfigurationError, match='database "nowhere" does not exist') as told:
        open_database(postgres_server + "nowhere")
    assert "sesame" not in str(told.value)


def test_an_unreachable_server_is_told_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match="can't be reached") as told:
            open_database(f"postgresql://owner:hunter2@127.0.0.1:{port}/db")
    assert "hunter2" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_server_that_goes_away_is_a_storage_error(postgres_url: str, postgres_server: str) -> None:
    import psycopg

    database = open_database(postgres_url)
    with pytest.raises(StorageError, match="failed"), database.writing() as connection:
        name = postgres_url.rpartition("/")[2]
        with psycopg.connect(postgres_server + "postgres", autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute(text("SELECT 1"))
    _put(database, "a")
    assert _names(database) == {"a"}
    database.close()


def test_a_shown_url_and_a_repr_have_no_password(postgres_url: str) -> None:
    with closing(open_database(postgres_url + "?application_name=secret")) as database:
        assert database.url_shown == postgres_url.replace(":open%20sesame", "")
        assert "sesame" not in repr(database) + repr(database.engine)
        assert "secret" not in database.url_shown


def test_an_error_of_a_statement_does_not_show_its_values(database: Database) -> None:
    with pytest.raises((exc.DBAPIError, StorageError)) as told, database.writing() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:v)"), {"v": "what the user wrote"})
    assert "what the user wrote" not in str(told.value)


_OPEN = "import sys; from tiercel.store.database import open_database; open_database(sys.argv[1]).close()"


def test_processes_that_make_the_same_database_at_once_all_succeed(store_url: str) -> None:
    opening = [
        subprocess.Popen([sys.executable, "-c", _OPEN, store_url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = [process.communicate()[1] for process in opening]
    assert [process.returncode for process in opening] == [0, 0, 0], told
    open_database(store_url, migrate=False).close()


def test_threads_that_make_the_same_database_at_once_all_succeed(store_url: str) -> None:
    together = threading.Barrier(4)

    def make() -> None:
        together.wait()
        open_database(store_url).close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(make) for _ in range(4)]:
            done.result()
    open_database(store_url, migrate=False).close()


def test_a_database_that_is_up_to_date_opens_without_alembic(sqlite_database: Database) -> None:
    code = _OPEN + "; print([m for m in sys.modules if m.startswith('alembic')])"
    program = [sys.executable, "-c", code, str(sqlite_database.path)]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip() == "[]"
