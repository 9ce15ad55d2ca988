"""Asks the frontier anchors again, at a pace and within a budget, so that its drift is told from the student's.

All gateways of a store take turns. An anchor that gets no answer is asked again at the next turn, and counts as lost
when that happens three times: to pass over it would hide a frontier that refuses.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tiercel.errors import ConfigurationError, DataError, TiercelError
from tiercel.flows.anchors import AnchorRow, Anchors, anchors_of, read_anchor_rows
from tiercel.gateway.chat import chat_request
from tiercel.gateway.costing import about_usage
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.own_requests import ask_frontier, own_exchange, student_loss
from tiercel.gateway.sections import Monitor
from tiercel.gateway.state import State
from tiercel.gateway.workloads import Workloads
from tiercel.routing.audit_events import AnchorScored, AnchorsFixed
from tiercel.store.database import Database
from tiercel.store.limits import Exceeded, Scope
from tiercel.store.monitor_work import take_turn

if TYPE_CHECKING:
    from tiercel.gateway.epochs import Monitored
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.audit_events import Event
    from tiercel.routing.monitor import Outcome

__all__ = ["Anchoring"]

DAY_S = 86_400.0
TRIAL = 20
"""How much faster anchors are asked while it is open whose a broken bound is."""
TRIES = 3
LOOK_S = 10.0
"""Most seconds between two looks whether it is this gateway's turn."""

_log = logging.getLogger("tiercel.gateway")


