"""Which accepted answers are audited: by chance, with a probability that is known, never zero, and can be recomputed.

A draw is a keyed hash of workload, epoch and trace id, so it needs no state, two gateways can't disagree on it, and who
has the epoch's key can repeat it. The key is secret while the epoch runs: nobody can tell beforehand what will be
audited. The probability uses plain arithmetic only, which gives the same bits on every machine.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from tiercel.errors import ConfigurationError, DataError

__all__ = [
    "AuditRule",
    "Draw",
    "draw_audit",
    "epoch_key",
    "excess_loss",
    "key_commitment",
    "plan_audits",
    "uniform_draw",
]

FLOOR_SHARE = 0.25
"""The smallest probability as a part of the budget, where none is given."""


class AuditRule(Struct, frozen=True, kw_only=True):
    """The probability of an audit by the gate's score: highest at the threshold, falling to a floor."""

    threshold: float
    """Scores at or above it are accepted; lower ones are never audited, because the frontier answers them."""
    width: float
    """Distance from the threshold at which the floor is reached; above 0."""
    floor: float
    """Smallest probability, in (0, 1]; weights are at most 1 / floor."""
    top: float
    """Probability at the threshold, in [floor, 1]."""

    def __post_init__(self) -> None:
        finite = math.isfinite(self.threshold) and math.isfinite(self.width)
        if not (finite and self.width > 0 and 0 < self.floor <= self.top <= 1):
            raise ConfigurationError(
                f"an audit rule from {self.floor} to {self.top} over a width of {self.width} is none; "
                "give 0 < floor <= top <= 1 and a width above 0"
            )

    def propensity(self, score: float) -> float:
        """Probability that the answer to a request of this score is audited.

        Raises:
            DataError: the score is below the threshold or no number.
        """
        if not score >= self.threshold:
            raise DataError(
                f"a score of {score} is below the threshold {self.threshold:g}: the frontier answers, "
                "and there is nothing to audit"
            )
        near = max(0.0, 1.0 - (score - self.threshold) / self.width)
        return min(self.top, max(self.floor, self.floor + (self.top - self.floor) * (near * near)))

    @property
    def largest_weight(self) -> float:
        """What an audit may count for at the most."""
        return 1.0 / self.floor


class Draw(Struct, frozen=True, kw_only=True):
    """The outcome of one draw."""

    propensity: float
    """Probability of an audit."""
    draw: float
    """Uniform on [0, 1), 53 bits."""

    @property
    def audited(self) -> bool:
        """Whether the frontier is asked too."""
        return self.draw < self.propensity


def plan_audits(scores: Sequence[float], threshold: float, *, share: float, floor: float | None = None) -> AuditRule:
    """A rule that audits a given share of the accepted answers, if their scores are like those given.

    Args:
        scores: of calibration rows, accepted or not.
        threshold: the policy's.
        share: audit budget: expected share of accepted answers that are audited, in (0, 1].
        floor: smallest probability; a quarter of the share where None.

    Raises:
        ConfigurationError: share or floor is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigurationError(f"an audit budget of {share} is no share of the accepted answers; give 0 < share <= 1")
    floor = share * FLOOR_SHARE if floor is None else floor
    if not 0 < floor <= share:
        raise ConfigurationError(f"an audit floor of {floor} does not fit a budget of {share}; give 0 < floor <= share")
    accepted = np.array([s for s in scores if s >= threshold], np.float64)
    distances = accepted - threshold
    width = float(np.median(distances)) if accepted.size else 0.0
    near = float((np.maximum(0.0, 1.0 - distances / width) ** 2).mean()) if width > 0 else 0.0
    if near <= 0:
        # All accepted scores equal, or none known: nothing tells near from far.
        return AuditRule(threshold=threshold, width=1.0, floor=share, top=share)
    top = floor + (share - floor) / near
    if top > 1.0:
        # The budget can't all be spent near the threshold; the rest raises the floor.
        top, floor = 1.0, (share - near) / (1.0 - near)
    return AuditRule(threshold=threshold, width=width, floor=floor, top=top)


def epoch_key(master: bytes, workload: str, epoch: int) -> bytes:
    """The key of an epoch's draws, 32 bytes; it can be shown to a verifier without the master key.

    Args:
        master: at least 16 secret bytes of the store (`audit_log.audit_key`).
        workload: name.
        epoch: number.
    """
    if len(master) < 16:
        raise ConfigurationError("the key of audit draws is shorter than 16 bytes; let the store make one")
    return hmac.digest(master, f"tiercel audits\n{epoch}\n{workload}".encode("utf-8", "surrogatepass"), "sha256")


def key_commitment(key: bytes) -> str:
    """What an epoch's record says of its key from the start, so that no other can be shown later."""
    return hashlib.sha256(b"tiercel audit key\n" + key).hexdigest()


def uniform_draw(key: bytes, trace: str) -> float:
    """The draw of a trace: uniform on [0, 1) for who does not know the key."""
    digest = hmac.digest(key, trace.encode("utf-8", "surrogatepass"), "sha256")
    return (int.from_bytes(digest[:7], "big") >> 3) / 2**53


def draw_audit(rule: AuditRule, key: bytes, trace: str, score: float) -> Draw:
    """Decide whether an accepted answer is audited.

    Args:
        rule: of the epoch.
        key: of the epoch.
        trace: the request's id, which the gateway drew by chance before it knew the answer.
        score: the gate's.

    Raises:
        DataError: the answer is not accepted at this score.
    """
    return Draw(propensity=rule.propensity(score), draw=uniform_draw(key, trace))


def excess_loss(student_loss: float, frontier_loss: float) -> float:
    """What using the student's answer cost on one request, in [-1, 1].

    Raises:
        DataError: a loss is outside [0, 1] or no number.
    """
    for name, loss in (("student", student_loss), ("frontier", frontier_loss)):
        if not 0 <= loss <= 1:
            raise DataError(f"a {name} loss of {loss} is outside [0, 1]; check how answers are compared")
    return student_loss - frontier_loss
