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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.errors import CertificateError, DataError, TiercelError
from tiercel.gateway.chat import chat_request
from tiercel.gateway.escalation import Escalation
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.fronts import CHAT, Asked
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.state import State
from tiercel.gateway.transcripts import completion_of
from tiercel.gateway.workloads import Workload
from tiercel.store.database import Database
from tiercel.types import Answer, ToolCall

if TYPE_CHECKING:
    from tiercel.gateway.feedback import FeedbackRequest
    from tiercel.routing.audit_batch import AuditBatch
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.audit_events import Event, Verdict
    from tiercel.routing.monitor import MonitorStatus

__all__ = ["Auditor", "answer_of"]

Json = dict[str, Any]

AT_ONCE = 4
"""Audits under way at a time."""
EVERY_S = 1.0
"""Seconds between two writes to the record."""
_HOW_SENT = frozenset({"stream", "stream_options"})

_log = logging.getLogger("tiercel.gateway")


@dataclass(frozen=True, kw_only=True)
class _Audit:
    """An accepted answer that was drawn."""

    epoch: int
    trace: str
    workload: Workload
    body: Json
    said: Answer | None


class Auditor:
    """Draws, asks, compares, and knows which workloads are sent back.

    Args:
        database: of the record.
        metrics: count audits.
        state: the configuration.
        record: takes the exchange of an audit for the ledger.
    """

    def __init__(self, database: Database, metrics: Metrics, state: State, record: Callable[[Exchange], None]) -> None:
        self._database = database
        self._opened: AuditBook | None = None
        self._metrics = metrics
        self._record = record
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._batches: dict[str, AuditBatch] = {}
        self._unwritten: dict[str, list[Event]] = {}
        self._drawn: list[_Audit] = []
        self._held: list[_Audit] = []
        self._state = state
        self._epochs: dict[str, int] = {}
        self._refused: set[str] = set()
        self._tampered = False
        self._sent_back: frozenset[str] = frozenset()
        self.adopt(state, strict=False)

    def adopt(self, state: State, *, strict: bool = True) -> None:
        """Go by another configuration; blocks on the store.

        Raises:
            ConfigurationError: a bundle has to be certified anew, at the confidence that the error budget leaves.
        """
        settings = state.settings.monitor
        # Where nobody can be asked there is nothing to compare with, and nobody to send a workload back to.
        monitored = [
            w for w in state.workloads.known if w.desk is not None and settings.enabled and state.chain(w) is not None
        ]
        epochs: dict[str, int] = {}
        refused: set[str] = set()
        if monitored:
            from tiercel.gateway.epochs import open_epochs

            epochs, refused = open_epochs(self._book, monitored, settings, strict=strict)
        self._state, self._epochs, self._refused = state, epochs, refused
        if self._opened is not None:
            self._look()

    @property
    def _book(self) -> AuditBook:
        if self._opened is None:
            from tiercel.routing.audit_book import AuditBook

            self._opened = AuditBook(self._database)
        return self._opened

    def sends_back(self, workload: Workload) -> bool:
        """Whether the frontier has to answer a workload until it has a new certificate."""
        return workload.name in self._sent_back

    def statuses(self) -> list[MonitorStatus]:
        """How each monitored workload stands."""
        return [self._book.monitor(name).status() for name in sorted(self._epochs)]

    def feedback(self, said: FeedbackRequest) -> Json:
        """Take a person's word into the record; blocks on the store.

        Raises:
            ApiError: the trace is not known, not monitored, or was judged already.
            DataError: the reference can't be compared with the answer.
        """
        from tiercel.gateway.feedback import give_feedback

        workloads = {workload.name: workload for workload in self._state.workloads.known}
        told = give_feedback(self._book, self._database, self._epochs, workloads, said)
        self._look()
        return told

    def refresh(self) -> None:
        """Read what other gateways wrote; blocks on the store."""
        if self._epochs:
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
        if self._epochs:
            self._book.expire(older_than_s=self._state.settings.monitor.expire_s, now=time.time())
            self._book.save()
            self._look()

    def start(self) -> None:
        """Begin to write and to ask, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.create_task(self._tick())

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
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=limit_s)
        for task in self._under_way:
            task.cancel()

    def note(self, exchange: Exchange) -> None:
        """Take an exchange into the record; called once for each, in the recorder's thread."""
        workload = exchange.workload
        if workload is None or exchange.status != 200 or exchange.forced is not None or exchange.is_audit:
            return
        epoch = self._epochs.get(workload.name)
        if epoch is None:
            return
        batch = self._batches.get(workload.name) or self._new_batch(workload.name)
        if exchange.tier != "student" or exchange.confidence is None or exchange.body is None:
            if not self.sends_back(workload):
                batch.refused(epoch)
            return
        said = answer_of(exchange.answer) if isinstance(exchange.answer, dict) else None
        try:
            drawn_in, draw = self._book.decide(workload.name, exchange.id, exchange.confidence)
        except DataError:
            return  # it was decided by the policy of another epoch
        if batch.accepted(drawn_in, exchange.id, exchange.confidence, draw):
            audit = _Audit(epoch=drawn_in, trace=exchange.id, workload=workload, body=exchange.body, said=said)
            self._drawn.append(audit)

    def _new_batch(self, name: str) -> AuditBatch:
        from tiercel.routing.audit_batch import AuditBatch

        return self._batches.setdefault(name, AuditBatch())

    def flush(self) -> None:
        """Write down what was noted, then ask for what was drawn; blocks on the store, and never raises."""
        # First those that were drawn: each of them stands in a batch that is taken after this.
        drawn, self._drawn = self._drawn, []
        self._held += drawn
        for name, batch in list(self._batches.items()):
            self._unwritten.setdefault(name, []).extend(batch.take())
        for name, events in self._unwritten.items():
            if not events:
                continue
            try:
                self._write(name, events)
            except TiercelError as error:
                _log.error("audits can't be written down now: %s", type(error).__name__)
                return
            self._unwritten[name] = []
        held, self._held = self._held, []
        for audit in held:
            self._metrics.audits.labels(audit.workload.name, "drawn").inc()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._begin, audit)

    def _begin(self, audit: _Audit) -> None:
        task = asyncio.get_running_loop().create_task(self._audit(audit))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _audit(self, audit: _Audit) -> None:
        from tiercel.routing.audit_events import Resolved

        async with self._slots:
            result = Resolved(epoch=audit.epoch, trace=audit.trace, source="failed")
            try:
                told = await self._ask(audit)
                if told is not None and audit.said is not None:
                    loss = await asyncio.to_thread(_loss, audit, audit.said, told)
                    result = Resolved(
                        epoch=audit.epoch, trace=audit.trace, source="judge", student_loss=loss, frontier_loss=0.0
                    )
            except (TiercelError, ApiError) as error:
                _log.warning("an audit of %s failed: %s", audit.workload.name, type(error).__name__)
            except Exception as error:
                _log.error("an audit of %s failed: %s", audit.workload.name, type(error).__name__)
        self._metrics.audits.labels(audit.workload.name, result.source).inc()
        while True:
            try:
                await asyncio.to_thread(self._write, audit.workload.name, [result])
                return
            except TiercelError as error:
                _log.error("the result of an audit can't be written down now: %s", type(error).__name__)
                await asyncio.sleep(EVERY_S)

    async def _ask(self, audit: _Audit) -> Answer | None:
        """The frontier's answer; None where it can't be compared."""
        state = self._state
        body = {name: value for name, value in audit.body.items() if name not in _HOW_SENT}
        model = body.get("model")
        asked = Asked(
            raw=msgspec.json.encode(body),
            body=body,
            chat=chat_request(body),
            model=model if isinstance(model, str) else None,
        )
        exchange = Exchange(api="chat", workload=audit.workload, body=body, tier="frontier", reason="audit")
        exchange.is_audit = True
        chain = state.chain(audit.workload)
        if chain is None:
            return None
        state.enter()
        try:
            escalation = Escalation(state, exchange, CHAT, asked)
            await escalation.redact()
            limit = asyncio.get_running_loop().time() + state.settings.server.request_timeout_s
            escalation.whole(await escalation.send(chain, limit), None)
            completion = None if exchange.answer is None else completion_of(exchange.answer, exchange.answer_form)
            return None if completion is None else answer_of(completion)
        finally:
            exchange.latency_s = exchange.elapsed()
            self._record(exchange)
            state.leave()

    def _write(self, workload: str, events: Sequence[Event]) -> None:
        from tiercel.routing.monitor import Outcome

        try:
            outcomes = self._book.record(workload, events, now=time.time())
        except CertificateError as error:
            self._distrust(error)
            self._look()
            raise
        for outcome in outcomes:
            if isinstance(outcome, Outcome):
                for verdict in outcome.verdicts:
                    self._tell(workload, verdict)
            else:
                _log.error("the record of audits refuses an event of %s: %s", workload, outcome)
        self._look()

    def _tell(self, workload: str, verdict: Verdict) -> None:
        level = logging.ERROR if verdict.send_back else logging.INFO
        what = "; the frontier answers it until it has a new certificate" if verdict.send_back else ""
        _log.log(level, "workload %s: its bound is %s (%s)%s", workload, verdict.state, verdict.reason, what)
        hook = self._state.settings.monitor.hook
        if hook is not None and self._loop is not None:
            told = {"workload": workload, "state": verdict.state, "reason": verdict.reason, "epoch": verdict.epoch}
            self._loop.call_soon_threadsafe(self._call, hook.reveal(), {**told, "sent_back": verdict.send_back})

    def _call(self, url: str, told: Json) -> None:
        task = asyncio.get_running_loop().create_task(_post(url, told))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _look(self) -> None:
        with self._lock:
            broken = {name for name in self._epochs if self._tampered or self._book.monitor(name).sends_back()}
            # A bundle whose certificate the error budget does not cover is not certified online.
            self._sent_back = frozenset(broken | self._refused)
            for name in self._epochs:
                self._metrics.sent_back.labels(name).set(name in self._sent_back)


def answer_of(completion: Json) -> Answer | None:
    """What a chat completion says, as answers are compared; None where it says nothing."""
    try:
        message = completion["choices"][0]["message"]
        calls = msgspec.convert(message.get("tool_calls") or [], tuple[ToolCall, ...])
        content = message.get("content")
    except (LookupError, TypeError, AttributeError, msgspec.ValidationError):
        return None
    if not calls and not isinstance(content, str):
        return None
    return Answer(content=content if isinstance(content, str) else None, tool_calls=calls)


def _loss(audit: _Audit, said: Answer, told: Answer) -> float:
    from tiercel.tasks.losses import compare

    desk = audit.workload.desk
    assert desk is not None
    labels = getattr(desk.bundle.student, "labels", None)
    return float(compare(desk.bundle.manifest.task, said, told, labels).loss)


async def _post(url: str, told: Json) -> None:
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=told) as response:
            if response.status >= 400:
                _log.error("the webhook answered %d", response.status)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        _log.error("the webhook can't be reached (%s)", type(error).__name__)
