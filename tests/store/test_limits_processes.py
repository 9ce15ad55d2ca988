"""Limits that several processes share: real processes on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.store.limit_worker import BUDGET, ESTIMATE, LARGE, LARGER, NOON, RATE, WIDE
from tiercel.store.database import Database, open_database
from tiercel.store.limits import Exceeded, Reservation, reserve, spent

PROCESSES = 3
SCOPES = [BUDGET, WIDE, RATE, LARGE, LARGER]


def _start(mode: str, url: str, number: int, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.limit_worker", mode, url, str(number), str(times)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _together(mode: str, url: str, times: int) -> list[dict[str, int]]:
    """What each process did, all of them started at once."""
    processes = [_start(mode, url, number, times) for number in range(PROCESSES)]
    try:
        assert [_line(process) for process in processes] == ["ready"] * PROCESSES
        for process in processes:
            _go(process)
        told = [_line(process) for process in processes]
        assert [process.wait(60) for process in processes] == [0] * PROCESSES
        return [json.loads(line) for line in told]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture
def shared(store_url: str) -> Database:
    """The store that the processes share, with its tables."""
    return open_database(store_url)


def test_processes_grant_exactly_what_there_is_and_lose_no_settlement(shared: Database, store_url: str) -> None:
    told = _together("all", store_url, 40)
    used = dict(zip(SCOPES, spent(shared, SCOPES, NOON), strict=True))

    assert sum(one["alone"] for one in told) == 100, "a budget worth 100 of 120 requests"
    assert used[BUDGET].reserved_usd == 0.1

    assert sum(one["both"] for one in told) == 40, "what the narrower of two scopes has"
    assert (used[WIDE].reserved_usd, used[WIDE].requests, used[RATE].requests) == (0.04, 40, 40)

    assert round(used[LARGE].spent_usd * 1e9) == sum(one["spent_nano"] for one in told) > 0
    kept = sum(one["kept"] for one in told)
    assert round(used[LARGE].reserved_usd * 1e9) == round(ESTIMATE * 1e9) * kept > 0
    assert used[LARGER].requests == sum(one["requests"] for one in told) > 0
    shared.close()


def test_threads_of_a_gateway_grant_exactly_what_there_is(shared: Database) -> None:
    def ask(number: int) -> bool:
        scopes = [BUDGET, WIDE] if number % 2 else [WIDE, BUDGET]
        return isinstance(reserve(shared, scopes, usd=ESTIMATE, tokens=1, now=NOON), Reservation)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(150))) == 100
    shared.close()


def test_what_a_killed_process_had_reserved_comes_back(shared: Database, store_url: str) -> None:
    process = _start("die-holding", store_url, 0, 0)
    try:
        assert _line(process) == "ready"
        _go(process)
        assert _line(process) == "held"
    finally:
        process.kill()
        process.communicate()
    assert isinstance(reserve(shared, [BUDGET], usd=0.05, tokens=1, now=NOON + 299), Exceeded)
    assert isinstance(reserve(shared, [BUDGET], usd=0.05, tokens=1, now=NOON + 300), Reservation)
    assert isinstance(reserve(shared, [BUDGET], usd=0.06, tokens=1, now=NOON + 300), Exceeded)
    shared.close()


def test_a_process_killed_while_it_holds_the_lock_stops_nobody(shared: Database, store_url: str) -> None:
    reserve(shared, [BUDGET], usd=0.01, tokens=1, now=NOON)
    process = _start("die-locked", store_url, 0, 0)
    try:
        assert _line(process) == "ready"
        _go(process)
        assert _line(process) == "held"
    finally:
        process.kill()
        process.communicate()
    assert isinstance(reserve(shared, [BUDGET], usd=0.01, tokens=1, now=NOON), Reservation)
    assert spent(shared, [BUDGET], NOON)[0].reserved_usd == 0.02
    shared.close()
