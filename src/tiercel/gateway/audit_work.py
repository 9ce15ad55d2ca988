"""Asks the frontier for what was drawn, and takes up what a gateway that ended has left behind.

Each draw in the record names the gateway that asks. Whether that one still lives is said by a lock that ends with its
process (`store.presence`); to take an audit up is a row of the record, which only one gateway can write. What was asked
and answered then comes from the store. Where that does not keep it as it was, the audit counts as failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.errors import StorageError, TiercelError
from tiercel.gateway.audit_purse import budget_of
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.own_requests import ask_frontier, message_answer, own_exchange, reckoned_usd, student_loss
from tiercel.gateway.permissions import may_be_audited
from tiercel.gateway.state import State
from tiercel.gateway.workloads import Workload
from tiercel.store.database import Database
from tiercel.store.entries import find
from tiercel.store.keys import VirtualKey, list_keys
from tiercel.store.limits import Reservation, owe
from tiercel.store.presence import Presence
from tiercel.types import Answer

if TYPE_CHECKING:
    from tiercel.gateway.epochs import Monitored
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.audit_events import Event, Resolved
    from tiercel.routing.epoch_watch import UnderWay
    from tiercel.routing.monitor import Outcome

__all__ = ["Audit", "AuditWork"]

Json = dict[str, Any]

AT_ONCE = 4
"""Audits under way at a time."""
AGAIN_S = 1.0
"""Seconds after which a result that could not be written is written again."""

_log = logging.getLogger("tiercel.gateway")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An accepted answer that was drawn.

    Attributes:
        epoch: of its policy.
        trace: its id.
        by: presence of the gateway that asks, as the record has it.
        workload: that it belongs to.
        body: chat request; None where it is not kept any more, or must not be asked.
        said: the student's answer; None where it is not kept, or can't be compared.
        captured: whether its content may be stored.
        key: of who asked.
        user_hashes: of whom the request names.
    """

    epoch: int
    trace: str
    by: str
    workload: Workload
    body: Json | None
    said: Answer | None
    captured: bool
    key: VirtualKey | None
    user_hashes: tuple[str, ...]


