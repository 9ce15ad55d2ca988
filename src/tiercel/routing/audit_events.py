"""What the record of audits says, event by event; the fold of all events of a workload is its monitor.

The order of the log is the order of the process. No event's meaning depends on a clock.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tiercel.routing.audits import AuditRule

__all__ = [
    "AnchorScored",
    "AnchorsFixed",
    "Drawn",
    "Event",
    "Feedback",
    "Opened",
    "Passed",
    "Resolved",
    "Subject",
    "Taken",
    "Verdict",
]

Subject = Literal["judge", "frontier"]


class Opened(Struct, frozen=True, kw_only=True, tag="epoch", tag_field="kind"):
    """An epoch begins: a policy goes live with its certificate, and everything that its audits need is fixed."""

    epoch: int
    """Number, one more than the last."""
    policy: str
    """Digest of the policy."""
    certificate: str
    """Digest of the certificate."""
    max_loss: float
    """The bound, epsilon."""
    rule: AuditRule
    """Probability of an audit."""
    key_commitment: str
    """Of the key of the draws."""
    budget: float
    """The workload's whole error budget; the same in all epochs."""
    certificate_delta: float
    """What the certificate spends of the budget."""
    broken_delta: float
    """Level of "broken"."""
    within_delta: float
    """Level of "within"."""
    gains: bool = False
    """Whether answers better than the frontier's count below 0 ("betting" certificates); else as 0."""
    restarts: int = 64
    """Audits after which the alarm puts in a further part of its stake."""
    segments: tuple[str, ...] = ()
    """Segments with bounds of their own; no other segment gets one in this epoch."""


class Passed(Struct, frozen=True, kw_only=True, tag="passed", tag_field="kind"):
    """Requests that are exact zeros: not accepted, or accepted and not drawn."""

    epoch: int
    """Whose policy decided."""
    refused: int
    """Requests that the frontier answered."""
    undrawn: int
    """Requests that the student answered, unaudited."""
    segments: dict[str, int] = {}
    """How many of both are in each segment."""
    listed: tuple[tuple[str, float], ...] = ()
    """Trace id and score of undrawn requests, where the log is to show that their draws said no; else empty."""


class Drawn(Struct, frozen=True, kw_only=True, tag="drawn", tag_field="kind"):
    """An accepted answer was drawn for an audit, whose result may come later or never."""

    epoch: int
    trace: str
    """The request's id."""
    score: float
    """The gate's; where the certificate is by segment, less the threshold of the request's segment."""
    propensity: float
    draw: float
    segments: tuple[str, ...] = ()
    """To which the request belongs."""
    by: str = ""
    """Which gateway is to ask the frontier, by the id of its presence; empty where that is not said."""


class Taken(Struct, frozen=True, kw_only=True, tag="taken", tag_field="kind"):
    """A gateway took up an audit without a result, because the one that had it is gone. It moves no process."""

    epoch: int
    trace: str
    by: str
    """Which gateway asks from now on."""
    of: str
    """Which one had it."""


class Resolved(Struct, frozen=True, kw_only=True, tag="resolved", tag_field="kind"):
    """The result of an audit, or that there is none to come."""

    epoch: int
    trace: str
    source: Literal["judge", "reference", "failed", "expired"]
    """"failed": the frontier or the judge did not answer; "expired": nothing came in time."""
    student_loss: float | None = None
    """In [0, 1]; None for failed and expired audits."""
    frontier_loss: float | None = None
    """In [0, 1]; 0 where its answer is the reference."""


class Feedback(Struct, frozen=True, kw_only=True, tag="feedback", tag_field="kind"):
    """What a person said of an answer."""

    epoch: int
    trace: str
    student_loss: float
    """In [0, 1]."""
    frontier_loss: float = 0.0
    """In [0, 1]."""


class AnchorsFixed(Struct, frozen=True, kw_only=True, tag="anchors", tag_field="kind"):
    """Rows with verified answers were chosen, on which a subject's error is known; what was scored before is put aside.

    No request is sent anywhere because of anchors, so they may be changed while an epoch lasts.
    """

    epoch: int
    subject: Subject
    digest: str
    """Of the rows."""
    rows: int
    """How many there are."""
    error: float
    """The subject's known mean loss on them, in [0, 1)."""
    tolerance: float = 0.02
    """Rise of that error that is no drift."""


class AnchorScored(Struct, frozen=True, kw_only=True, tag="anchor", tag_field="kind"):
    """An anchor, drawn by chance from the rows with verified answers, was scored again."""

    epoch: int
    trace: str
    """The anchor's id."""
    subject: Subject
    """Whose error it is."""
    error: float
    """Loss of its answer against the verified one, in [0, 1]."""


class Verdict(Struct, frozen=True, kw_only=True, tag="verdict", tag_field="kind"):
    """The state of a workload or segment changed."""

    epoch: int
    state: Literal["within", "unknown", "broken"]
    segment: str = ""
    """Empty for the whole workload."""
    reason: Literal["excess loss", "missing audits", "evidence", "evidence eroded"]
    """"missing audits": broken only when audits without a result count as losses."""

    @property
    def send_back(self) -> bool:
        """Whether the frontier has to answer from now on, until a new epoch begins."""
        return self.state == "broken"


Event = Opened | Passed | Drawn | Taken | Resolved | Feedback | AnchorsFixed | AnchorScored | Verdict
