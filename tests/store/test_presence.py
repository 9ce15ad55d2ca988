"""A gateway's presence ends with its process, and with nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tiercel.errors import StorageError
from tiercel.store.database import Database, open_database
from tiercel.store.presence import GRACE_S, Presence

HOLDER = """
import sys
from tiercel.store.database import open_database
from tiercel.store.presence import Presence
presence = Presence(open_database(sys.argv[1]))
print(presence.id, flush=True)
sys.stdin.read()
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "store.db")
    yield database
    database.close()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = open_database(postgres_url)
    yield database
    database.close()


def holder(url: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_on_sqlite_a_killed_process_is_gone_at_once_and_a_stopped_one_is_not(sqlite: Database) -> None:
    process, other = holder(str(sqlite.path))
    presence = Presence(sqlite)
    assert not presence.is_gone(other)
    process.send_signal(signal.SIGSTOP)
    assert not presence.is_gone(other)
    kill(process)
    assert presence.is_gone(other) and presence.is_gone(other)
    presence.close()
    assert [p.name for p in sqlite.path.parent.glob("*gateway*")] == []  # type: ignore[union-attr]


def test_on_postgresql_a_killed_process_is_gone_once_it_had_time_to_notice(
    postgres: Database, postgres_url: str
) -> None:
    process, other = holder(postgres_url)
    clock = Clock()
    presence = Presence(postgres, clock=clock)
    assert not presence.is_gone(other)
    kill(process)
    while not presence.is_gone(other):  # the server notices a moment later
        clock.now += GRACE_S / 4
    assert clock.now >= GRACE_S
    presence.close()


def test_on_postgresql_who_lost_the_connection_knows_it_and_is_gone(postgres: Database) -> None:
    clock = Clock()
    presence, other = Presence(postgres), Presence(postgres, clock=clock)
    assert presence.held() and not other.is_gone(presence.id)
    with postgres.writing() as connection:
        query = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        connection.execute(text(query))
    assert not presence.held() and not presence.held()
    again = Presence(postgres)
    assert again.held() and not again.is_gone(again.id)
    again.close()
    other.close()


def test_two_gateways_of_one_process_see_each_other(sqlite: Database) -> None:
    one, other = Presence(sqlite), Presence(sqlite)
    assert not one.is_gone(other.id) and not other.is_gone(one.id) and not one.is_gone(one.id)
    other.close()
    assert one.is_gone(other.id) and one.held() and not other.held()
    one.close()


def test_of_who_is_not_named_nothing_is_known(sqlite: Database) -> None:
    presence = Presence(sqlite)
    for name in ("", "x", "../../../../etc/", "0123456789abcdeg"):
        assert not presence.is_gone(name)
    presence.close()


def test_what_a_killed_gateway_leaves_is_taken_away_by_the_next_start(sqlite: Database) -> None:
    process, other = holder(str(sqlite.path))
    kill(process)
    left_over = Path(f"{sqlite.path}-gateway-{other}")
    assert left_over.exists()
    presence = Presence(sqlite)
    assert not left_over.exists()
    presence.close()


def test_a_folder_that_can_not_be_written_is_named(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match="check the rights of the store's folder"):
        Presence(sqlite)
