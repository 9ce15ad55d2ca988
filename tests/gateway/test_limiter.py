"""Limits asked for from the event loop: those who wait are answered together, and who left books nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Loop
from tests.gateway.launching import until
from tiercel.errors import StorageError
from tiercel.gateway import limiter as limiter_module
from tiercel.gateway.limiter import Limiter
from tiercel.store.database import Database, open_database
from tiercel.store.limits import Exceeded, Reservation, Scope, reserve_many, spent

NOON = 1_795_176_000.0
KEY = Scope(kind="key", name="k", budget_usd=1.0, requests_per_minute=8)


class Halting:
    """Real reservations, of which the first waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go_on = threading.Event()
        self.fails = False

    def __call__(self, database: Database, claims: Sequence[Any]) -> list[Reservation | Exceeded]:
        self.batches.append(len(claims))
        assert self.go_on.wait(10)
        if self.fails:
            raise StorageError("the store is away")
        return reserve_many(database, claims)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = open_database(str(tmp_path / "limits.db"))
    yield found
    found.close()


@pytest.fixture
def halting(monkeypatch: pytest.MonkeyPatch) -> Halting:
    found = Halting()
    monkeypatch.setattr(limiter_module, "reserve_many", found)
    return found


async def asking(limiter: Limiter, count: int, halting: Halting) -> list[asyncio.Task[Reservation | Exceeded]]:
    """One request that the store works on, and others that wait behind it."""
    tasks: list[asyncio.Task[Reservation | Exceeded]] = []
    for _ in range(count):
        tasks.append(asyncio.create_task(limiter.reserve([KEY], usd=0.1, tokens=1, now=NOON, lease_s=60)))
        await asyncio.sleep(0)
        await asyncio.to_thread(until, lambda: halting.batches, "the first one's turn")
    return tasks


def test_those_who_wait_are_answered_together_and_who_left_books_nothing(
    loop: Loop, database: Database, halting: Halting
) -> None:
    limiter = Limiter(database)

    async def ask() -> list[Any]:
        tasks = await asking(limiter, 7, halting)
        tasks[3].cancel()
        counted = asyncio.create_task(limiter.count([KEY], now=NOON))
        await asyncio.sleep(0)
        halting.go_on.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert await counted is None
        return found

    found = loop.run(ask())
    limiter.close()
    assert halting.batches == [1, 6]
    assert [type(one) for one in found] == [Reservation] * 3 + [asyncio.CancelledError] + [Reservation] * 3
    (used,) = spent(database, [KEY], NOON)
    assert (used.requests, used.reserved_usd) == (7, pytest.approx(0.6))


def test_who_leaves_while_the_store_answers_gives_back_what_it_got(
    loop: Loop, database: Database, halting: Halting
) -> None:
    limiter = Limiter(database)

    async def ask() -> None:
        (task,) = await asking(limiter, 1, halting)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        halting.go_on.set()

    loop.run(ask())
    until(lambda: spent(database, [KEY], NOON)[0].requests == 0 and len(halting.batches) == 1)
    limiter.close()


def test_a_store_that_fails_fails_those_who_waited_and_nobody_else(
    loop: Loop, database: Database, halting: Halting
) -> None:
    limiter = Limiter(database)

    async def ask() -> list[Any]:
        halting.fails = True
        tasks = await asking(limiter, 3, halting)
        halting.go_on.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        halting.fails = False
        return [*found, await limiter.reserve([KEY], usd=0.1, tokens=1, now=NOON, lease_s=60)]

    found = loop.run(ask())
    limiter.close()
    assert [type(one) for one in found] == [StorageError] * 3 + [Reservation]


def test_closing_lets_nobody_wait(loop: Loop, database: Database, halting: Halting) -> None:
    limiter = Limiter(database)

    async def ask() -> list[Any]:
        tasks = await asking(limiter, 3, halting)
        limiter.close()
        halting.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = loop.run(ask())
    assert [type(one) for one in found[1:]] == [asyncio.CancelledError] * 2
