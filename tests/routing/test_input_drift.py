from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.routing.input_drift import DriftState, InputDrift, novel_examples

Floats = NDArray[np.float64]


def unit(values: Floats) -> Floats:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


class World:
    """Traffic about topics, of which the reference knows the first four."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.topics = unit(self.rng.standard_normal((6, 48)))

    def embeddings(self, n: int, *, new: float = 0.0) -> Floats:
        topics = np.where(self.rng.random(n) < new, self.rng.integers(4, 6, n), self.rng.integers(0, 4, n))
        return unit(self.topics[topics] + 0.1 * self.rng.standard_normal((n, 48)))

    def tokens(self, n: int, longer: float = 0.0) -> Floats:
        return np.round(np.exp(self.rng.normal(4.0 + longer, 0.6, n)))

    def drift(self, n: int = 700, **options: float) -> InputDrift:
        scope = self.rng.random(n) < 0.03
        return InputDrift(self.embeddings(n), self.tokens(n), scope, seed=1, **options)  # pyright: ignore[reportArgumentType]

    def run(self, drift: InputDrift, n: int, *, new: float = 0.0, longer: float = 0.0, out: float = 0.03) -> bool:
        rows = zip(self.embeddings(n, new=new), self.tokens(n, longer), self.rng.random(n) < out, strict=True)
        return max(drift.observe(f"t{i}", e, float(t), bool(o)) for i, (e, t, o) in enumerate(rows))


def test_the_same_traffic_raises_no_alarm() -> None:
    level, runs = 0.2, 60
    alarms = 0
    for seed in range(runs):
        world = World(seed)
        alarms += world.run(world.drift(260, level=level), 130)
    assert alarms <= runs * level + 3.5 * math.sqrt(runs * level * (1 - level))


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"new": 0.4}, "content"),
        ({"longer": 0.6}, "longer"),
        ({"longer": -0.6}, "shorter"),
        ({"out": 0.3}, "out_of_scope"),
    ],
)
def test_a_change_is_found_and_named(change: dict[str, float], signal: str) -> None:
    for seed in range(3):
        world = World(seed)
        drift = world.drift()
        assert not world.run(drift, 60)
        assert world.run(drift, 290, **change)
        status = drift.status()
        assert signal in status.signals and status.drifted and status.log10[signal] > 2


def test_new_topics_are_named_by_examples_of_each() -> None:
    world = World(5)
    drift = world.drift()
    assert drift.status().examples == ()
    assert world.run(drift, 350, new=0.4)
    examples = drift.status(examples=4).examples
    assert len(examples) == 4 and all(e.similarity < 0.6 for e in examples)
    rows = dict(drift._recent)
    topics = {int((world.topics @ rows[e.trace]).argmax()) for e in examples}
    assert topics == {4, 5}


def test_examples_are_far_from_the_reference_and_from_each_other() -> None:
    angles = np.deg2rad([0.0, 10.0, 90.0, 92.0, 180.0])
    live = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = novel_examples(np.array([[1.0, 0.0]]), live, 3)
    assert [i for i, _ in found] == [4, 2, 1] or [i for i, _ in found][:2] == [4, 2]
    assert found[0][1] == pytest.approx(-1.0)
    assert len(novel_examples(live, live, 99)) == 5
    assert novel_examples(live, live[:0], 3) == []


def test_the_reference_is_used_once_and_then_the_test_rests() -> None:
    world = World(0)
    drift = world.drift(200)
    world.run(drift, 100)
    assert drift.exhausted and drift.pairs == 100
    before = drift.state().capitals
    assert not world.run(drift, 300, new=1.0)
    assert drift.state().capitals == before


def test_going_on_from_a_stored_state_gives_the_same() -> None:
    reference = World(3).embeddings(200), World(3).tokens(200), np.zeros(200, bool)
    one = InputDrift(*reference, seed=2)
    world = World(4)
    rows = list(zip(world.embeddings(90), world.tokens(90), strict=True))
    for e, t in rows[:50]:
        one.observe("a", e.astype(np.float32), float(t), False)
    raw = msgspec.json.encode(one.state())
    other = InputDrift(*reference, seed=2).resume(msgspec.json.decode(raw, type=DriftState))
    for e, t in rows[50:]:
        for drift in (one, other):
            drift.observe("b", e.astype(np.float32), float(t), False)
    assert one.state() == other.state()
    with pytest.raises(DataError, match="of another reference"):
        InputDrift(World(3).embeddings(120)[:, :5], reference[1][:120], reference[2][:120]).resume(one.state())


def test_bad_input_is_refused_and_books_nothing() -> None:
    world = World(0)
    drift, good = world.drift(200), world.embeddings(1)[0]
    for embedding, tokens in ((good[:7], 3.0), (good * np.nan, 3.0), (good, -1.0), (good, math.nan)):
        with pytest.raises(DataError, match="embed both with the same encoder"):
            drift.observe("t", embedding, tokens, False)
    assert drift.pairs == 0
    with pytest.raises(DataError, match="at least 100"):
        world.drift(99)
    with pytest.raises(DataError, match="do not fit together"):
        InputDrift(world.embeddings(200), world.tokens(199), np.zeros(200, bool))
