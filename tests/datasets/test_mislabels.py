"""Confident learning against a slow reading of the paper, and on labels with planted noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.mislabels import Pruning, find_mislabels
from tiercel.errors import DataError


def drawn(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many near ties, and labels that follow them loosely; some labels may have no row."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.dirichlet(np.full(k, 0.4), n), 3) + 1e-3
    p /= p.sum(1, keepdims=True)
    labels = np.array([rng.choice(k, p=row) if rng.random() < 0.8 else rng.integers(k) for row in p])
    return p, labels


def slowly(p: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[list[int]], list[list[float]]]:
    """Thresholds, confident joint and joint, read off the paper's equations with loops."""
    n, k = p.shape
    thresholds = []
    for j in range(k):
        own = [float(p[x][j]) for x in range(n) if labels[x] == j]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    confident = [[0] * k for _ in range(k)]
    for x in range(n):
        over = [j for j in range(k) if p[x][j] >= thresholds[j] - 1e-9]
        if over:
            confident[labels[x]][max(over, key=lambda j: p[x][j])] += 1
    joint = [[0.0] * k for _ in range(k)]
    for i in range(k):
        size = sum(int(label == i) for label in labels)
        for j in range(k):
            total = sum(confident[i])
            joint[i][j] = size * (confident[i][j] / total if total else float(i == j))
    mass = sum(map(sum, joint))
    return thresholds, confident, [[v / mass for v in row] for row in joint]


def whole(rows: float) -> int:
    return math.ceil(rows - 0.5 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 5))
def test_every_step_is_the_papers(seed: int, n: int, k: int) -> None:
    p, labels = drawn(seed, n, k)
    thresholds, confident, joint = slowly(p, labels)
    by_class = find_mislabels(p, labels)
    np.testing.assert_allclose(by_class.thresholds, thresholds, rtol=1e-12)
    assert by_class.confident_joint.tolist() == confident
    np.testing.assert_allclose(by_class.joint, joint, atol=1e-12)
    assert by_class.noise == pytest.approx(1 - sum(joint[i][i] for i in range(k)), abs=1e-9)
    named: set[int] = set()
    for i in range(k):
        wrong = whole(n * sum(joint[i][j] for j in range(k) if j != i))
        rows = sorted((x for x in range(n) if labels[x] == i), key=lambda x: (p[x][i], x))[:wrong]
        named |= {x for x in rows if max(p[x]) > p[x][i]}
    assert set(by_class.rows.tolist()) == named
    pairs: dict[int, float] = {}
    for i in range(k):
        for j in range(k):
            if i == j:
                continue
            rows = sorted((x for x in range(n) if labels[x] == i), key=lambda x: (p[x][i] - p[x][j], x))
            for x in rows[: whole(n * joint[i][j])]:
                if p[x][j] > p[x][i]:
                    pairs[x] = max(pairs.get(x, 0.0), p[x][j] - p[x][i])
    by_pair = find_mislabels(p, labels, pruning=Pruning.NOISE_RATE)
    assert dict(zip(by_pair.rows.tolist(), by_pair.margin.tolist(), strict=True)) == pytest.approx(pairs)
    for found in (by_class, by_pair):
        assert (np.diff(found.margin) <= 0).all()
        gap = p[found.rows, found.suggested] - p[found.rows, labels[found.rows]]
        np.testing.assert_allclose(found.margin, gap)
        assert (gap > 0).all()


def planted(seed: int, n: int = 4000, noise: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities of true labels, true labels, and labels through a noise matrix."""
    rng = np.random.default_rng(seed)
    k = 4
    true = rng.choice(k, n, p=[0.4, 0.3, 0.2, 0.1])
    x = np.eye(k)[true] * 3.5 + rng.standard_normal((n, k))
    p = np.exp(3.5 * x) * np.array([0.4, 0.3, 0.2, 0.1])
    p /= p.sum(1, keepdims=True)
    noise = np.eye(k) * 0.9 + 0.1 * np.roll(np.eye(k), 1, axis=1) if noise is None else noise
    given = np.array([rng.choice(k, p=noise[t]) for t in true])
    return p, true, given


@pytest.mark.parametrize("pruning", list(Pruning))
def test_planted_noise_is_found(pruning: Pruning) -> None:
    p, true, labels = planted(1)
    found = find_mislabels(p, labels, pruning=pruning)
    wrong = labels != true
    hit = wrong[found.rows]
    assert hit.mean() > 0.9
    assert hit.sum() / wrong.sum() > 0.9
    assert (found.suggested[hit] == true[found.rows[hit]]).mean() > 0.97


def test_the_joint_estimates_which_labels_are_taken_for_which() -> None:
    noise = np.eye(4)
    noise[0] = [0.8, 0.2, 0, 0]
    noise[3] = [0, 0, 0.3, 0.7]
    p, true, labels = planted(2, noise=noise)
    found = find_mislabels(p, labels)
    real = np.zeros((4, 4))
    np.add.at(real, (labels, true), 1 / len(true))
    np.testing.assert_allclose(found.joint, real, atol=0.01)
    assert found.noise == pytest.approx((labels != true).mean(), abs=0.012)


def test_right_labels_are_nearly_all_left_alone() -> None:
    p, true, _ = planted(3)
    found = find_mislabels(p, true)
    assert found.rows.size < 0.02 * len(true)
    sure = find_mislabels(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0]))
    assert (sure.rows.size, sure.noise) == (0, 0.0)


def test_rows_without_a_label_are_left_out() -> None:
    p, _, labels = planted(4, n=500)
    holes = labels.copy()
    holes[::3] = -1
    kept = np.flatnonzero(holes >= 0)
    found, expected = find_mislabels(p, holes), find_mislabels(p[kept], labels[kept])
    assert found.rows.tolist() == kept[expected.rows].tolist()
    np.testing.assert_array_equal(found.joint, expected.joint)


def test_labels_that_no_row_has_and_labels_that_are_never_sure() -> None:
    p = np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.8, 0.1, 0.1]])
    found = find_mislabels(p, np.array([0, 0, 1]))
    assert found.thresholds[2] == np.inf
    assert np.isfinite(found.joint).all()
    assert found.joint.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("p", "labels", "said"),
    [
        (np.full((2, 2), 0.5), np.array([0]), "do not fit"),
        (np.full((2, 2), 0.5), np.array([0, 2]), r"\[0, 2\)"),
        (np.full((2, 2), 0.5), np.array([0, -2]), "-1 for none"),
        (np.array([[0.5, 0.5], [0.9, 0.9]]), np.array([0, 1]), "row 1"),
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 1]), "row 0"),
        (np.full((2, 2), 0.5), np.array([-1, -1]), "no row has a label"),
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "no row has a label"),
    ],
)
def test_bad_input_is_refused(p: np.ndarray, labels: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_mislabels(p, labels)
