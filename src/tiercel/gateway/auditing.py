"""The certificate goes on: accepted answers are audited by chance, and a broken bound sends its workload back.

Whether an answer is audited is drawn in the recorder's thread and written down before the frontier is asked; the
answers are compared as the pilot compared them. All gateways of a store write one record and read each other's
verdicts. The mathematics is loaded once a workload is monitored.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tiercel.errors import CertificateError, DataError
from tiercel.gateway.alarms import Alarms
from tiercel.gateway.audit_work import Audit, AuditWork
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.own_requests import answer_of
from tiercel.gateway.state import State
from tiercel.gateway.workloads import Workload
from tiercel.store.database import Database

if TYPE_CHECKING:
    from tiercel.gateway.anchoring import Anchoring
    from tiercel.gateway.drifting import Drifting
    from tiercel.gateway.epochs import Monitored
    from tiercel.gateway.feedback import FeedbackRequest
    from tiercel.routing.audit_batch import AuditBatch
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.audit_events import Event
    from tiercel.routing.monitor import MonitorStatus, Outcome
    from tiercel.store.keys import VirtualKey

__all__ = ["Auditor"]

Json = dict[str, Any]

EVERY_S = 1.0
"""Seconds between two writes to the record."""

_log = logging.getLogger("tiercel.gateway")


class Auditor:
    """Draws, writes down, and knows which workloads and segments are sent back.

    Args:
        database: of the record.
        metrics: count audits.
        state: the configuration.
        record: takes the exchanges of audits and anchors for the ledger.
    """

    def __init__(self, database: Database, metrics: Metrics, state: State, record: Callable[[Exchange], None]) -> None:
        self._database = database
        self._opened: AuditBook | None = None
        self._metrics = metrics
        self._clock: asyncio.Task[None] | None = None
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._batches: dict[str, AuditBatch] = {}
        self._unwritten: dict[str, list[Event]] = {}
        self._drawn: list[Audit] = []
        self._held: list[Audit] = []
        self._state = state
        self._monitored: dict[str, Monitored] = {}
        self._refused: set[str] = set()
        self._tampered = False
        self._trouble = ""
        self._sent_back: frozenset[tuple[str, str | None]] = frozenset()
        self._gauged: set[tuple[str, str]] = set()
        self._alarms = Alarms(lambda: self._state.settings.monitor.hook)
        self._work = AuditWork(database, metrics, lambda: self._state, record, self._write)
        self._record = record
        self._anchoring: Anchoring | None = None
        self._drifting: Drifting | None = None
        self.adopt(state, strict=False)

    def adopt(self, state: State, *, strict: bool = True) -> None:
        """Go by another configuration; blocks on the store.

        Raises:
            ConfigurationError: a bundle has to be certified anew, at the confidence that the error budget leaves.
        """
        settings = state.settings.monitor
        # Where nobody can be asked there is nothing to compare with, and nobody to send a workload back to.
        audited = [
            w for w in state.workloads.known if w.desk is not None and settings.enabled and state.chain(w) is not None
        ]
        monitored: dict[str, Monitored] = {}
        refused: set[str] = set()
        if audited:
            from tiercel.gateway.epochs import open_epochs

            monitored, refused = open_epochs(self._book, audited, settings, strict=strict)
        if monitored:
            self._work.be_present()
            self._watch_more(monitored, state)
        self._state, self._monitored, self._refused = state, monitored, refused
        if self._opened is not None:
            self._look()

    def _watch_more(self, monitored: dict[str, Monitored], state: State) -> None:
        """What is watched beside the answers: the frontier by anchors, and the requests."""
        from tiercel.gateway.anchoring import Anchoring
        from tiercel.gateway.drifting import Drifting

        if self._anchoring is None or self._drifting is None:
            self._anchoring = Anchoring(self._database, self._metrics, lambda: self._state, self._record, self._write)
            self._drifting = Drifting(self._database, self._metrics, self._alarms)
            if self._clock is not None:
                self._anchoring.start(self._clock.get_loop())
        self._anchoring.adopt(self._book, monitored, state.settings.monitor, state.workloads)
        self._drifting.adopt(monitored, state.settings.monitor)

    @property
    def _book(self) -> AuditBook:
        if self._opened is None:
            from tiercel.routing.audit_book import AuditBook

            self._opened = AuditBook(self._database)
        return self._opened

    def sends_back(self, workload: Workload, segment: str | None = None) -> bool:
        """Whether the frontier has to answer a workload, or a segment of it, until it has a new certificate.

        Args:
            workload: that a request belongs to.
            segment: of the request; None to ask for the whole workload.
        """
        return (workload.name, segment) in self._sent_back

    def statuses(self) -> list[MonitorStatus]:
        """How each monitored workload stands; blocks on the store."""
        if not self._monitored:
            return []
        from tiercel.routing.drift_book import with_input_drift

        return with_input_drift(self._database, [self._book.monitor(name).status() for name in sorted(self._monitored)])

    def feedback(self, said: FeedbackRequest, caller: VirtualKey | None) -> Json:
        """Take a person's word into the record; blocks on the store.

        Raises:
            ApiError: the trace is not known, not monitored, not the caller's to judge, or was judged already.
            DataError: the reference can't be compared with the answer.
        """
        from tiercel.gateway.feedback import give_feedback

        return give_feedback(self._book, self._database, self._monitored, self._write, said, caller)

    def refresh(self) -> None:
        """Read what other gateways wrote; blocks on the store."""
        if self._monitored:
            try:
                self._book.catch_up()
            except CertificateError as error:
                self._distrust(error)
            self._look()

    def _distrust(self, error: CertificateError) -> None:
        """A record that does not hold certifies nothing: the frontier answers what is monitored."""
        if not self._tampered:
            self._tampered = True
            _log.error("the record of audits does not hold (%s); the frontier answers what it speaks of", error)

    def tidy(self) -> None:
        """Give up audits without a result, and keep the monitors where the next start finds them; blocks."""
        if self._monitored:
            # What can be asked again is no loss, however long nobody was there to ask it.
            self._work.take_up(self._book, self._monitored)
            late = self._book.overdue(older_than_s=self._state.settings.monitor.expire_s, now=time.time())
            for name, events in late.items():
                self._write(name, events)
            self._book.save()

    def start(self) -> None:
        """Begin to write and to ask, in the running loop."""
        self._alarms.start()
        self._work.start()
        if self._anchoring is not None:
            self._anchoring.start(asyncio.get_running_loop())
        self._clock = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        """It is a clock alone that closes a batch, never a draw or a result: see `audit_batch`."""
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(self.flush)

    async def close(self, limit_s: float = 5.0) -> None:
        """Write down what was noted, and let audits end, for as long as that may take."""
        if self._clock is not None:
            self._clock.cancel()
        await asyncio.to_thread(self.flush)
        await asyncio.sleep(0)
        if self._anchoring is not None:
            await self._anchoring.close()
        await self._work.close(limit_s)
        await self._alarms.close(limit_s)

    def note(self, exchange: Exchange) -> None:
        """Take an exchange into the record; called once for each, in the recorder's thread."""
        workload = exchange.workload
        if workload is None or exchange.status != 200 or exchange.forced is not None or exchange.is_audit:
            return
        watched = self._monitored.get(workload.name)
        if watched is None or workload.desk is not watched.workload.desk:
            return  # it was decided by the policy of another epoch
        if self._drifting is not None:
            self._drifting.note(exchange)
        batch = self._batches.get(workload.name) or self._new_batch(workload.name)
        if exchange.tier != "student" or exchange.confidence is None or exchange.body is None:
            if not self.sends_back(workload):
                sent_back = exchange.segment is not None and self.sends_back(workload, exchange.segment)
                batch.refused(watched.epoch, () if sent_back else watched.recorded(exchange.segment))
            return
        said = answer_of(exchange.answer) if isinstance(exchange.answer, dict) else None
        segments, by = watched.recorded(exchange.segment), self._work.by
        try:
            score = watched.score(exchange.confidence, exchange.segment)
            _, draw = self._book.decide(workload.name, exchange.id, score, epoch=watched.epoch)
        except DataError as error:
            _log.error("an answer of %s is no part of the record: %s", workload.name, error)
            return
        if batch.accepted(watched.epoch, exchange.id, score, draw, segments, by):
            audit = Audit(
                epoch=watched.epoch, trace=exchange.id, by=by, workload=workload, body=exchange.body, said=said
            )
            self._drawn.append(audit)

    def _new_batch(self, name: str) -> AuditBatch:
        from tiercel.routing.audit_batch import AuditBatch

        return self._batches.setdefault(name, AuditBatch())

    def flush(self) -> None:
        """Write down what was noted, ask for what was drawn, and see to all else; blocks on the store, never raises."""
        if not self._monitored and not self._batches:
            return
        with self._flushing:
            try:
                self._work.be_present()
                self._write_down()
                self._work.take_up(self._book, self._monitored)
                if self._anchoring is not None and self._drifting is not None:
                    self._anchoring.tick(self._book)
                    self._drifting.tick()
            except Exception as error:
                if self._trouble != type(error).__name__:
                    self._trouble = type(error).__name__
                    _log.error("audits can't be written down now: %s", self._trouble)
            else:
                if self._trouble:
                    _log.warning("audits are written down again")
                self._trouble = ""

    def _write_down(self) -> None:
        # First those that were drawn: each of them stands in a batch that is taken after this.
        drawn, self._drawn = self._drawn, []
        self._held += drawn
        for name, batch in list(self._batches.items()):
            self._unwritten.setdefault(name, []).extend(batch.take())
        for name, events in self._unwritten.items():
            if events:
                self._write(name, events)
                self._unwritten[name] = []
        held, self._held = self._held, []
        for audit in held:
            self._metrics.audits.labels(audit.workload.name, "drawn").inc()
        self._work.ask(held)

    def _write(self, workload: str, events: Sequence[Event]) -> list[Outcome | None]:
        """Write events and act on what follows.

        Returns:
            What each event did; None for one that was refused.

        Raises:
            CertificateError: the record does not hold; the frontier answers from now on.
            StorageError: nothing was written.
        """
        from tiercel.routing.audit_events import Taken
        from tiercel.routing.monitor import Outcome

        try:
            outcomes = self._book.record(workload, events, now=time.time())
        except CertificateError as error:
            self._distrust(error)
            self._look()
            raise
        done: list[Outcome | None] = []
        for event, outcome in zip(events, outcomes, strict=True):
            done.append(outcome if isinstance(outcome, Outcome) else None)
            if isinstance(outcome, Outcome):
                self._tell(workload, event.epoch, outcome)
            elif not isinstance(event, Taken):
                _log.error("the record of audits refuses an event of %s: %s", workload, outcome)
        self._look()
        return done

    def _tell(self, workload: str, epoch: int, outcome: Outcome) -> None:
        watch = self._book.monitor(workload).of_epoch(epoch)
        for verdict in outcome.verdicts:
            self._alarms.verdict(workload, verdict, watch.cause if watch is not None else "undecided")
        if outcome.cause is not None and not any(verdict.send_back for verdict in outcome.verdicts):
            self._alarms.cause(workload, epoch, outcome.cause)

    def _look(self) -> None:
        with self._lock:
            # A bundle whose certificate the error budget does not cover is not certified online.
            back: set[tuple[str, str | None]] = {(name, None) for name in self._refused}
            shown: dict[tuple[str, str], bool] = {}
            for name, watched in self._monitored.items():
                monitor = self._book.monitor(name)
                whole = self._tampered or monitor.sends_back(epoch=watched.epoch)
                if whole:
                    back.add((name, None))
                shown[name, ""] = whole
                for segment, recorded in watched.names.items():
                    if broken := whole or monitor.sends_back((recorded,), epoch=watched.epoch):
                        back.add((name, segment))
                    shown[name, recorded] = broken
            self._sent_back = frozenset(back)
            for labels in self._gauged - shown.keys():
                self._metrics.sent_back.labels(*labels).set(0)
            for labels, sent_back in shown.items():
                self._metrics.sent_back.labels(*labels).set(sent_back)
            self._gauged |= shown.keys()
