"""From the signals of a student's answer to a decision: use it or escalate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.gate import LogisticGate

__all__ = ["Policy", "PolicyRecord", "limits_of", "within"]

_FAR = 1e30
"""Beyond every signal; JSON has no infinity."""


class PolicyRecord(Struct, frozen=True, kw_only=True):
    """A policy as it is stored; the student lies beside it."""

    signals: tuple[str, ...]
    gate: dict[str, Any]
    limits: dict[str, tuple[float, float]] = {}
    """Range of signals outside of which a request is like none of the gate's rows and is never answered."""
    threshold: float | None = None
    segment: str | None = None
    """What parts requests into segments with thresholds of their own, as `segment_of` reads it; None for one threshold
    for all."""
    thresholds: dict[str, float | None] = {}
    """Of each segment; None, and a segment that is not here, stay with the frontier."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the thresholds: what must be fixed before a certificate is issued."""
        bare = msgspec.structs.replace(self, threshold=None, thresholds={})
        content = msgspec.to_builtins(bare, order="deterministic")
        # Without what policies of one threshold did not have when the first bundles were written.
        del content["thresholds"]
        if self.segment is None:
            del content["segment"]
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()

    @property
    def certified(self) -> bool:
        """Whether the student may answer any request at all."""
        return self.threshold is not None or any(t is not None for t in self.thresholds.values())


def limits_of(signals: NDArray[np.float64], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """How strange a request may be: as strange as the strangest of the gate's rows, in each signal that tells.

    Without limits a gate of an easy workload, certified to let everything pass, would let gibberish pass too. One
    request in about n of those like the traffic falls outside each limit. A request of which the student did not read
    everything, whose familiarity is below 0, is outside whatever the gate's rows are like.

    Args:
        signals: of the gate's n rows, shape (n, s).
        names: of the s signals.
    """
    limits: dict[str, tuple[float, float]] = {}
    for column, name in zip(signals.T, names, strict=True):
        if name == "familiarity":
            limits[name] = (max(0.0, float(column.min())), _FAR)
        elif name == "neighbour_similarity":
            limits[name] = (float(column.min()), _FAR)
        elif name == "finished":
            limits[name] = (0.5, _FAR)
        elif name == "distance":
            limits[name] = (-_FAR, float(column.max()))
    return limits


def within(
    signals: NDArray[np.float64], names: Sequence[str], limits: Mapping[str, tuple[float, float]]
) -> NDArray[np.bool_]:
    """Which of n requests are within the limits, shape (n,); signals of shape (n, s), named by `names`."""
    fine = np.ones(len(signals), dtype=np.bool_)
    for name, (low, high) in limits.items():
        column = signals[:, names.index(name)]
        fine &= (column >= low) & (column <= high)
    return fine


class Policy:
    """A gate with its threshold.

    Args:
        record: as stored.

    Raises:
        ValueError: the gate is none, or its weights or limits are not of the policy's signals.
    """

    def __init__(self, record: PolicyRecord) -> None:
        self.record = record
        self._gate = LogisticGate.from_record(record.gate)
        known = set(record.signals)
        if len(known) != len(record.signals) or len(known) != len(self._gate.weights_):
            raise ValueError("its gate does not have one weight for each of its signals")
        if strange := sorted(record.limits.keys() - known):
            raise ValueError(f"it limits {', '.join(strange)}, which is no signal of it")

    def score(self, signals: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gate's score from signals of shape (n, s); 0 for a request outside the limits."""
        return np.where(within(signals, self.record.signals, self.record.limits), self._gate.score(signals), 0.0)

    def accepts(self, scores: NDArray[np.float64], segments: Sequence[str | None] = ()) -> NDArray[np.bool_]:
        """Which answers may be used, shape (n,); none without a certified threshold.

        Args:
            scores: of the gate, shape (n,).
            segments: of each request, for a policy with thresholds by segment; None where it is not known.
        """
        if self.record.segment is not None:
            known = [self.record.thresholds.get(name) if name is not None else None for name in segments]
            thresholds = np.array([np.inf if t is None else t for t in known], dtype=np.float64)
            return (scores >= thresholds) & (scores > 0)
        if self.record.threshold is None:
            return np.zeros(len(scores), dtype=np.bool_)
        return (scores >= self.record.threshold) & (scores > 0)
