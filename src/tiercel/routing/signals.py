"""Signals of how safe it is to use a student's answer; a gate combines them.

Each is a function from `Evidence` to one number a request, higher or lower as it likes: the gate learns the direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.routing.neighbourhood import Neighbourhood, Surroundings

__all__ = ["SIGNALS", "Evidence", "evidence_of", "signal_matrix", "signals_for"]

Floats = NDArray[np.float32]

_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of n requests and the answers that a student gave.

    Attributes:
        probabilities: calibrated, shape (n, k).
        decided: labels of the answer, shape (n, k).
        multi: several labels a request.
        parts: probabilities of each rung by itself, shape (n, k) each.
        familiarity: of each rung, shape (n,) each.
        surroundings: place among the training rows; None where no rung has embeddings.
        lengths: words of each request, shape (n,).
        rates: share of the training rows that carry each label, shape (k,).
    """

    probabilities: Floats
    decided: NDArray[np.bool_]
    multi: bool
    parts: tuple[Floats, ...]
    familiarity: tuple[Floats, ...]
    surroundings: Surroundings | None
    lengths: Floats
    rates: Floats


def evidence_of(
    probabilities: Floats,
    parts: Sequence[Any],
    texts: Sequence[str],
    *,
    decided: NDArray[np.bool_],
    multi: bool,
    rates: Floats,
    neighbourhood: Neighbourhood | None,
) -> Evidence:
    """Gather what the signals need.

    Args:
        probabilities: blended, shape (n, k).
        parts: the `Prediction` of each rung.
        texts: n requests as the student reads them.
        decided: labels of the answers, shape (n, k).
        multi: several labels a request.
        rates: share of the training rows that carry each label, shape (k,).
        neighbourhood: for a rung with embeddings.
    """
    embedding = next((p.embedding for p in parts if p.embedding is not None), None)
    around = neighbourhood.look(embedding, decided) if neighbourhood is not None and embedding is not None else None
    return Evidence(
        probabilities=probabilities,
        decided=decided,
        multi=multi,
        parts=tuple(p.probabilities for p in parts),
        familiarity=tuple(p.familiarity for p in parts),
        surroundings=around,
        lengths=np.array([len(t.split()) for t in texts], dtype=np.float32),
        rates=rates,
    )


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p)


def _of_decision(probabilities: Floats, decided: NDArray[np.bool_], multi: bool) -> Floats:
    """Probability that the whole decision is right: of the label, or of every label's presence and absence."""
    if multi:
        return np.where(decided, probabilities, 1 - probabilities).prod(axis=1)
    return (probabilities * decided).sum(axis=1)


def confidence(e: Evidence) -> Floats:
    """Log odds of the decision."""
    return _log_odds(_of_decision(e.probabilities, e.decided, e.multi))


def margin(e: Evidence) -> Floats:
    """Log ratio of the two best labels; with several labels the log odds of the most doubtful one."""
    if e.multi:
        return np.abs(_log_odds(e.probabilities)).min(axis=1)
    if e.probabilities.shape[1] < 2:
        return np.zeros(len(e.probabilities), np.float32)
    best = np.partition(e.probabilities, -2, axis=1)[:, -2:]
    return np.log(best[:, 1] + _TINY) - np.log(best[:, 0] + _TINY)


def entropy(e: Evidence) -> Floats:
    """Entropy of the labels in nats."""
    p = np.clip(e.probabilities, _TINY, 1)
    total = -(p * np.log(p)).sum(axis=1)
    if e.multi:
        q = np.clip(1 - e.probabilities, _TINY, 1)
        total = total - (q * np.log(q)).sum(axis=1)
    return total


def agreement(e: Evidence) -> Floats:
    """Log odds that the least convinced rung gives to the decision."""
    return np.min([_log_odds(_of_decision(p, e.decided, e.multi)) for p in e.parts], axis=0)


def familiarity(e: Evidence) -> Floats:
    """Share of the request that the least able rung knows; below 0 where one did not read all of it."""
    return np.min(e.familiarity, axis=0)


def length(e: Evidence) -> Floats:
    """Logarithm of the number of words."""
    return np.log1p(e.lengths)


def label_rate(e: Evidence) -> Floats:
    """Logarithm of how common the rarest decided label is in training."""
    rates = np.where(e.decided, np.log(e.rates + 1e-4), np.inf).min(axis=1)
    return np.where(np.isfinite(rates), rates, 0.0)


def _around(name: str) -> Callable[[Evidence], Floats]:
    def signal(e: Evidence) -> Floats:
        return getattr(e.surroundings, name)

    return signal


SIGNALS: dict[str, Callable[[Evidence], Floats]] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "agreement": agreement,
    "familiarity": familiarity,
    "length": length,
    "label_rate": label_rate,
    "neighbour_agreement": _around("agreement"),
    "neighbour_similarity": _around("similarity"),
    "distance": _around("distance"),
    "excess_distance": _around("excess_distance"),
}
"""Signals by name. The last four need a rung with embeddings, `agreement` needs two rungs."""

_NEED_EMBEDDING = frozenset({"neighbour_agreement", "neighbour_similarity", "distance", "excess_distance"})


def signals_for(*, rungs: int, embedding: bool) -> tuple[str, ...]:
    """Names of the signals that a student of so many rungs, with or without embeddings, can give."""
    return tuple(
        name for name in SIGNALS if (embedding or name not in _NEED_EMBEDDING) and (rungs > 1 or name != "agreement")
    )


def signal_matrix(evidence: Evidence, names: tuple[str, ...]) -> NDArray[np.float64]:
    """One column a signal, shape (n, s)."""
    return np.column_stack([np.asarray(SIGNALS[name](evidence), dtype=np.float64) for name in names])
