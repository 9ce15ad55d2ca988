"""The monitor of one workload: is the excess loss still within the bound, may be asked at every look.

It is the fold of the workload's events in the order of the log. Each policy has an epoch of its own, with its own share
of one error budget; what comes late counts to the epoch that it belongs to. See design/monitoring.md.
"""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct

from tiercel.errors import DataError
from tiercel.routing.attribution import Cause
from tiercel.routing.audit_events import (
    AnchorScored,
    AnchorsFixed,
    Drawn,
    Event,
    Feedback,
    Opened,
    Passed,
    Resolved,
    Taken,
    Verdict,
)
from tiercel.routing.epoch_watch import Counts, EpochState, EpochWatch, Note, UnderWay
from tiercel.routing.error_budget import ErrorBudget
from tiercel.routing.evidence import EValues, Standing
from tiercel.routing.input_drift import DriftStatus
from tiercel.stats.intervals import Interval

__all__ = ["Monitor", "MonitorState", "MonitorStatus", "Outcome", "SegmentStatus"]

DAY_S = 86_400.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What an event did."""

    note: Note
    evalues: dict[str, EValues]
    """After the event, of segments whose processes it moved; "" is the whole workload."""
    verdicts: tuple[Verdict, ...] = ()
    """Changes of state, in order."""
    cause: Cause | None = None
    """Whose a risen loss is now, where the event changed that."""


class SegmentStatus(Struct, frozen=True, kw_only=True):
    """One segment, or the whole workload."""

    standing: Standing
    excess_loss: Interval
    """Estimate and confidence sequence."""
    log10_broken: float
    """Of the e-value against "at most the bound"."""
    log10_within: float
    """Of the e-value against "at least the bound"."""
    requests_to_within: float | None
    """Requests until "within" is reached, if all goes on as it was; None where it will not be."""


class MonitorStatus(Struct, frozen=True, kw_only=True):
    """A workload's state, as a dashboard shows it."""

    workload: str
    epoch: int
    standing: Standing
    send_back: bool
    """Whether the frontier has to answer all of the workload."""
    segments_sent_back: tuple[str, ...]
    """Segments that the frontier has to answer."""
    cause: Cause
    """Whose a risen loss is."""
    max_loss: float
    requests: int
    """Of the epoch, as far as the log knows them."""
    offload: float | None
    """Share of them that the student answered; None before the first."""
    audited_share: float | None
    """Share of the student's answers that were drawn for an audit."""
    waiting: int
    """Audits drawn and not booked."""
    counts: Counts
    whole: SegmentStatus
    segments: dict[str, SegmentStatus]
    judge_log10: float | None
    """Of the e-value against "the judge's error has not risen"; None without anchors."""
    frontier_log10: float | None
    budget: ErrorBudget
    budget_left: float
    days_to_within: float | None
    """At the epoch's rate of requests; None where that is unknown or it will not be."""
    days_to_tighter: float | None
    """Until the sequence's upper end is halfway to the estimate."""
    input_drift: DriftStatus | None = None
    """Whether requests have changed, as `drift_book` keeps it; None where they are not compared."""


class MonitorState(Struct, frozen=True, kw_only=True):
    """All that a monitor remembers; JSON keeps it to the last bit."""

    workload: str
    budget: ErrorBudget | None
    epochs: list[EpochState]
    since: float
    until: float