class Anchoring:
    """The anchors of the workloads that are monitored.

    Args:
        database: of turns.
        metrics: count anchors.
        state: gives the configuration.
        record: takes the exchange of an anchor for the ledger.
        write: writes events of a workload into the record; blocks, and raises where it can't.
        draw: gives a number below the one it is given, each equally likely.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        state: Callable[[], State],
        record: Callable[[Exchange], None],
        write: Callable[[str, Sequence[Event]], Sequence[Outcome | None]],
        draw: Callable[[int], int] | None = None,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._state = state
        self._record = record
        self._write = write
        self._draw = draw or random.SystemRandom().randrange
        self._settings = Monitor()
        self._anchors: dict[str, tuple[Monitored, Anchors]] = {}
        self._again: dict[str, tuple[AnchorRow, int]] = {}
        self._due: dict[str, float] = {}
        self._resting: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy: set[str] = set()
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask in this loop."""
        self._loop = loop

    async def close(self) -> None:
        """Ask no more."""
        self._loop = None
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def adopt(self, book: AuditBook, monitored: Mapping[str, Monitored], settings: Monitor, known: Workloads) -> None:
        """Go by another configuration; blocks on the store.

        Args:
            book: of audits.
            monitored: what is audited, by the workload's name.
            settings: of the monitor.
            known: recognises the workload of a row.

        Raises:
            ConfigurationError: the file of anchors can't be read.
        """
        anchors = {name: (monitored[name], found) for name, found in self._sorted(monitored, settings, known).items()}
        self._settings, self._due, self._resting, self._anchors = settings, {}, set(), anchors
        for name, (watched, anchors) in self._anchors.items():
            watch = book.monitor(name).of_epoch(watched.epoch)
            fixed = None if watch is None else watch.fixed.get("frontier")
            if fixed is None or fixed.digest != anchors.digest:
                event = AnchorsFixed(
                    epoch=watched.epoch,
                    subject="frontier",
                    digest=anchors.digest,
                    rows=len(anchors.rows),
                    error=anchors.error,
                    tolerance=anchors.tolerance,
                )
                self._write(name, [event])

    @staticmethod
    def _sorted(monitored: Mapping[str, Monitored], settings: Monitor, known: Workloads) -> dict[str, Anchors]:
        """The anchors of each workload, which is recognised as that of any request is."""
        if settings.anchors is None:
            return {}
        try:
            rows = read_anchor_rows(settings.anchors)
        except (DataError, OSError) as error:
            raise ConfigurationError(f"monitor.anchors: {error}") from None
        parts: dict[str, list[AnchorRow]] = {}
        strangers = 0
        for _, row in rows:
            workload = known.recognise(chat_request(row.body))
            if workload is None or workload.name not in monitored:
                strangers += 1
            else:
                parts.setdefault(workload.name, []).append(row)
        if strangers:
            _log.warning("%d of %d anchors are of no workload that is monitored", strangers, len(rows))
        found: dict[str, Anchors] = {}
        for name, own in parts.items():
            try:
                found[name] = _known(monitored[name], own)
            except DataError as error:
                _log.error("workload %s: %s", name, error)
        return found

    def tick(self, book: AuditBook) -> None:
        """Ask what is due; blocks on the store.

        Raises:
            StorageError: the store does not answer.
        """
        for name, (watched, anchors) in self._anchors.items():
            watch = book.monitor(name).of_epoch(watched.epoch)
            own = None if watch is None else watch.anchors.get("frontier")
            if watch is None or own is None:
                continue
            self._metrics.frontier_drift.labels(name).set(own.accused)
            broken, undecided = watch.evidence[""].standing == "broken", watch.cause == "undecided"
            # Once a workload is sent back and it is known why, nothing is left to be told from anchors.
            if name in self._busy or (broken and not undecided) or self._loop is None:
                continue
            every_s = DAY_S / self._settings.anchors_per_day / (TRIAL if undecided else 1)
            if time.monotonic() < self._due.get(name, 0.0):
                continue
            self._due[name] = time.monotonic() + min(LOOK_S, every_s)
            if take_turn(self._database, f"anchors/{name}", every_s=every_s, now=time.time()):
                self._busy.add(name)
                self._loop.call_soon_threadsafe(self._begin, name, watched, anchors)

    def _begin(self, name: str, watched: Monitored, anchors: Anchors) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(name, watched, anchors))
        self._under_way.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._under_way.discard(task)
            self._busy.discard(name)

        task.add_done_callback(done)

    async def _ask(self, name: str, watched: Monitored, anchors: Anchors) -> None:
        row, tries = self._again.pop(name, (None, 0))
        if row is None or row not in anchors.rows:
            row, tries = anchors.rows[self._draw(len(anchors.rows))], 0
        desk = watched.workload.desk
        assert desk is not None
        exchange = own_exchange(watched.workload, row.body, "anchor", captured=False)
        try:
            if not await self._may_spend(name, exchange):
                self._again[name] = row, tries
                return
            told = await ask_frontier(self._state(), exchange, self._record)
            # An answer that says nothing is an answer, and wrong.
            error = 1.0 if told is None else await asyncio.to_thread(student_loss, desk.bundle, told, row.right)
        except Exception as failure:
            self._metrics.anchors.labels(name, "failed").inc()
            _log.warning("an anchor of %s got no answer: %s", name, type(failure).__name__)
            if tries + 1 < TRIES:
                self._again[name] = row, tries + 1
                return
            error = 1.0
        self._metrics.anchors.labels(name, "scored").inc()
        event = AnchorScored(epoch=watched.epoch, trace=_printable(row.id), subject="frontier", error=error)
        try:
            await asyncio.to_thread(self._write, name, [event])
        except TiercelError as failure:
            _log.error("an anchor can't be written down now: %s", type(failure).__name__)

    async def _may_spend(self, name: str, exchange: Exchange) -> bool:
        budget = self._settings.anchors_budget_usd
        if budget is None:
            return True
        state = self._state()
        # No workload's own name holds a slash.
        scope = Scope(kind="workload", name=f"{name}/anchors", budget_usd=budget)
        expected = about_usage(exchange.api, exchange.body or {}, exchange.body_bytes)
        try:
            model = state.prices.frontier_model(exchange)
            about = state.prices.about(model, state.sellers(state.chain(exchange.workload), model), expected)
        except ApiError as error:  # without a price
            self._rest(name, f"its anchors rest: {error}")
            return False
        held = await state.limiter.reserve([scope], usd=about, tokens=0, now=time.time(), lease_s=state.lease_s)
        if not isinstance(held, Exceeded):
            exchange.held = held
            self._resting.discard(name)
            return True
        self._rest(name, "its budget for anchors is spent; they rest until the next month")
        return False

    def _rest(self, name: str, why: str) -> None:
        if name not in self._resting:
            _log.warning("workload %s: %s", name, why)
            self._resting.add(name)


def _known(watched: Monitored, rows: Sequence[AnchorRow]) -> Anchors:
    desk = watched.workload.desk
    assert desk is not None
    losses = [student_loss(desk.bundle, row.told, row.right) for row in rows]
    return anchors_of(rows, losses, f"{desk.bundle.manifest.task} {desk.bundle.manifest.measure}")


def _printable(id_: Any) -> str:
    """An id as the record can hold it."""
    return "".join(c if c.isprintable() else "?" for c in str(id_))[:200]