class AuditWork:
    """This gateway's audits.

    Args:
        database: of the record and of contents.
        metrics: count audits.
        state: gives the configuration.
        record: takes the exchange of an audit for the ledger.
        write: writes events of a workload into the record; blocks, and raises where it can't.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        state: Callable[[], State],
        record: Callable[[Exchange], None],
        write: Callable[[str, Sequence[Event]], Sequence[Outcome | None]],
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._state = state
        self._record = record
        self._write = write
        self._presence: Presence | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def by(self) -> str:
        """What draws name this gateway by; empty as long as it has not begun to audit."""
        return self._presence.id if self._presence is not None else ""

    def start(self) -> None:
        """Ask in the running loop."""
        self._loop = asyncio.get_running_loop()

    def be_present(self) -> None:
        """See to it that other gateways know this one to be alive; blocks on the store.

        Where the lock was lost with a connection, what is being asked is given up: another gateway may have it by now.

        Raises:
            StorageError: the lock can't be had.
        """
        if self._presence is not None and not self._presence.held():
            self._presence = None
            _log.warning("the store's connection was lost; audits under way are left to be taken up again")
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._give_up)
        if self._presence is None and not self._closed:
            self._presence = Presence(self._database)

    def _give_up(self) -> None:
        for task in self._under_way:
            task.cancel()

    def ask(self, audits: Sequence[Audit]) -> None:
        """Begin what was drawn and written down; callable from every thread.

        What was drawn under a lock that is lost by now is left to be taken up.
        """
        for audit in audits:
            if self._loop is not None and audit.by == self.by:
                self._loop.call_soon_threadsafe(self._begin, audit)

    def _begin(self, audit: Audit) -> None:
        task = asyncio.get_running_loop().create_task(self._audit(audit))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self, limit_s: float) -> None:
        """Let audits end, for as long as that may take; what is left then is free to be taken up."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=limit_s)
        self._give_up()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=limit_s)
        self._closed = True
        if self._presence is not None:
            presence, self._presence = self._presence, None
            await asyncio.to_thread(presence.close)

    def take_up(self, book: AuditBook, monitored: Mapping[str, Monitored]) -> None:
        """Take up audits whose gateway is gone; blocks on the store.

        Raises:
            StorageError: the store does not answer.
        """
        from tiercel.routing.audit_events import Taken

        if self._presence is None:
            return
        gone: dict[str, bool] = {}
        for name, watched in monitored.items():
            orphans: list[UnderWay] = []
            for audit in book.monitor(name).under_way():
                # What an older program drew names nobody; it expires.
                if audit.by not in gone:
                    gone[audit.by] = self._presence.is_gone(audit.by)
                if gone[audit.by] and audit.epoch <= watched.epoch:
                    orphans.append(audit)
            if orphans:
                events = [Taken(epoch=a.epoch, trace=a.trace, by=self.by, of=a.by) for a in orphans]
                outcomes = self._write(name, events)
                # One that another gateway was quicker to take is refused.
                taken = [a for a, outcome in zip(orphans, outcomes, strict=True) if outcome is not None]
                self._resume(watched.workload, taken)

    def _resume(self, workload: Workload, taken: Sequence[UnderWay]) -> None:
        if not taken:
            return
        keys = {key.id: key for key in list_keys(self._database)}
        audits = [self._recalled(workload, audit, keys) for audit in taken]
        lost = sum(audit.body is None or audit.said is None for audit in audits)
        _log.warning(
            "workload %s: %d audits of a gateway that ended are taken up; %d of them count as losses, because their "
            "content is not kept as it was, or may not leave",
            workload.name,
            len(audits),
            lost,
        )
        self._metrics.audits.labels(workload.name, "taken up").inc(len(audits))
        self.ask(audits)

    def _recalled(self, workload: Workload, audit: UnderWay, keys: Mapping[str, VirtualKey]) -> Audit:
        """What is left of an audit in the store."""
        from tiercel.datasets.redaction import holds_placeholder

        body, said = None, None
        entry = find(self._database, audit.trace)
        key = keys.get(entry.key) if entry is not None and entry.key is not None else None
        if entry is not None and entry.content is not None:
            kept = entry.content.request, entry.content.response
            may_leave = may_be_audited(key, workload) and (entry.key is None or key is not None)
            # Another request than the one that was answered shows nothing of that answer.
            if may_leave and not any(holds_placeholder(part.decode("utf-8", "replace")) for part in kept):
                body, said = msgspec.json.decode(kept[0]), message_answer(msgspec.json.decode(kept[1]))
        users = () if entry is None or entry.user is None else (entry.user, *entry.further_users)
        return Audit(
            epoch=audit.epoch,
            trace=audit.trace,
            by=self.by,
            workload=workload,
            body=body,
            said=said,
            captured=True,  # or there would be no content
            key=key,
            user_hashes=users,
        )

    async def _audit(self, audit: Audit) -> None:
        held = await self._owed(audit)
        async with self._slots:
            result = await self._result(audit, held)
        self._metrics.audits.labels(audit.workload.name, result.source).inc()
        while True:
            try:
                await asyncio.to_thread(self._write, audit.workload.name, [result])
                return
            except TiercelError as error:
                _log.error("the result of an audit can't be written down now: %s", type(error).__name__)
                await asyncio.sleep(AGAIN_S)

    async def _owed(self, audit: Audit) -> Reservation | None:
        """What the workload's budget holds for an audit, once the store has it; None where there is nothing to hold."""
        scope = budget_of(audit.workload)
        if scope is None or audit.body is None:
            return None
        usd = reckoned_usd(self._state(), own_exchange(audit.workload, audit.body, "audit")) or 0.0
        lease_s = self._state().lease_s
        while True:
            try:
                return await asyncio.to_thread(owe, self._database, scope, usd=usd, now=time.time(), lease_s=lease_s)
            except StorageError as error:
                _log.error("the cost of an audit can't be reserved now: %s", type(error).__name__)
                await asyncio.sleep(AGAIN_S)

    def _may_ask(self, audit: Audit) -> bool:
        """Whether the configuration of now still lets an audit leave."""
        workload = self._state().workloads.named(f"tiercel/{audit.workload.name}")
        return workload is not None and may_be_audited(audit.key, workload)

    async def _result(self, audit: Audit, held: Reservation | None) -> Resolved:
        from tiercel.routing.audit_events import Resolved

        failed = Resolved(epoch=audit.epoch, trace=audit.trace, source="failed")
        name, desk = audit.workload.name, audit.workload.desk
        if audit.body is None or audit.said is None or desk is None or not self._may_ask(audit):
            return failed
        try:
            exchange = own_exchange(
                audit.workload,
                audit.body,
                "audit",
                captured=audit.captured,
                key=audit.key,
                user_hashes=audit.user_hashes,
            )
            exchange.held = held
            told = await ask_frontier(self._state(), exchange, self._record)
            if told is None:
                return failed
            loss = await asyncio.to_thread(student_loss, desk.bundle, audit.said, told)
        except (TiercelError, ApiError) as error:
            _log.warning("an audit of %s failed: %s", name, type(error).__name__)
            return failed
        except Exception as error:
            _log.error("an audit of %s failed: %s", name, type(error).__name__)
            return failed
        return Resolved(epoch=audit.epoch, trace=audit.trace, source="judge", student_loss=loss, frontier_loss=0.0)
