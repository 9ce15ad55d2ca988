"""Several worker processes on one socket, and the process that keeps them.

The keeper answers nothing itself. It says that the gateway is up once every worker answers, puts another in the place
of one that ends, hands signals on, and ends with the first error of a worker that can't start. A worker watches the
keeper: should that be killed, it drains and ends too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from tiercel.errors import RunError, TiercelError
from tiercel.gateway.sections import Settings
from tiercel.gateway.settings_changes import reloaded

__all__ = ["Crew", "Target", "hold_signals"]

RESTART_S = (0.1, 5.0)
"""Shortest and longest pause before a worker that ended is started again."""
STEADY_S = 10.0
"""Seconds after which a worker that ended was no failure to start, so that the next pause is short again."""
GRACE_S = 20.0
"""Seconds beyond `drain_s` after which a worker that was told to end is killed."""
_TICK_S = 0.05

_log = logging.getLogger("tiercel.gateway")

Target = Callable[[Settings, Callable[[], Settings] | None, socket.socket, bool, Connection], None]
"""Where a worker process begins: settings, what reads them again, the socket, whether it is the first, and where it
sends None once it answers, or the error that it could not start with."""


@dataclass
class _Member:
    """A worker process.

    Attributes:
        process: itself.
        told: what it says of its start.
        started: moment of `time.monotonic`.
        answers: whether it has said that it answers.
        failure: that it said it could not start with.
    """

    process: BaseProcess
    told: Connection
    started: float
    answers: bool = False
    failure: TiercelError | None = None

    def hear(self) -> None:
        """Take in what it says; an end without a word is the process's exit code to tell."""
        with suppress(EOFError, OSError):
            while not self.told.closed and self.told.poll():
                said = self.told.recv()
                self.answers, self.failure = said is None, said

    def send(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Crew:
    """Worker processes and their keeper.

    Args:
        settings: of the gateway.
        reread: gives them again; None where they stay.
        at: socket that is bound; the workers get copies.
        target: where a worker begins.
        announce: is called once every worker answers.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings] | None,
        at: socket.socket,
        target: Target,
        announce: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._reread = reread
        self._at = at
        self._target = target
        self._announce = announce
        self._members: list[_Member] = []
        self._due: dict[int, float] = {}
        """When the next worker is started in a place that is empty."""
        self._pauses: dict[int, float] = {}
        self._signals: list[int] = []

    def run(self) -> None:
        """Keep the workers until a signal says to end, and then until the last of them has.

        Raises:
            TiercelError: a worker can't start.
            SystemExit: a second signal came, and the workers were killed.
        """
        from tiercel.gateway.metrics import MULTIPROCESS
        from tiercel.store.database import open_database

        open_database(self._settings.capture.location).close()  # migrated once, and what is wrong is said once
        shared = tempfile.mkdtemp(prefix="tiercel-metrics-")
        os.environ[MULTIPROCESS] = shared
        try:
            # Handlers only take notes: a worker that is just being started must not miss what the others are told.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, _: self._signals.append(number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            resource_tracker.ensure_running()  # else the first worker's start does it, and lets held signals through
            self._members = [self._start(i) for i in range(self._settings.server.workers)]
            if self._await_all():
                self._announce()
                self._keep()
            self._end()
        finally:
            for member in self._members:
                member.process.kill()
            for member in self._members:
                member.process.join()
            shutil.rmtree(shared, ignore_errors=True)

    def _start(self, index: int) -> _Member:
        context = multiprocessing.get_context("spawn")
        hears, tells = context.Pipe(duplex=False)
        arguments = (self._settings, self._reread, self._at, index == 0, tells)
        process = context.Process(target=self._target, args=arguments, name=f"tiercel-{index}")
        with hold_signals():
            process.start()
        tells.close()
        return _Member(process=process, told=hears, started=time.monotonic())

    def _await_all(self) -> bool:
        """Wait until every worker answers; False when a signal to end came first.

        Raises:
            TiercelError: one of them can't.
        """
        while not all(member.answers for member in self._members):
            self._wait()
            if self._is_ending():
                return False
            self._hand_on_reload()
            for member in self._members:
                if not member.answers and not member.process.is_alive():
                    raise _why_not(member)
        return True

    def _keep(self) -> None:
        """Until a signal to end, put another in the place of each worker that ends."""
        while True:
            self._wait()
            if self._is_ending():
                return
            self._hand_on_reload()
            now = time.monotonic()
            for index, member in enumerate(self._members):
                if member.process.is_alive():
                    continue
                if index not in self._due:
                    self._due[index] = now + self._mourn(index, member)
                elif now >= self._due[index]:
                    del self._due[index]
                    self._members[index] = self._start(index)

    def _mourn(self, index: int, member: _Member) -> float:
        """Say that a worker ended; the seconds until the next one is started."""
        from tiercel.gateway.metrics import forget_worker

        forget_worker(member.process.pid or 0)
        member.told.close()
        lasted = time.monotonic() - member.started
        shortest, longest = RESTART_S
        last = 0.0 if lasted > STEADY_S else self._pauses.get(index, 0.0)
        pause = self._pauses[index] = min(max(2 * last, shortest), longest)
        what = f"ended ({_code(member)})" if member.answers else f"could not start: {_why_not(member)}"
        _log.error("a worker %s; another takes its place", what)
        return pause

    def _hand_on_reload(self) -> None:
        if signal.SIGHUP not in self._signals:
            return
        self._signals.clear()
        if self._reread is not None:
            try:
                # What workers that are started later begin with: the same store and form of the log as the others'.
                self._settings = reloaded(self._settings, self._reread())
            except (TiercelError, OSError) as error:
                _log.error("the configuration stays as it was: %s", error)
                return
        for member in self._members:
            member.send(signal.SIGHUP)

    def _end(self) -> None:
        """Have all workers drain; the socket is closed here too, or connections would wait for nobody."""
        self._at.close()
        del self._signals[0]
        for member in self._members:
            member.send(signal.SIGTERM)
        limit = time.monotonic() + self._settings.server.drain_s + GRACE_S
        while any(member.process.is_alive() for member in self._members):
            self._wait()
            if self._is_ending():
                raise SystemExit(128 + self._signals[0])
            if time.monotonic() > limit:
                raise RunError("a worker did not end in time and was killed; what it had not stored is lost")
        bad = [member for member in self._members if member.answers and member.process.exitcode]
        if bad:
            raise RunError(f"a worker ended badly while it drained ({_code(bad[0])}); its errors stand above")

    def _is_ending(self) -> bool:
        self._signals = sorted(self._signals, key=lambda number: number == signal.SIGHUP)  # those to end come first
        return bool(self._signals) and self._signals[0] != signal.SIGHUP

    def _wait(self) -> None:
        """Until something happens to a worker, or for a moment: a signal wakes nobody."""
        connection.wait([m.process.sentinel for m in self._members if m.process.is_alive()], _TICK_S)
        for member in self._members:
            member.hear()


@contextmanager
def hold_signals() -> Generator[None]:
    """Keep Ctrl-C and SIGHUP waiting; a process that is started meanwhile begins with them held."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _why_not(member: _Member) -> TiercelError:
    if member.failure is not None:
        return member.failure
    code = member.process.exitcode
    if code is not None and code < 0:
        return RunError(f"a worker was ended while it started ({_code(member)}); start fewer, or see what ended it")
    return RunError(f"a worker could not start ({_code(member)}); what it printed stands above")


def _code(member: _Member) -> str:
    code = member.process.exitcode or 0
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
