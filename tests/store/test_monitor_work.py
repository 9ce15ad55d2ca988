"""Turns among gateways, and the one state of a drift test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiercel.store.database import Database, open_database
from tiercel.store.monitor_work import (
    DriftTest,
    advance_drift_test,
    read_drift_statuses,
    read_drift_test,
    take_turn,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = str(tmp_path / "store.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = open_database(url)
    yield database
    database.close()


def test_a_turn_is_one_gateways_and_a_clock_that_ran_back_costs_none(store: Database) -> None:
    def turn(now: float, name: str = "anchors/a") -> bool:
        return take_turn(store, name, every_s=60.0, now=now)

    assert turn(1_000.0) and not turn(1_000.0) and not turn(1_059.0)
    assert turn(1_000.0, "anchors/b")
    assert turn(1_060.0)
    assert turn(500.0) and not turn(501.0)  # set back: at once, then at the pace again
    took: list[bool] = []
    threads = [threading.Thread(target=lambda: took.append(turn(2_000.0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took.count(True) == 1


def test_a_drift_test_is_moved_by_one_at_a_time_and_nothing_is_lost(store: Database) -> None:
    def step(last: DriftTest | None) -> DriftTest:
        moved = 0 if last is None else last.moved
        return DriftTest(workload="w", epoch=1, round=1, moved=moved + 1, state=b"s", status=b"%d" % moved)

    assert read_drift_test(store, "w", 1) is None
    threads = [threading.Thread(target=advance_drift_test, args=(store, "w", 1, step)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_drift_test(store, "w", 1)
    assert found is not None and (found.moved, found.status) == (6, b"5")
    assert read_drift_statuses(store) == {("w", 1): b"5"}

    def fail(_: DriftTest | None) -> DriftTest:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        advance_drift_test(store, "w", 1, fail)
    assert read_drift_test(store, "w", 1) == found
