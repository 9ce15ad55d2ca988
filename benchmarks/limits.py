"""What virtual keys and limits cost a request: looking a key up, reserving and settling.

python benchmarks/limits.py [postgresql://user@host/database]

The database should be an empty one; without a URL only SQLite is measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from _record import write_result
from tiercel.store.database import Database, open_database
from tiercel.store.keys import KeyRing, create_key
from tiercel.store.limits import (
    Exceeded,
    Reservation,
    Scope,
    claim,
    reserve,
    reserve_many,
    settle,
    settle_many,
    settlement,
)

TIMES = 2000
TOGETHER = 32
"""Requests that wait at the same time."""
SCOPES = [
    Scope(kind="key", name="bench", budget_usd=1e6, requests_per_minute=10**6),
    Scope(kind="workload", name="bench", budget_usd=1e6, tokens_per_minute=10**9),
]


def times_ms(call: Callable[[int], object], times: int = TIMES) -> str:
    """Median and 99th percentile of a call."""
    taken = np.empty(times)
    for i in range(times):
        started = time.perf_counter()
        call(i)
        taken[i] = time.perf_counter() - started
    return "p50 {:.3f} ms, p99 {:.3f} ms".format(*np.percentile(taken * 1e3, [50, 99]))


def bookings(database: Database, name: str) -> list[tuple[str, str, str, bool | None]]:
    """Reserving in a key's scope and a workload's, settling, and a refusal; a request every 10 ms of the clock."""
    now, kept = time.time(), list[Reservation]()

    def take(i: int) -> None:
        answer = reserve(database, SCOPES, usd=0.01, tokens=100, now=now + i / 100)
        assert isinstance(answer, Reservation)
        kept.append(answer)

    def refuse(i: int) -> None:
        closed = [Scope(kind="key", name="bench", budget_usd=0.0), SCOPES[1]]
        assert isinstance(reserve(database, closed, usd=0.01, tokens=100, now=now + TIMES / 100), Exceeded)

    def take_together(i: int) -> None:
        asked = [claim(SCOPES, usd=0.01, tokens=100, now=now + TIMES / 100 + i)] * TOGETHER
        answers = reserve_many(database, asked)
        batches.append([answer for answer in answers if isinstance(answer, Reservation)])
        assert len(batches[-1]) == TOGETHER

    def settle_together(i: int) -> None:
        assert all(settle_many(database, [settlement(one, usd=0.008, tokens=90) for one in batches[i]]))

    taken = times_ms(take)
    settled = times_ms(lambda i: settle(database, kept[i], usd=0.008, tokens=90))
    batches = list[list[Reservation]]()
    taken_together, settled_together = times_ms(take_together, 200), times_ms(settle_together, 200)
    refused = times_ms(refuse, 500)
    target = "p50 <= 0.3 ms" if database.is_sqlite else "2 round trips"
    good = float(taken.split()[1]) <= 0.3 if database.is_sqlite else None
    return [
        (f"reserve, two scopes, {name}", target, taken, good),
        (f"settle, two scopes, {name}", "", settled, None),
        (f"refuse, two scopes, {name}", "", refused, None),
        (f"reserve {TOGETHER} requests together, {name}", "", taken_together, None),
        (f"settle {TOGETHER} requests together, {name}", "", settled_together, None),
    ]


def lookups(database: Database) -> tuple[str, str, str, bool | None]:
    """A key among a thousand, in memory."""
    secrets = [create_key(database, f"key {i}")[1] for i in range(1000)]
    ring = KeyRing(database)
    ring.refresh()
    rounds = []
    for _ in range(20):
        started = time.perf_counter()
        for secret in secrets:
            ring.find(secret)
        rounds.append((time.perf_counter() - started) / len(secrets))
    median = float(np.median(rounds)) * 1e6
    return "find a key, 1,000 keys", "<= 5 µs", f"{median:.2f} µs", median <= 5


def main(urls: list[str]) -> None:
    """Measure, and keep the table."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder) / "store.db")
        table = [lookups(database), *bookings(database, "SQLite")]
        database.close()
    for url in urls:
        database = open_database(url)
        table += bookings(database, "PostgreSQL on this machine")
        database.close()
    write_result("limits", "python benchmarks/limits.py [URL]", table)


if __name__ == "__main__":
    main(sys.argv[1:])
