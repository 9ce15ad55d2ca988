from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiercel.routing import neighbourhood
from tiercel.routing.neighbourhood import Neighbourhood


def _rows(seed: int, n: int = 120, d: int = 8, k: int = 3, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of any length in three clouds, and their labels as 0 and 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    centres = np.eye(k, d) * 3
    embedding = (centres[labels] + rng.normal(size=(n, d)) * noise) * rng.uniform(0.5, 2, (n, 1))
    return embedding.astype(np.float32), np.eye(k, dtype=np.float32)[labels]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_what_lies_around_is_what_brute_force_finds() -> None:
    train, targets = _rows(101, noise=2.0)
    asked, decided = _rows(102, n=30, noise=2.0)
    found = Neighbourhood.fit(train, targets, 0).look(asked, decided > 0.5)
    unit, ask = _unit(train.astype(np.float64)), _unit(asked.astype(np.float64))
    labels, said = targets.argmax(1), decided.argmax(1)
    means = np.stack([unit[labels == c].mean(0) for c in range(3)])
    centred = unit - means[labels]
    covariance = centred.T @ centred / (len(unit) - 3)
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 8 * np.eye(8)
    inverse = np.linalg.inv(covariance)
    kept = unit.astype(np.float16).astype(np.float64)
    for i, row in enumerate(ask):
        cosine = kept @ row
        nearest = np.argsort(-cosine)[:10]
        weight = np.exp(10 * (cosine[nearest] - 1))
        assert found.agreement[i] == pytest.approx(
            (weight * (labels[nearest] == said[i])).sum() / weight.sum(), abs=1e-3
        )
        assert found.similarity[i] == pytest.approx(cosine.max(), abs=1e-5)
        distance = np.array([np.sqrt((row - m) @ inverse @ (row - m) / 8) for m in means])
        assert found.distance[i] == pytest.approx(distance.min(), rel=1e-3)
        assert found.excess_distance[i] == pytest.approx(distance[said[i]] - distance.min(), abs=2e-3)


def test_a_row_of_training_lies_where_it_lies_and_a_stranger_lies_far() -> None:
    train, targets = _rows(103)
    around = Neighbourhood.fit(train, targets, 0)
    own = around.look(train, targets > 0.5)
    assert own.similarity.min() > 0.999
    assert own.agreement.mean() > 0.95
    stranger = np.zeros((1, 8), np.float32)
    stranger[0, 7] = -1
    far = around.look(stranger, np.array([[True, False, False]]))
    assert far.distance[0] > 1.5 * own.distance.max()
    assert far.similarity[0] < own.similarity.min()


def test_a_wrong_label_agrees_less_and_lies_farther() -> None:
    train, targets = _rows(104)
    around = Neighbourhood.fit(train, targets, 0)
    right, wrong = around.look(train, targets > 0.5), around.look(train, np.roll(targets, 1, axis=1) > 0.5)
    assert wrong.agreement.mean() < 0.1 < right.agreement.mean()
    assert (wrong.excess_distance >= 0).all()
    assert wrong.excess_distance.mean() > right.excess_distance.mean() + 1


def test_a_set_of_labels_that_training_never_held_agrees_with_nothing() -> None:
    train, targets = _rows(105)
    found = Neighbourhood.fit(train, targets, 0).look(train[:5], np.ones((5, 3), dtype=bool))
    assert (found.agreement == 0).all()
    assert (found.excess_distance > 0).all()


def test_sets_of_several_labels_are_told_apart() -> None:
    train, one = _rows(106)
    several = np.column_stack([one[:, 0] + one[:, 1], one[:, 1], 0 * one[:, 2]])
    around = Neighbourhood.fit(train, several, 0)
    assert len(around.sets) == 3
    found = around.look(train, several > 0.5)
    assert found.agreement.mean() > 0.95


def test_it_says_the_same_whatever_the_length_of_embeddings_and_with_few_rows() -> None:
    train, targets = _rows(107, n=4)
    around = Neighbourhood.fit(train, targets, 0)
    near, far = around.look(train, targets > 0.5), around.look(train * 50, targets > 0.5)
    assert near.similarity == pytest.approx(far.similarity, abs=1e-5)
    assert np.isfinite(near.distance).all()
    zero = around.look(np.zeros((1, 8), np.float32), targets[:1] > 0.5)
    assert np.isfinite([zero.agreement, zero.similarity, zero.distance, zero.excess_distance]).all()


def test_it_keeps_a_sample_that_its_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbourhood, "MOST_ROWS", 50)
    train, targets = _rows(108)
    one, same, other = (Neighbourhood.fit(train, targets, seed) for seed in (1, 1, 2))
    assert one.rows.shape == (50, 8)
    assert np.array_equal(one.rows, same.rows)
    assert not np.array_equal(one.rows, other.rows)
    origin = (_unit(train) @ one.rows.T).argmax(axis=0)
    assert np.array_equal(one.sets[one.labels], targets[origin] > 0.5)


def test_a_neighbourhood_that_was_saved_gives_exactly_the_same_signals(tmp_path: Path) -> None:
    train, targets = _rows(109)
    around = Neighbourhood.fit(train, targets, 0)
    around.save(tmp_path)
    again = Neighbourhood.load(tmp_path)
    asked, decided = _rows(110, n=20)
    for name in ("agreement", "similarity", "distance", "excess_distance"):
        here, there = (getattr(a.look(asked, decided > 0.5), name) for a in (around, again))
        assert here.tolist() == there.tolist()
