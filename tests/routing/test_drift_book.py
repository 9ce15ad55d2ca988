"""Rounds of a drift test in one store: no alarm beyond the level over all of them, and a change in any of them is found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.routing.test_input_drift import World
from tiercel.errors import DataError
from tiercel.routing import drift_book
from tiercel.routing.drift_book import DriftBook, LiveInput
from tiercel.store.database import Database, open_database
from tiercel.store.monitor_work import read_drift_test


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "store.db")
    yield database
    database.close()


def live(world: World, n: int, *, new: float = 0.0, start: int = 0) -> list[LiveInput]:
    rows = zip(world.embeddings(n, new=new), world.tokens(n), world.rng.random(n) < 0.03, strict=True)
    return [
        LiveInput(trace=f"t{start + i}", embedding=e, tokens=float(t), out_of_scope=bool(o))
        for i, (e, t, o) in enumerate(rows)
    ]


def reference(world: World, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return world.embeddings(n), world.tokens(n), world.rng.random(n) < 0.03


def test_rounds_go_on_with_the_reference_and_share_the_level(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_book, "LEVEL", 0.2)
    alarms, runs = 0, 40
    for seed in range(runs):
        world = World(seed)
        book = DriftBook(database, f"w{seed}", 1, *reference(world))
        # Four rounds of sixty pairs against the same reference.
        alarms += any(book.observe(live(world, 60))[0].drifted for _ in range(4))
        kept = read_drift_test(database, f"w{seed}", 1)
        assert kept is not None and kept.round in (1, 2, 3, 4)
    assert alarms <= runs * 0.2 + 3.5 * math.sqrt(runs * 0.2 * 0.8)


def test_a_change_in_a_later_round_is_found_once_and_stays(database: Database) -> None:
    world = World(1)
    parts = reference(world, 400)
    book = DriftBook(database, "w", 1, *parts)
    for _ in range(3):
        assert not book.observe(live(world, 200))[0].drifted
    found: list[str] = []
    for _ in range(4):
        status, new = book.observe(live(world, 50, new=0.8))
        found += new
    assert "content" in found and len(found) == len(set(found))
    # Another gateway goes on from there.
    status, new = DriftBook(database, "w", 1, *parts).observe(live(world, 1))
    assert status.drifted and new == ()


def test_gateways_take_up_where_another_left_off(database: Database) -> None:
    world = World(2)
    parts = reference(world)
    one, other = DriftBook(database, "w", 1, *parts), DriftBook(database, "w", 1, *parts)
    rows = live(world, 30)
    for i in range(0, 30, 5):
        status, _ = (one, other)[i // 5 % 2].observe(rows[i : i + 5])
    alone = DriftBook(database, "alone", 1, *parts)
    assert alone.observe(rows)[0] == status and status.pairs == 30


def test_what_can_not_be_written_changes_nothing(database: Database) -> None:
    world = World(3)
    book = DriftBook(database, "w", 1, *reference(world))
    book.observe(live(world, 3))
    bad = LiveInput(trace="x", embedding=np.ones(3), tokens=1.0, out_of_scope=False)
    with pytest.raises(DataError, match="embed both with the same encoder"):
        book.observe([*live(world, 2), bad])
    assert book.observe(live(world, 1))[0].pairs == 4
