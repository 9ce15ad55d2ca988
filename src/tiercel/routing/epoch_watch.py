"""One epoch's audits in the order in which they were drawn, whenever their results come.

The processes advance up to the first audit that has no result yet. The e-values up to there do not depend on when
results come or in which order, so results that come late because they are bad, or good, can't mislead.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from msgspec import Struct

from tiercel.errors import DataError
from tiercel.routing.attribution import Anchors, AnchorsState, Cause, attribute
from tiercel.routing.audit_events import (
    AnchorScored,
    AnchorsFixed,
    Drawn,
    Feedback,
    Opened,
    Passed,
    Resolved,
    Taken,
    Verdict,
)
from tiercel.routing.audits import excess_loss
from tiercel.routing.evidence import EValues, Evidence, EvidenceState

__all__ = ["Audit", "Counts", "EpochState", "EpochWatch", "Note", "UnderWay", "Zeros"]


class Note(StrEnum):
    """What became of an event."""

    COUNTED = "counted"
    """It is part of the process, or will be when the audits before it have results."""
    REPLACED = "replaced"
    """A person's word took the place of a judge's before it was booked."""
    ALREADY_JUDGED = "already judged"
    """The audit has a result, which stays; this one is recorded and counted apart."""
    NOT_AUDITED = "not audited"
    """No audit of this request was drawn; recorded and counted apart."""
    RECORDED = "recorded"
    """It moves no process of the student's."""


class Zeros(Struct, kw_only=True):
    """Requests in the queue that cost nothing."""

    count: int
    segments: dict[str, int]


class Audit(Struct, kw_only=True):
    """A drawn audit."""

    propensity: float
    segments: tuple[str, ...]
    created: float
    """When it was drawn or last taken up, Unix time; for time-outs alone."""
    by: str = ""
    """Which gateway asks the frontier."""
    known: bool = False
    """Whether it has a result, be it that there is none to come."""
    excess: float | None = None
    """None where there is no result."""
    by_person: bool = False
    booked: bool = False


class UnderWay(Struct, frozen=True, kw_only=True):
    """A drawn audit without a result."""

    epoch: int
    trace: str
    by: str
    """Which gateway asks the frontier; empty where that is not known."""


class Counts(Struct, kw_only=True):
    """What happened in an epoch."""

    refused: int = 0
    """Requests that the frontier answered."""
    undrawn: int = 0
    """Requests that the student answered, unaudited."""
    drawn: int = 0
    """Requests that the student answered, drawn for an audit."""
    judged: int = 0
    """Audits with a result of a judge, a reference or a person."""
    failed: int = 0
    """Audits whose frontier or judge did not answer; they count as losses."""
    expired: int = 0
    """Audits without a result in time; they count as losses."""
    taken_up: int = 0
    """Audits that a gateway took up from one that is gone, each time it happened."""
    booked: int = 0
    """Audits that the processes have seen."""
    replaced: int = 0
    """Results that a person replaced before they were booked."""
    already_judged: int = 0
    """Results and feedback that came after another result was booked, or after a first result of a judge."""
    contradicted: int = 0
    """Of these, feedback that differs from what was booked."""
    unaudited_feedback: int = 0
    """Feedback on requests that were not audited; self-selected, so it never enters a process."""


class EpochState(Struct, frozen=True, kw_only=True):
    """All that an epoch remembers."""

    opened: Opened
    evidence: dict[str, EvidenceState]
    anchors: dict[str, AnchorsState]
    fixed: dict[str, AnchorsFixed]
    audits: dict[str, Audit]
    queue: list[Zeros | str]
    counts: Counts


