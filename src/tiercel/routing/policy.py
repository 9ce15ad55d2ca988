"""From the signals of a student's answer to a decision: use it or escalate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.gate import LogisticGate

__all__ = ["Policy", "PolicyRecord", "limits_of"]

_FAR = 1e30
"""Beyond every signal; JSON has no infinity."""


class PolicyRecord(Struct, frozen=True, kw_only=True):
    """A policy as it is stored; the student lies beside it."""

    signals: tuple[str, ...]
    gate: dict[str, Any]
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
        elif name == "finished":
            limits[name] = (0.5, _FAR)
        elif name == "distance":
            limits[name] = (-_FAR, float(column.max()))
    return limits


class Policy:
    """A gate with its threshold.

    Args:
        record: as stored.
    """

    def __init__(self, record: PolicyRecord) -> None:
        self.record = record
        self._gate = LogisticGate.from_record(record.gate)

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