class Monitor:
    """One workload's monitor.

    Args:
        workload: its name.
    """

    def __init__(self, workload: str) -> None:
        self.workload = workload
        self.budget: ErrorBudget | None = None
        """None before the first epoch."""
        self._epochs: dict[int, EpochWatch] = {}
        self._since, self._until = math.inf, -math.inf

    @property
    def epoch(self) -> int:
        """Number of the current epoch; 0 before the first."""
        return max(self._epochs, default=0)

    @property
    def current(self) -> EpochWatch | None:
        """The current epoch; None before the first."""
        return self._epochs.get(self.epoch)

    def sends_back(self, segments: tuple[str, ...] = (), *, epoch: int | None = None) -> bool:
        """Whether the frontier has to answer requests of these segments: a bound is broken, or none is certified.

        Args:
            segments: to which they belong.
            epoch: whose policy would answer; the current one where None.
        """
        watch = self.current if epoch is None else self._epochs.get(epoch)
        if watch is None:
            return True
        concerned = [watch.evidence[s] for s in ("", *segments) if s in watch.evidence]
        return any(evidence.standing == "broken" for evidence in concerned)

    def of_epoch(self, epoch: int) -> EpochWatch | None:
        """The processes of an epoch; None where there is none."""
        return self._epochs.get(epoch)

    def epoch_of(self, trace: str) -> int | None:
        """The epoch in which an audit of a request was drawn; None where there was none."""
        return next((number for number, watch in self._epochs.items() if watch.has_drawn(trace)), None)

    def apply(self, event: Event, *, created: float = 0.0) -> Outcome:
        """Take the next event of the log.

        Args:
            event: of this workload.
            created: Unix time at which it was written, for rates and time-outs alone; it may run backwards.

        Raises:
            DataError: the event contradicts what came before it or itself; nothing was changed.
        """
        if not math.isfinite(created):
            created = self._until if math.isfinite(self._until) else 0.0
        if isinstance(event, Opened):
            return self._open(event, created)
        watch = self._epochs.get(event.epoch)
        if watch is None:
            raise DataError(
                f"the workload {self.workload} has no epoch {event.epoch}, its last is {self.epoch}; open it first"
            )
        before = watch.cause
        match event:
            case Passed():
                note, verdicts = watch.passed(event)
            case Drawn():
                note, verdicts = watch.drawn(event, created)
            case Taken():
                note, verdicts = watch.taken(event, created)
            case Resolved():
                note, verdicts = watch.resolved(event)
            case Feedback():
                note, verdicts = watch.feedback(event)
            case AnchorsFixed():
                note, verdicts = watch.fix_anchors(event)
            case AnchorScored():
                note, verdicts = watch.scored(event)
            case Verdict():
                note, verdicts = Note.RECORDED, []
        if event.epoch == self.epoch:
            self._since, self._until = min(self._since, created), max(self._until, created)
        cause = watch.cause
        return Outcome(
            note=note,
            evalues=watch.take_moved(),
            verdicts=tuple(verdicts),
            cause=cause if cause != before else None,
        )

    def _open(self, event: Opened, created: float) -> Outcome:
        if event.epoch != self.epoch + 1:
            raise DataError(
                f"epoch {event.epoch} can't follow epoch {self.epoch} of {self.workload}; number it {self.epoch + 1}"
            )
        if not 0 < event.max_loss < 1:
            raise DataError(f"a bound of {event.max_loss} is outside (0, 1); take it from the certificate")
        if len(set(event.segments)) != len(event.segments) or "" in event.segments:
            raise DataError(f"the segments {event.segments} are not distinct names; name each once")
        budget = self.budget or ErrorBudget(total=event.budget)
        if budget.total != event.budget:
            raise DataError(
                f"the error budget of {self.workload} is {budget.total} for all of its epochs, not {event.budget}; "
                "a larger one would undo what was claimed"
            )
        budget = budget.spend(
            event.epoch,
            certificate=event.certificate_delta,
            broken=event.broken_delta,
            within=event.within_delta,
        )
        watch = EpochWatch(event)
        self.budget, self._epochs[event.epoch] = budget, watch
        self._since = self._until = created
        return Outcome(note=Note.RECORDED, evalues={})

    def unresolved(self, before: float) -> list[tuple[int, str]]:
        """Epoch and trace of audits that were drawn before a Unix time and have no result.

        The gateway writes each of them down as `expired`; a clock that jumped can only make that early or late, and
        an expired audit counts as a loss.
        """
        return [(number, trace) for number, watch in self._epochs.items() for trace in watch.unresolved(before)]

    def under_way(self) -> list[UnderWay]:
        """Audits of all epochs without a result, in the order of the draws."""
        return [audit for watch in self._epochs.values() for audit in watch.under_way()]

    def status(self, *, confidence: float = 0.95) -> MonitorStatus:
        """How it stands.

        Args:
            confidence: of the confidence sequences that are shown; they are not part of the error budget.

        Raises:
            DataError: no epoch was opened.
        """
        watch, budget = self.current, self.budget
        if watch is None or budget is None:
            raise DataError(f"the workload {self.workload} has no epoch; promote a bundle with a certificate first")
        counts = watch.counts
        accepted = counts.undrawn + counts.drawn
        requests = accepted + counts.refused
        segments = {name: _segment(watch, name, confidence) for name in watch.evidence}
        whole = segments.pop("")
        days = (self._until - self._since) / DAY_S
        rate = requests / days if days > 0 else 0.0
        estimate = whole.excess_loss
        tighter = watch.evidence[""].requests_until((max(estimate.value, 0) + estimate.high) / 2, confidence)
        judge, frontier = watch.anchors.get("judge"), watch.anchors.get("frontier")
        return MonitorStatus(
            workload=self.workload,
            epoch=self.epoch,
            standing=whole.standing,
            send_back=whole.standing == "broken",
            segments_sent_back=tuple(name for name, s in segments.items() if s.standing == "broken"),
            cause=watch.cause,
            max_loss=watch.opened.max_loss,
            requests=requests,
            offload=accepted / requests if requests else None,
            audited_share=counts.drawn / accepted if accepted else None,
            waiting=watch.waiting,
            counts=msgspec.structs.replace(counts),
            whole=whole,
            segments=segments,
            judge_log10=judge.evalue.log / math.log(10) if judge else None,
            frontier_log10=frontier.evalue.log / math.log(10) if frontier else None,
            budget=budget,
            budget_left=budget.left,
            days_to_within=_days(whole.requests_to_within, rate),
            days_to_tighter=_days(tighter, rate),
        )

    def state(self) -> MonitorState:
        """What `resume` needs to go on; write it down at once, it shares parts with the monitor."""
        return MonitorState(
            workload=self.workload,
            budget=self.budget,
            epochs=[watch.state() for watch in self._epochs.values()],
            since=self._since if math.isfinite(self._since) else 0.0,
            until=self._until if math.isfinite(self._until) else 0.0,
        )

    def encode(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self.state())

    @classmethod
    def decode(cls, data: bytes) -> Monitor:
        """The monitor of which `encode` gave this; what comes next gives the same e-values to the last bit.

        Raises:
            DataError: the bytes are no monitor's state.
        """
        try:
            state = msgspec.json.decode(data, type=MonitorState)
        except (msgspec.MsgspecError, ValueError) as error:
            raise DataError(
                f"a stored monitor can't be read ({error}); delete it, it is made again from the log"
            ) from None
        monitor = cls(state.workload)
        monitor.budget = state.budget
        monitor._epochs = {epoch.opened.epoch: EpochWatch.resume(epoch) for epoch in state.epochs}
        if state.epochs:
            monitor._since, monitor._until = state.since, state.until
        return monitor


def _segment(watch: EpochWatch, name: str, confidence: float) -> SegmentStatus:
    evidence = watch.evidence[name]
    evalues = evidence.evalues
    requests = evidence.requests_until_within()
    return SegmentStatus(
        standing=evidence.standing,
        excess_loss=evidence.interval(confidence),
        log10_broken=evalues.broken.log / math.log(10),
        log10_within=evalues.within.log / math.log(10),
        requests_to_within=requests if math.isfinite(requests) else None,
    )


def _days(requests: float | None, per_day: float) -> float | None:
    return requests / per_day if requests is not None and math.isfinite(requests) and per_day > 0 else None
