from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from tiercel.routing.neighbourhood import Surroundings
from tiercel.routing.signals import SIGNALS, Evidence, signal_matrix, signals_for


def _evidence(multi: bool = False, n: int = 40, k: int = 4, **changes: Any) -> Evidence:
    rng = np.random.default_rng(111)
    parts = tuple(
        (rng.random((n, k)) if multi else rng.dirichlet(np.ones(k), n)).astype(np.float32) * 0.98 + 0.001
        for _ in range(2)
    )
    probabilities = (parts[0] + parts[1]) / 2
    decided = probabilities >= 0.5 if multi else np.eye(k, dtype=bool)[probabilities.argmax(1)]
    values: dict[str, Any] = {
        "probabilities": probabilities,
        "decided": decided,
        "multi": multi,
        "parts": parts,
        "familiarity": tuple(rng.random(n).astype(np.float32) for _ in range(2)),
        "surroundings": Surroundings(*(rng.random(n).astype(np.float32) for _ in range(4))),
        "lengths": rng.integers(0, 200, n).astype(np.float32),
        "rates": np.array([0.6, 0.3, 0.1, 0.0], dtype=np.float32)[:k],
    }
    return Evidence(**{**values, **changes})


def _of_decision(p: np.ndarray, decided: np.ndarray, multi: bool) -> list[float]:
    if multi:
        return [
            float(np.prod([q if d else 1 - q for q, d in zip(*pair, strict=True)]))
            for pair in zip(p, decided, strict=True)
        ]
    return [float(row[d][0]) for row, d in zip(p, decided, strict=True)]


@pytest.mark.parametrize("multi", [False, True])
def test_confidence_and_agreement_are_log_odds_of_the_decision(multi: bool) -> None:
    e = _evidence(multi)
    expected = special.logit(_of_decision(e.probabilities, e.decided, multi))
    assert SIGNALS["confidence"](e) == pytest.approx(expected, abs=1e-3)
    rungs = [special.logit(_of_decision(p, e.decided, multi)) for p in e.parts]
    assert SIGNALS["agreement"](e) == pytest.approx(np.minimum(*rungs), abs=1e-3)


def test_the_margin_is_between_the_two_best_labels_or_at_the_most_doubtful_one() -> None:
    one, several = _evidence(), _evidence(True)
    best = np.sort(one.probabilities, axis=1)
    assert SIGNALS["margin"](one) == pytest.approx(np.log(best[:, -1] / best[:, -2]), abs=1e-3)
    assert SIGNALS["margin"](several) == pytest.approx(np.abs(special.logit(several.probabilities)).min(1), abs=1e-3)
    assert SIGNALS["margin"](_evidence(k=1)).tolist() == [0.0] * 40


def test_entropy_is_scipys() -> None:
    one, several = _evidence(), _evidence(True)
    assert SIGNALS["entropy"](one) == pytest.approx(special.entr(one.probabilities).sum(1), abs=1e-4)
    p = several.probabilities.astype(np.float64)
    expected = [sum(stats.bernoulli(q).entropy() for q in row) for row in p[:6]]
    assert SIGNALS["entropy"](several)[:6] == pytest.approx(expected, abs=1e-4)


def test_familiarity_is_of_the_least_able_rung_and_length_counts_words() -> None:
    e = _evidence()
    assert SIGNALS["familiarity"](e) == pytest.approx(np.minimum(*e.familiarity))
    assert SIGNALS["length"](e) == pytest.approx(np.log(1 + e.lengths))


def test_the_label_rate_is_of_the_rarest_label_decided() -> None:
    decided = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    e = _evidence(True, decided=decided)
    expected = [np.log(0.6001), np.log(0.1001), 0.0, np.log(1e-4)]
    assert SIGNALS["label_rate"](e) == pytest.approx(expected, abs=1e-4)


def test_surroundings_are_signals_under_their_names() -> None:
    e = _evidence()
    assert e.surroundings is not None
    names = {
        "neighbour_agreement": "agreement",
        "neighbour_similarity": "similarity",
        "distance": "distance",
        "excess_distance": "excess_distance",
    }
    for signal, field in names.items():
        assert SIGNALS[signal](e).tolist() == getattr(e.surroundings, field).tolist()


@pytest.mark.parametrize("multi", [False, True])
def test_every_signal_is_finite_at_the_edges(multi: bool) -> None:
    sure = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    decided = sure >= 0.5 if multi else np.eye(3, dtype=bool)
    e = _evidence(multi, n=3, k=3, probabilities=sure, decided=decided, parts=(sure, 1 - sure))
    matrix = signal_matrix(e, tuple(SIGNALS))
    assert matrix.shape == (3, len(SIGNALS))
    assert matrix.dtype == np.float64
    assert np.isfinite(matrix).all()


def test_confidence_comes_first_since_the_gate_falls_back_on_it() -> None:
    assert next(iter(SIGNALS)) == "confidence"
    for rungs in (1, 2):
        for embedding in (False, True):
            assert signals_for(rungs=rungs, embedding=embedding)[0] == "confidence"


def test_a_student_gives_the_signals_that_it_can() -> None:
    around = {"neighbour_agreement", "neighbour_similarity", "distance", "excess_distance"}
    assert set(signals_for(rungs=2, embedding=True)) == set(SIGNALS)
    assert set(signals_for(rungs=2, embedding=False)) == set(SIGNALS) - around
    assert set(signals_for(rungs=1, embedding=True)) == set(SIGNALS) - {"agreement"}
    alone = _evidence(surroundings=None, parts=(), familiarity=_evidence().familiarity[:1])
    assert signal_matrix(alone, signals_for(rungs=1, embedding=False)).shape == (40, len(SIGNALS) - 5)


def test_the_columns_are_in_the_order_asked_for() -> None:
    e = _evidence()
    matrix = signal_matrix(e, ("length", "confidence"))
    assert matrix[:, 0] == pytest.approx(SIGNALS["length"](e))
    assert matrix[:, 1] == pytest.approx(SIGNALS["confidence"](e))
