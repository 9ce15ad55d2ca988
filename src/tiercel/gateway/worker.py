"""One process of the gateway: what it loads, how it listens, reloads and drains."""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from tiercel.errors import TiercelError
from tiercel.gateway.app import Gateway
from tiercel.gateway.auditing import Auditor
from tiercel.gateway.bookkeeping import Bookkeeper
from tiercel.gateway.costing import about_usage
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.logs import set_log_level, without_content
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.recorder import Recorder
from tiercel.gateway.sections import Settings
from tiercel.gateway.state import State
from tiercel.store.database import Database, open_database
from tiercel.store.keys import KeyRing
from tiercel.store.limit_upkeep import purge
from tiercel.store.retention import delete_old_contents, forgetting

__all__ = ["Worker", "work"]

IDLE_S = 75.0
"""Seconds that a connection may be open without a request, or take for the head of one; longer than the minute after
which proxies close theirs."""
KEYS_EVERY_S = 2.0
HOUSEKEEPING_S = 600.0
QUIET_S = 0.5
"""Seconds without a request after which a draining gateway takes its clients to have gone elsewhere."""

LAST_CALL_S = 1.0
"""Longest time in which connections that are still coming in are taken before the socket is closed."""
CUT_S = 1.0
"""Seconds that handlers get to notice that they are cut off, once `drain_s` is over."""

_log = logging.getLogger("tiercel.gateway")


class Worker:
    """Everything that one process needs to answer, from the store to the handlers.

    Args:
        settings: of the gateway.
        reread: gives the settings again, for a reload; None where there is no file to read.
        first: whether it does what only one of several workers has to do.
    """

    def __init__(self, settings: Settings, reread: Callable[[], Settings] | None = None, *, first: bool = True) -> None:
        self._reread = reread
        self._first = first
        self.database: Database = open_database(settings.capture.location)
        try:
            self.keys = KeyRing(self.database, refresh_s=KEYS_EVERY_S)
            self.keys.refresh()
            self.metrics = Metrics()
            state = State(settings, self.database, on_attempt=self.metrics.attempt)
            self._forgetting = forgetting(self.database)
        except BaseException:
            self.database.close()
            raise
        self.auditor = Auditor(self.database, self.metrics, state, self._record)
        self.books = Bookkeeper(self.database, self.metrics, state, self.auditor)
        self.recorder: Recorder[Any, Any] = Recorder(
            self.books.record,
            self.books.write,
            size=settings.capture.queue,
            on_drop=self.metrics.dropped.inc,
            weigh=_held_bytes,
            shorten=self._shortened,
        )
        self.gateway = Gateway(state, self.recorder, self.metrics, self.auditor, self.keys)
        self._tasks: list[asyncio.Task[None]] = []
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
        self._at: socket.socket | None = None

    def _record(self, exchange: Exchange) -> None:
        self.recorder.put(exchange)

    def _shortened(self, exchange: Exchange) -> Exchange | None:
        """What is left of an exchange where there is no room: what limits hold for it is settled nowhere else."""
        if exchange.held is None:
            return None
        if exchange.usage is None and exchange.tier == "frontier" and exchange.status == 200:
            exchange.counted_by = "estimate"
            expected = exchange.expected or about_usage(exchange.api, exchange.body or {}, exchange.body_bytes)
            self.gateway.state.prices.settle_frontier(exchange, expected)
        exchange.body = exchange.answer = None
        exchange.is_short = True
        return exchange

    async def listen(self, at: socket.socket) -> web.AppRunner:
        """Begin to answer at a socket that is bound."""
        foreign = _log.getChild("http")
        foreign.addFilter(without_content)
        runner = web.AppRunner(
            self.gateway.app(),
            handler_cancellation=True,
            access_log=None,
            logger=foreign,
            auto_decompress=False,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=min(CUT_S, self.gateway.state.settings.server.drain_s),
        )
        await runner.setup()
        self.auditor.start()
        self.recorder.start()
        self._tasks = [asyncio.create_task(self._refresh_keys())]
        if self._first:
            self._tasks.append(asyncio.create_task(self._keep_house()))
        await web.SockSite(runner, at, backlog=1024).start()
        self._at = at
        return runner

    async def drain(self, runner: web.AppRunner) -> None:
        """Take no new connections, answer what is under way, close each connection after its answer."""
        self.gateway.draining = True
        await self._accept_who_waits()
        for site in list(runner.sites):
            await site.stop()
        limit = time.monotonic() + self.gateway.state.settings.server.drain_s
        quiet_since = time.monotonic()
        while time.monotonic() < min(limit, quiet_since + QUIET_S):
            if self.gateway.in_flight:
                quiet_since = time.monotonic()
            await asyncio.sleep(0.02)

    async def _accept_who_waits(self) -> None:
        """Let the event loop take the connections that the kernel has made already: closing the socket resets them."""
        if self._at is None or not hasattr(select, "poll"):
            return
        waiting = select.poll()
        waiting.register(self._at, select.POLLIN)
        limit = time.monotonic() + LAST_CALL_S
        while waiting.poll(0) and time.monotonic() < limit:
            await asyncio.sleep(0)

    async def close(self, runner: web.AppRunner) -> None:
        """End everything; what was answered is stored before."""
        await runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await self.auditor.close()
        await asyncio.to_thread(self.recorder.stop)
        await self.gateway.state.close()
        await asyncio.to_thread(self.books.close)
        self.database.close()

    def reload(self) -> None:
        """Read the configuration again and adopt what can be adopted; what is wrong with it is logged, and it stays."""
        if self._reread is None:
            _log.warning("there is no configuration to read again")
        elif self._reloading is not None:
            self._again = True  # what is read now may be older than what this call is about
        else:
            self._reloading = asyncio.get_running_loop().create_task(self._reload(self._reread))

    async def _reload(self, reread: Callable[[], Settings]) -> None:
        """Reload once, and once more for all calls that came meanwhile: two at a time would undo each other."""
        try:
            while True:
                self._again = False
                try:
                    await self._reload_once(reread)
                except TiercelError as error:
                    _log.error("the configuration stays as it was: %s", error)
                except Exception as error:
                    _log.error("the configuration stays as it was: %s", type(error).__name__)
                if not self._again:
                    return
        finally:
            self._reloading = None

    async def _reload_once(self, reread: Callable[[], Settings]) -> None:
        from tiercel.gateway.settings_changes import changed, reloaded

        old = self.gateway.state
        read = await asyncio.to_thread(reread)
        settings = reloaded(old.settings, read)
        state = await asyncio.to_thread(State, settings, self.database, old, self.metrics.attempt)
        try:
            await asyncio.to_thread(self.auditor.adopt, state)
        except TiercelError:
            state.retire()
            raise
        changes = changed(old.settings, read)
        self.books.adopt(state)
        self.gateway.adopt(state)
        set_log_level(settings.telemetry)
        _log.info("configuration read again; changed: %s", ", ".join(changes.applied) or "nothing")
        if changes.restart:
            _log.warning("a restart is needed for: %s", ", ".join(changes.restart))

    async def _refresh_keys(self) -> None:
        said = False
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                await asyncio.to_thread(self.keys.refresh)
                await asyncio.to_thread(self.auditor.refresh)
                await self._forget_answers()
            except TiercelError as error:
                if not said:
                    _log.error("keys can't be read now, and stay as they are: %s", error)
                said = True
            else:
                if said:
                    _log.warning("keys are read again")
                said = False

    async def _forget_answers(self) -> None:
        """Drop all cached answers once something was to be forgotten: whose they are is not kept with them."""
        found = await asyncio.to_thread(forgetting, self.database)
        if found != self._forgetting and (cache := self.gateway.state.cache) is not None:
            cache.clear()
        self._forgetting = found

    async def _keep_house(self) -> None:
        while True:
            days = self.gateway.state.settings.capture.retention_days
            if days is not None:
                try:
                    gone = await asyncio.to_thread(delete_old_contents, self.database, days=days)
                    if gone:
                        _log.info("%d contents older than %g days were deleted", gone, days)
                except TiercelError as error:
                    _log.error("old contents can't be deleted now: %s", type(error).__name__)
            try:
                await asyncio.to_thread(purge, self.database, time.time())
                await asyncio.to_thread(self.auditor.tidy)
            except TiercelError as error:
                _log.error("old reservations can't be purged now: %s", type(error).__name__)
            await asyncio.sleep(HOUSEKEEPING_S)