class EpochWatch:
    """The processes of one epoch.

    Args:
        opened: what was fixed when it began.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.counts = Counts()
        self.evidence = {"": self._evidence("")} | {name: self._evidence(name) for name in opened.segments}
        """By segment; "" is the whole workload."""
        self.anchors: dict[str, Anchors] = {}
        """By subject, "judge" and "frontier"; one without anchors is not here."""
        self.fixed: dict[str, AnchorsFixed] = {}
        """The rows behind each of them."""
        self._audits: dict[str, Audit] = {}
        self._open: dict[str, None] = {}
        self._queue: deque[Zeros | str] = deque()
        self._moved: dict[str, None] = {}

    def _evidence(self, segment: str) -> Evidence:
        opened = self.opened
        # Half of each level is the workload's, the segments share the rest evenly (Bonferroni).
        share = 1.0 if not opened.segments else 0.5 if segment == "" else 0.5 / len(opened.segments)
        return Evidence(
            max_loss=opened.max_loss,
            largest_weight=opened.rule.largest_weight,
            gains=opened.gains,
            restarts=opened.restarts,
            broken_delta=opened.broken_delta * share,
            within_delta=opened.within_delta * share,
        )

    def passed(self, event: Passed) -> tuple[Note, list[Verdict]]:
        """Book requests that cost nothing.

        Raises:
            DataError: a count is below 0, or a segment has more requests than there are.
        """
        total = event.refused + event.undrawn
        counts = [event.refused, event.undrawn, *event.segments.values()]
        if min(counts) < 0 or max(counts) > total or "" in event.segments:
            raise DataError(
                f"counts of requests that can't be: {event.refused} refused, {event.undrawn} undrawn, "
                f"segments {event.segments}; count each request once"
            )
        if len(event.listed) > event.undrawn:
            raise DataError(
                f"{len(event.listed)} undrawn requests are listed of {event.undrawn}; count each request once"
            )
        for _, score in event.listed:
            self.opened.rule.propensity(score)
        self.counts.refused += event.refused
        self.counts.undrawn += event.undrawn
        self._queue.append(Zeros(count=total, segments=dict(event.segments)))
        return Note.COUNTED, self._advance()

    def drawn(self, event: Drawn, created: float) -> tuple[Note, list[Verdict]]:
        """Queue an audit.

        Raises:
            DataError: it was drawn already, or its numbers are not what the epoch's rule gives.
        """
        if event.trace in self._audits:
            raise DataError(f"an audit of {event.trace} was drawn already; write each draw once")
        if not 0 < event.propensity <= 1:
            raise DataError(
                f"a propensity of {event.propensity} is outside (0, 1]; take it from the epoch's audit rule"
            )
        expected = self.opened.rule.propensity(event.score)
        if event.propensity != expected:
            raise DataError(
                f"the audit of {event.trace} has a propensity of {event.propensity}, where the rule of epoch "
                f"{self.opened.epoch} gives {expected}; decide by the rule of the epoch that the request belongs to"
            )
        if not 0 <= event.draw < event.propensity:
            raise DataError(f"the draw {event.draw} of {event.trace} asks for no audit; count the request as passed")
        segments = tuple(dict.fromkeys(s for s in event.segments if s))
        self._audits[event.trace] = Audit(propensity=event.propensity, segments=segments, created=created, by=event.by)
        self._open[event.trace] = None
        self._queue.append(event.trace)
        self.counts.drawn += 1
        return Note.COUNTED, []

    def taken(self, event: Taken, created: float) -> tuple[Note, list[Verdict]]:
        """Give an audit to another gateway.

        Raises:
            DataError: it was never drawn, has a result, or is another gateway's by now.
        """
        audit = self._audits.get(event.trace)
        if audit is None or audit.known:
            raise DataError(f"the audit of {event.trace} waits for no result in epoch {self.opened.epoch}; leave it")
        if audit.by != event.of or event.by == event.of:
            raise DataError(f"the audit of {event.trace} is another gateway's by now; leave it to that one")
        audit.by, audit.created = event.by, created
        self.counts.taken_up += 1
        return Note.RECORDED, []

    def resolved(self, event: Resolved) -> tuple[Note, list[Verdict]]:
        """Take the result of an audit; the first one stays, but for a failure that is mended before it is booked.

        Raises:
            DataError: the audit was never drawn, or its losses are missing, surplus or out of range.
        """
        audit = self._audits.get(event.trace)
        if audit is None:
            raise DataError(f"no audit of {event.trace} was drawn in epoch {self.opened.epoch}; write the draw first")
        missing = event.source in ("failed", "expired")
        if missing != (event.student_loss is None) or missing != (event.frontier_loss is None):
            raise DataError(
                f"the result of {event.trace} is {event.source} and has "
                f"{'losses' if missing else 'not both losses'}; give losses exactly where there are some"
            )
        excess = None
        if event.student_loss is not None and event.frontier_loss is not None:
            excess = excess_loss(event.student_loss, event.frontier_loss)
        if audit.booked or (audit.known and (missing or audit.excess is not None)):
            self.counts.already_judged += 1
            return Note.ALREADY_JUDGED, []
        audit.known, audit.excess = True, excess
        self._open.pop(event.trace, None)
        self.counts.judged += not missing
        self.counts.failed += event.source == "failed"
        self.counts.expired += event.source == "expired"
        return Note.COUNTED, self._advance()

    def feedback(self, event: Feedback) -> tuple[Note, list[Verdict]]:
        """Take a person's word: before the audit is booked it is its result, afterwards it is counted apart.

        Raises:
            DataError: a loss is out of range.
        """
        excess = excess_loss(event.student_loss, event.frontier_loss)
        audit = self._audits.get(event.trace)
        if audit is None:
            self.counts.unaudited_feedback += 1
            return Note.NOT_AUDITED, []
        if audit.booked:
            self.counts.already_judged += 1
            self.counts.contradicted += excess != audit.excess
            return Note.ALREADY_JUDGED, []
        note = Note.REPLACED if audit.known else Note.COUNTED
        self.counts.replaced += audit.known
        self.counts.judged += audit.excess is None
        audit.known, audit.excess, audit.by_person = True, excess, True
        self._open.pop(event.trace, None)
        return note, self._advance()

    def fix_anchors(self, event: AnchorsFixed) -> tuple[Note, list[Verdict]]:
        """Begin to score a subject on these rows.

        Raises:
            DataError: its error leaves no room for a drift to be seen.
        """
        shift = max(2 * event.tolerance, self.opened.max_loss)
        self.anchors[event.subject] = Anchors(event.error, event.tolerance, shift)
        self.fixed[event.subject] = event
        return Note.RECORDED, []

    def scored(self, event: AnchorScored) -> tuple[Note, list[Verdict]]:
        """Book an anchor.

        Raises:
            DataError: the epoch has no anchors of this subject, or the error is out of range.
        """
        anchors = self.anchors.get(event.subject)
        if anchors is None:
            raise DataError(
                f"epoch {self.opened.epoch} knows no error of the {event.subject} on anchors; fix the anchors first"
            )
        anchors.score(event.error)
        return Note.RECORDED, []

    def unresolved(self, before: float) -> list[str]:
        """Traces whose audits were drawn before a Unix time and have no result, in the order of the draws."""
        return [trace for trace in self._open if self._audits[trace].created < before]

    def under_way(self) -> list[UnderWay]:
        """Audits without a result, in the order of the draws."""
        return [UnderWay(epoch=self.opened.epoch, trace=t, by=self._audits[t].by) for t in self._open]

    def has_drawn(self, trace: str) -> bool:
        """Whether an audit of this request was drawn."""
        return trace in self._audits

    @property
    def waiting(self) -> int:
        """Audits that are drawn and not booked."""
        return self.counts.drawn - self.counts.booked

    @property
    def cause(self) -> Cause:
        """Whose a risen loss is."""
        return attribute(any(e.standing == "broken" for e in self.evidence.values()), dict(self.anchors))

    def take_moved(self) -> dict[str, EValues]:
        """E-values, as they are now, of the segments whose processes moved since the last call."""
        moved, self._moved = self._moved, {}
        return {segment: self.evidence[segment].evalues for segment in moved}

    def _advance(self) -> list[Verdict]:
        verdicts = list[Verdict]()
        while self._queue:
            head = self._queue[0]
            if isinstance(head, Zeros):
                counts = {"": head.count, **head.segments}
                booking: dict[str, int | Audit] = {
                    s: count for s, count in counts.items() if count and s in self.evidence
                }
            else:
                audit = self._audits[head]
                if not audit.known:
                    break
                audit.booked = True
                self.counts.booked += 1
                booking = {s: audit for s in ("", *audit.segments) if s in self.evidence}
            self._queue.popleft()
            for segment, what in booking.items():
                if isinstance(what, Audit):
                    self.evidence[segment].book_audit(what.propensity, what.excess)
                else:
                    self.evidence[segment].book_zeros(what)
                self._moved[segment] = None
                verdicts += self._verdict(segment)
        return verdicts

    def _verdict(self, segment: str) -> list[Verdict]:
        evidence = self.evidence[segment]
        before = evidence.standing
        standing = evidence.judged()
        if standing == before:
            return []
        if standing == "broken":
            for anchors in self.anchors.values():
                anchors.begin_trial()
            reason = "excess loss" if evidence.proven else "missing audits"
        else:
            reason = "evidence" if standing == "within" else "evidence eroded"
        return [Verdict(epoch=self.opened.epoch, state=standing, segment=segment, reason=reason)]

    def state(self) -> EpochState:
        """What `resume` needs to go on."""
        return EpochState(
            opened=self.opened,
            evidence={segment: evidence.state() for segment, evidence in self.evidence.items()},
            anchors={subject: anchors.state() for subject, anchors in self.anchors.items()},
            fixed=self.fixed,
            audits=self._audits,
            queue=list(self._queue),
            counts=self.counts,
        )

    @classmethod
    def resume(cls, state: EpochState) -> EpochWatch:
        """The epoch as it was when `state` was taken and written down."""
        watch = cls(state.opened)
        for segment, evidence in state.evidence.items():
            watch.evidence[segment].resume(evidence)
        for subject, anchors in state.anchors.items():
            watch.fix_anchors(state.fixed[subject])
            watch.anchors[subject].resume(anchors)
        watch._open = {trace: None for trace, audit in state.audits.items() if not audit.known}
        watch._audits, watch._queue, watch.counts = state.audits, deque(state.queue), state.counts
        return watch
