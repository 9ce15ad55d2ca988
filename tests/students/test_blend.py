"""Blending rungs: powers that fit, temperature for one rung, several labels."""

from __future__ import annotations

import numpy as np
import pytest

from tiercel.students.blend import blend, fit_powers


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(1, keepdims=True))
    return (x / x.sum(1, keepdims=True)).astype(np.float32)


def draw(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 4))
    y = (logits + rng.gumbel(size=(n, 4))).argmax(1)
    return logits, np.eye(4, dtype=np.float32)[y]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_one_rung_gets_its_temperature(temperature: float) -> None:
    logits, targets = draw(4_000)
    (power,) = fit_powers([softmax(logits / temperature)], targets, multi=False)
    assert power == pytest.approx(temperature, rel=0.12)


def test_a_rung_that_knows_nothing_gets_little() -> None:
    logits, targets = draw(3_000)
    noise = softmax(np.random.default_rng(1).standard_normal((3_000, 4)))
    good, bad = fit_powers([softmax(logits), noise], targets, multi=False)
    assert good == pytest.approx(1, abs=0.15)
    assert bad < 0.1


def test_two_views_are_better_than_either() -> None:
    logits, targets = draw(3_000)
    rng = np.random.default_rng(2)
    views = [softmax(logits + rng.standard_normal(logits.shape)) for _ in range(2)]
    powers = fit_powers(views, targets, multi=False)

    def loss(p: np.ndarray) -> float:
        return float(-np.log((p * targets).sum(1)).mean())

    together = loss(blend(views, powers, multi=False))
    assert together < min(loss(blend([v], fit_powers([v], targets, multi=False), multi=False)) for v in views)


def test_probabilities_stay_probabilities_at_the_edges() -> None:
    edge = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    told = blend([edge, edge[:, ::-1]], (4.0, 4.0), multi=False)
    assert np.isfinite(told).all()
    assert told.sum() == pytest.approx(1)


def test_several_labels_blend_log_odds() -> None:
    p, q = np.array([[0.9, 0.2]], np.float32), np.array([[0.6, 0.5]], np.float32)

    def odds(x: np.ndarray) -> np.ndarray:
        return np.log(x / (1 - x))

    told = blend([p, q], (0.5, 2.0), multi=True)
    np.testing.assert_allclose(odds(told), 0.5 * odds(p) + 2 * odds(q), rtol=1e-4)
