from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tiercel.routing.gate import LogisticGate, cross_scores
from tiercel.stats.ranking import auroc


def _rows(seed: int, n: int = 400, signals: int = 4, informative: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Signals on very different scales; the first two carry what there is to know."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, signals))
    odds = 1.2 + informative * z[:, 0] + informative * z[:, 1]
    return z * np.geomspace(0.1, 1_000, signals) + 5, rng.random(n) < 1 / (1 + np.exp(-odds))


def _sklearn(gate: LogisticGate, x: np.ndarray, safe: np.ndarray, penalty: float) -> LogisticRegression:
    z = np.clip((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6), -8, 8)
    return LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5_000).fit(z, safe)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("informative", [0.0, 0.5, 4.0])
def test_newtons_method_finds_what_sklearn_finds(seed: int, informative: float) -> None:
    x, safe = _rows(seed, informative=informative)
    gate = LogisticGate(seed).fit(x, safe)
    columns = x if gate.choice_.startswith("all") else x[:, :1]
    penalty = float(gate.choice_.rpartition(" ")[2]) if gate.choice_.startswith("all") else 0.003
    reference = _sklearn(gate, columns, safe, penalty)
    if gate.choice_ == "first signal" and reference.coef_[0, 0] < 1e-3:
        return
    assert gate.weights_[: columns.shape[1]] == pytest.approx(reference.coef_[0], abs=1e-4)
    assert gate.weights_[columns.shape[1] :] == pytest.approx(0)
    assert gate.bias_ == pytest.approx(reference.intercept_[0], abs=1e-3)
    z = np.clip((columns - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-6), -8, 8)
    assert gate.score(x) == pytest.approx(reference.predict_proba(z)[:, 1], abs=1e-4)


def test_all_signals_are_used_when_they_say_more_and_the_first_alone_when_they_do_not() -> None:
    x, safe = _rows(1)
    rich = LogisticGate().fit(x, safe)
    assert rich.choice_.startswith("all signals")
    rng = np.random.default_rng(2)
    first = rng.normal(size=120)
    noisy = np.column_stack([first, rng.normal(size=(120, 30))])
    alone = LogisticGate().fit(noisy, rng.random(120) < 1 / (1 + np.exp(-2 - 2 * first)))
    assert alone.choice_ == "first signal"
    assert np.flatnonzero(alone.weights_).tolist() == [0]


def test_scores_rank_and_are_calibrated_on_rows_that_were_not_seen() -> None:
    gate = LogisticGate().fit(*_rows(3, n=2_000))
    x, safe = _rows(4, n=4_000)
    scores = gate.score(x)
    assert auroc(scores, safe) > 0.85
    for part in np.array_split(np.argsort(scores), 5):
        assert abs(scores[part].mean() - safe[part].mean()) < 0.06


@pytest.mark.parametrize("errors", [0, 1, 7, 93, 99, 100])
def test_with_few_errors_or_few_successes_the_order_is_the_first_signals(errors: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(100, 6))
    safe = np.ones(100, dtype=bool)
    safe[rng.permutation(100)[:errors]] = False
    gate = LogisticGate().fit(x, safe)
    assert "rows too few" in gate.choice_
    scores = gate.score(x)
    assert np.argsort(scores).tolist() == np.argsort(x[:, 0]).tolist()
    assert ((scores > 0) & (scores < 1)).all()
    assert abs(scores.mean() - (100 - errors + 1) / 102) < 0.2


def test_with_few_errors_the_first_signal_never_counts_against_safety() -> None:
    first = np.linspace(-1, 1, 60)[:, None]
    gate = LogisticGate().fit(first, np.arange(60) < 55)
    assert gate.weights_[0] > 0


def test_no_rows_and_constant_signals_give_a_gate_that_works() -> None:
    empty = LogisticGate().fit(np.empty((0, 3)), np.empty(0, dtype=bool))
    assert empty.score(np.zeros((2, 3))).tolist() == [0.5, 0.5]
    rng = np.random.default_rng(7)
    flat = LogisticGate().fit(np.full((80, 2), 3.0), rng.random(80) < 0.5)
    assert np.isfinite(flat.score(np.full((5, 2), 3.0))).all()


def test_a_signal_far_beyond_training_gives_a_probability_inside_zero_and_one() -> None:
    x, safe = _rows(8)
    scores = LogisticGate().fit(x, safe).score(np.array([x.max(axis=0) * 1e9, x.min(axis=0) * -1e9]))
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize(
    ("signals", "safe", "reason"),
    [
        (np.zeros((3, 2)), np.ones(4, bool), "do not match"),
        (np.zeros(3), np.ones(3, bool), "do not match"),
        (np.array([[np.nan], [1.0]]), np.ones(2, bool), "NaN"),
        (np.array([[np.inf], [1.0]]), np.ones(2, bool), "infinity"),
    ],
)
def test_what_can_not_be_fitted_is_refused(signals: Any, safe: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LogisticGate().fit(signals, safe)


def test_a_gate_that_was_written_scores_exactly_the_same() -> None:
    x, safe = _rows(9)
    gate = LogisticGate().fit(x, safe)
    again = LogisticGate.from_record(json.loads(json.dumps(gate.to_record())))
    assert again.score(x).tolist() == gate.score(x).tolist()
    assert again.to_record() == gate.to_record()


def test_the_seed_alone_decides() -> None:
    x, safe = _rows(10)
    assert LogisticGate(3).fit(x, safe).to_record() == LogisticGate(3).fit(x, safe).to_record()


def test_cross_scores_come_from_gates_that_have_not_seen_the_row() -> None:
    rng = np.random.default_rng(11)
    x, safe = rng.normal(size=(80, 40)), rng.random(80) < 0.5
    seen, unseen = LogisticGate().fit(x, safe).score(x), cross_scores(x, safe)
    assert unseen.shape == (80,)
    assert abs(auroc(unseen, safe) - 0.5) < 0.2
    changed = safe.copy()
    changed[0] = not changed[0]
    assert cross_scores(x, changed)[0] == unseen[0]
    assert len(set(seen)) > 1