async def work(
    worker: Worker, at: socket.socket, *, announce: Callable[[], None] | None = None, keeper: int | None = None
) -> None:
    """Answer until SIGINT or SIGTERM; SIGHUP reads the configuration again. A second signal ends at once.

    Args:
        worker: that answers.
        at: socket that is bound.
        announce: is called once it listens.
        keeper: file descriptor that can be read once the process that keeps this one has died, which is a reason to
            end too.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    ending = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        # A supervisor tells all processes at once and the keeper then tells its workers: that is no second signal.
        for number in ending if keeper is None else ():
            loop.remove_signal_handler(number)
        stop.set()

    def on_orphaned() -> None:
        assert keeper is not None
        loop.remove_reader(keeper)
        _log.error("the process that keeps the workers is gone")
        stop.set()

    _tune()
    runner = await worker.listen(at)
    try:
        with suppress(NotImplementedError):  # Windows: a KeyboardInterrupt ends it
            for number in ending:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    loop.add_signal_handler(number, on_signal)
            loop.add_signal_handler(signal.SIGHUP, worker.reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        if keeper is not None:
            loop.add_reader(keeper, on_orphaned)
        if announce is not None:
            announce()
        await stop.wait()
        _log.info("stopping; requests in flight have %g s", worker.gateway.state.settings.server.drain_s)
        await worker.drain(runner)
    finally:
        await worker.close(runner)


def _held_bytes(exchange: Exchange) -> int:
    """Bytes of a request and its answer that wait with it to be written down."""
    return exchange.body_bytes + (len(exchange.answer) if isinstance(exchange.answer, bytes) else 0)


def _tune() -> None:
    """Fit the interpreter to a server: what was loaded is never garbage, and threads that write give way soon.

    Most objects of a request die at once; with the usual thresholds the collector walks over everything that waits in
    the queue again and again (a fifth of the throughput at 32 connections).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.000_5)


def _log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep of an error that nobody awaits its type alone: its text, and that of its task, may quote a request."""
    error = context.get("exception")
    _log.error("%s (%s)", context.get("message") or "an error in the event loop", type(error).__name__)
