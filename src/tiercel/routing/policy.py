"""From a student's prediction to a decision: answer or escalate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.gate import LogisticGate
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.routing.signals import Evidence, signal_matrix

__all__ = ["Policy", "PolicyRecord", "evidence_of", "limits_of"]

Floats = NDArray[np.float32]

_FAR = 1e30
"""Beyond every signal; JSON has no infinity."""


class PolicyRecord(Struct, frozen=True, kw_only=True):
    """A policy as it is stored; weights and neighbourhood lie beside it."""

    powers: tuple[float, ...]
    signals: tuple[str, ...]
    gate: dict[str, Any]
    rates: tuple[float, ...]
    """Share of the training rows that carry each label."""
    limits: dict[str, tuple[float, float]] = {}
    """Range of signals outside of which a request is like none of the gate's rows and is never answered."""
    threshold: float | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the threshold: what must be fixed before a certificate is issued."""
        bare = msgspec.structs.replace(self, threshold=None)
        return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def limits_of(signals: NDArray[np.float64], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """How strange a request may be: as strange as the strangest of the gate's rows, in each signal that tells.

    Without limits a gate of an easy workload, certified to let everything pass, would let gibberish pass too. One
    request in about n of those like the traffic falls outside each limit.

    Args:
        signals: of the gate's n rows, shape (n, s).
        names: of the s signals.
    """
    limits: dict[str, tuple[float, float]] = {}
    for column, name in zip(signals.T, names, strict=True):
        if name in ("familiarity", "neighbour_similarity"):
            limits[name] = (float(column.min()), _FAR)
        elif name == "distance":
            limits[name] = (-_FAR, float(column.max()))
    return limits


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


class Policy:
    """A gate with its threshold.

    Args:
        record: as stored.
        neighbourhood: for a rung with embeddings.
        multi: several labels a request.
    """

    def __init__(self, record: PolicyRecord, neighbourhood: Neighbourhood | None, *, multi: bool) -> None:
        self.record = record
        self.neighbourhood = neighbourhood
        self.multi = multi
        self._gate = LogisticGate.from_record(record.gate)
        self._rates = np.array(record.rates, dtype=np.float32)

    def scores(
        self, probabilities: Floats, parts: Sequence[Any], texts: Sequence[str], decided: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The gate's score of each request, shape (n,); arguments as for `evidence_of`."""
        evidence = evidence_of(
            probabilities,
            parts,
            texts,
            decided=decided,
            multi=self.multi,
            rates=self._rates,
            neighbourhood=self.neighbourhood,
        )
        return self.score(signal_matrix(evidence, self.record.signals))

    def score(self, signals: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gate's score from signals of shape (n, s); 0 for a request outside the limits."""
        scores = self._gate.score(signals)
        for name, (low, high) in self.record.limits.items():
            column = signals[:, self.record.signals.index(name)]
            scores = np.where((column < low) | (column > high), 0.0, scores)
        return scores

    def accepts(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which answers may be used, shape (n,); none without a certified threshold."""
        if self.record.threshold is None:
            return np.zeros(len(scores), dtype=np.bool_)
        return (scores >= self.record.threshold) & (scores > 0)
