"""A store that is full, locked, read-only or gone: requests are answered, and what is lost is counted and said once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from sqlalchemy import event

from tests.gateway.conftest import ANSWER, UNSURE, Frontier, Loop, Running, body, get, send, serving
from tests.gateway.launching import config, launched, until
from tiercel.gateway import limiter
from tiercel.gateway.sections import Capture, Settings
from tiercel.store import database as database_module
from tiercel.store.keys import create_key
from tiercel.store.limits import spent

Configured = Callable[..., Settings]


def ask(gateway: Running, times: int, text: str = UNSURE) -> None:
    for _ in range(times):
        assert send(gateway.url, body(text))[0] == 200


def errors(logged: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in logged.records if r.name == "tiercel.gateway" and r.levelname == "ERROR"]


def stored(path: Path) -> int:
    with closing(sqlite3.connect(path)) as store:
        return store.execute("SELECT count(*) FROM entries").fetchone()[0]


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory."""
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", options, "tiercel", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
    except FileNotFoundError:
        pytest.skip("there is no program to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_queue(configured: Configured, frontier: Frontier, tmp_path: Path) -> Callable[[Path], Settings]:
    """Settings of a gateway whose queue takes 5 entries."""

    def settings(store: Path) -> Settings:
        return configured(frontier.provider(), bundle=False, capture=Capture(store=str(store), queue=5))

    return settings


def test_a_full_store_costs_no_request_and_one_line_a_cause(
    loop: Loop, small_queue: Callable[[Path], Settings], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    pages = [0]
    with serving(loop, small_queue(tmp_path / "store.db")) as gateway:

        def limit(connection: sqlite3.Connection, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages[0]}")

        event.listen(gateway.database.engine, "connect", limit)
        pages[0] = 1  # as if the disk had no more room than the file takes
        gateway.database.engine.dispose()
        large = "word " * 5_000
        ask(gateway, 1, large)
        until(lambda: errors(logged))
        ask(gateway, 30, large)
        assert errors(logged) == [
            f"traces can't be stored now and wait: the store {tmp_path}/store.db can't grow: the disk is full; "
            "free some space",
            "the queue of traces is full; further ones are dropped and counted until it has room",
        ]
        dropped = gateway.worker.recorder.dropped
        assert 20 <= dropped <= 25
        status, state = get(gateway.url.removesuffix("/v1") + "/readyz")
        assert (status, state["capture"]["dropped"]) == (200, dropped)
        page = get(gateway.url.removesuffix("/v1") + "/metrics", raw=True)[1].decode()
        assert f"tiercel_capture_dropped_total {dropped:.1f}" in page
        pages[0] = 1_000_000
        gateway.database.engine.dispose()
        until(lambda: gateway.worker.recorder.written == 31 - dropped)
        assert f"traces are stored again; {dropped} were dropped meanwhile" in logged.text
    assert stored(tmp_path / "store.db") == 31 - dropped


def test_a_disk_that_is_really_full(tmp_path: Path, frontier: Frontier) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        text = config(f'[capture]\nstore = "{disk}/store.db"\nqueue = 20\n', frontier=frontier.url)
        with launched(tmp_path / "gateway", text) as gateway:
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(b"\0" * 512)
            for i in range(60):
                assert send(gateway.url, body(f"{UNSURE} {i}"))[0] == 200
            gateway.logged("traces can't be stored now and wait")
            gateway.logged("the queue of traces is full")
            assert gateway.log.count("ERROR") <= 3  # SQLite words a full disk in two ways
            ballast.unlink()
            gateway.logged("traces are stored again")
            dropped = int(gateway.metrics()["tiercel_capture_dropped_total"])
            assert gateway.end() == 0
        assert dropped > 0
        assert stored(disk / "store.db") == 60 - dropped


def test_a_store_that_can_only_be_read(
    loop: Loop,
    small_queue: Callable[[Path], Settings],
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = sqlite3.connect

    def read_only(place: str, **more: Any) -> sqlite3.Connection:
        return real(place.replace("mode=rw", "mode=ro"), **more)

    with serving(loop, small_queue(tmp_path / "store.db")) as gateway:
        ask(gateway, 1)
        until(lambda: gateway.worker.recorder.written == 1)
        with monkeypatch.context() as patch:  # as after a disk's error, when the kernel lets nobody write any more
            patch.setattr(sqlite3, "connect", read_only)
            gateway.database.engine.dispose()
            ask(gateway, 20)
            until(lambda: len(errors(logged)) == 2)
            told = [e for e in errors(logged) if "queue" not in e]
            assert [e.endswith("can't be written; check the rights of the file and of its folder") for e in told] == [
                True
            ]
        gateway.database.engine.dispose()
        until(lambda: gateway.worker.recorder.waiting == 0 and "traces are stored again" in logged.text)


def test_a_store_that_can_not_be_made_is_one_line(tmp_path: Path, frontier: Frontier) -> None:
    with small_disk(tmp_path / "disk", "size=1m,ro") as disk:
        text = config(f'[capture]\nstore = "{disk}/store.db"\n', frontier=frontier.url)
        with launched(tmp_path / "gateway", text, ready=False) as refused:
            assert refused.process.wait(30) == 1
            assert refused.log == f"error: the store {disk}/store.db can't be made: Read-only file system\n"


def test_a_lock_by_another_program_delays_entries_alone(
    loop: Loop,
    small_queue: Callable[[Path], Settings],
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.2)
    with (
        serving(loop, small_queue(tmp_path / "store.db")) as gateway,
        closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other,
    ):
        ask(gateway, 1)
        until(lambda: gateway.worker.recorder.written == 1)
        other.execute("BEGIN IMMEDIATE")
        ask(gateway, 4)
        until(lambda: "was locked by another program" in logged.text)
        time.sleep(0.5)
        assert len(errors(logged)) == 1
        other.execute("ROLLBACK")
        until(lambda: gateway.worker.recorder.written == 5)
        assert gateway.worker.recorder.dropped == 0


def test_a_file_that_is_moved_away_is_noticed_and_waited_for(
    loop: Loop, small_queue: Callable[[Path], Settings], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    store, away = tmp_path / "store.db", tmp_path / "away"
    away.mkdir()
    with serving(loop, small_queue(store)) as gateway:
        ask(gateway, 1)
        until(lambda: gateway.worker.recorder.written == 1)
        gateway.database.engine.dispose()  # its log is folded into it, so that the one file is the store
        store.rename(away / "store.db")
        ask(gateway, 3)
        until(lambda: errors(logged))
        assert errors(logged)[0].endswith(
            f"the store {store} is gone; put it back, or restart the program for a new one"
        )
        assert not store.exists()
        (away / "store.db").rename(store)
        until(lambda: gateway.worker.recorder.written == 4)
    assert stored(store) == 4


def test_what_is_deleted_stays_deleted_and_what_is_put_there_is_used(
    loop: Loop, small_queue: Callable[[Path], Settings], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store.db"
    with serving(loop, small_queue(store)) as gateway:
        ask(gateway, 3)
        until(lambda: gateway.worker.recorder.written == 3)
        for file in tmp_path.glob("store.db*"):
            file.unlink()
        ask(gateway, 20)
        until(lambda: gateway.worker.recorder.dropped > 5)
        until(lambda: len(errors(logged)) == 2)
        assert not store.exists()
        database_module.open_database(store).close()  # an empty one, as a restored copy might be
        until(lambda: gateway.worker.recorder.waiting == 0)
    assert 3 <= stored(store) < 20


def test_limits_are_refused_while_nobody_can_check_them(
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "LONGEST_S", 0.3)
    with (
        serving(loop, configured(frontier.provider(), bundle=False)) as gateway,
        closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other,
    ):
        key, secret = create_key(gateway.database, "limited", requests_per_minute=100)
        _, free = create_key(gateway.database, "free")
        gateway.worker.keys.refresh()
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            status, headers, raw = send(gateway.url, body(UNSURE), headers={"authorization": f"Bearer {secret}"})
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(raw)["error"]["code"] == "limits_unavailable"
            assert send(gateway.url, body(UNSURE), headers={"authorization": f"Bearer {free}"})[0] == 200
        assert len(errors(logged)) == 1
        other.execute("ROLLBACK")
        # What was reserved too late for its request is given back.
        until(lambda: spent(gateway.database, [key.scope], time.time())[0].requests == 0)
        assert send(gateway.url, body(UNSURE), headers={"authorization": f"Bearer {secret}"})[0] == 200
        assert "limits are checked again" in logged.text
        assert len(frontier.requests) == 3


def test_a_client_that_leaves_while_its_limit_is_checked_keeps_nothing(
    loop: Loop, configured: Configured, frontier: Frontier, tmp_path: Path
) -> None:
    with (
        serving(loop, configured(frontier.provider(), bundle=False)) as gateway,
        closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other,
    ):
        key, secret = create_key(gateway.database, "limited", requests_per_minute=100)
        gateway.worker.keys.refresh()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(asyncio.TimeoutError):
            send(
                gateway.url,
                body(UNSURE),
                headers={"authorization": f"Bearer {secret}"},
                timeout=aiohttp.ClientTimeout(total=0.3),
            )
        until(lambda: gateway.worker.gateway.in_flight == 0)
        other.execute("ROLLBACK")
        until(lambda: gateway.worker.recorder.written == 1)
        used = until(lambda: ((s := spent(gateway.database, [key.scope], time.time())[0]).requests == 0 and s) or None)
        assert used.reserved_usd == 0
        assert frontier.requests == []


def test_what_a_request_spent_is_settled_once_the_store_is_back(
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.2)
    with (
        serving(loop, configured(frontier.provider(), bundle=False)) as gateway,
        closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)) as other,
    ):
        key, secret = create_key(gateway.database, "limited", tokens_per_minute=10_000)
        gateway.worker.keys.refresh()

        async def lock(_: web.Request) -> web.Response:
            other.execute("BEGIN IMMEDIATE")  # reserved, and not settled yet
            return web.json_response(ANSWER)

        frontier.behave = lock
        assert send(gateway.url, body(UNSURE), headers={"authorization": f"Bearer {secret}"})[0] == 200
        until(lambda: "was locked by another program" in logged.text)
        other.execute("ROLLBACK")
        until(lambda: gateway.worker.recorder.written == 1)
        # The frontier's answer had 2 tokens; about 500 were reserved for it.
        assert spent(gateway.database, [key.scope], time.time())[0].tokens == 2
