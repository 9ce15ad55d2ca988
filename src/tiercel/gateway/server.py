"""`tiercel serve`: the socket, one worker or several, and what keeps them running.

One worker runs in this process. Several are processes of their own on one listening socket; this process starts again
those that end, and hands signals on.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from tiercel.errors import ConfigurationError, TiercelError
from tiercel.gateway.sections import Settings, is_loopback

__all__ = ["serve"]

RESTART_S = (0.1, 5.0)
"""Shortest and longest pause before a worker that ended is started again."""

_log = logging.getLogger("tiercel.gateway")


def serve(settings: Settings, config: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are then answered, a second signal ends at once.

    Args:
        settings: of the gateway.
        config: file that they came from, which SIGHUP reads again; None for none.

    Raises:
        BundleError: a bundle can't be read.
        ConfigurationError: the server can't listen there, or the store can't be opened.
        StorageError: the store can't be written.
    """
    # Students run on threads of their own: those of BLAS would only spin beside them. It is read when numpy loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _set_up_logging(settings)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    at = _bound(settings)
    try:
        if settings.server.workers == 1:
            _one(settings, config, at)
        else:
            _Crew(settings, config, at).run()
    finally:
        at.close()


def _one(settings: Settings, config: Path | None, at: socket.socket, *, first: bool = True, crew: bool = False) -> None:
    from tiercel.gateway.worker import Worker, work

    worker = Worker(settings, partial(_reread, config) if config else None, first=first)
    announce = None if crew else partial(_announce, settings, at)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work(worker, at, announce=announce))


def _reread(config: Path) -> Settings:
    from tiercel.gateway.settings import read_settings

    return read_settings(config, os.environ)


def _in_process(settings: Settings, config: Path | None, at: socket.socket, first: bool) -> None:
    """Where a worker process begins."""
    _set_up_logging(settings)
    try:
        _one(settings, config, at, first=first, crew=True)
    except TiercelError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


class _Crew:
    """Worker processes and their keeper."""

    def __init__(self, settings: Settings, config: Path | None, at: socket.socket) -> None:
        self._settings = settings
        self._config = config
        self._at = at
        self._workers: list[BaseProcess] = []
        self._pauses: dict[int, float] = {}
        self._ending = False

    def run(self) -> None:
        from tiercel.gateway.metrics import MULTIPROCESS
        from tiercel.store.database import open_database

        open_database(self._settings.capture.location).close()  # migrated once, and what is wrong is said once
        shared = tempfile.mkdtemp(prefix="tiercel-metrics-")
        os.environ[MULTIPROCESS] = shared
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._end)
            signal.signal(signal.SIGHUP, lambda *_: self._send(signal.SIGHUP))
            self._workers = [self._start(i) for i in range(self._settings.server.workers)]
            _announce(self._settings, self._at)
            self._watch()
        finally:
            shutil.rmtree(shared, ignore_errors=True)

    def _start(self, index: int) -> BaseProcess:
        context = multiprocessing.get_context("spawn")
        arguments = (self._settings, self._config, self._at, index == 0)
        process = context.Process(target=_in_process, args=arguments, name=f"tiercel-{index}")
        process.start()
        return process

    def _watch(self) -> None:
        from tiercel.gateway.metrics import forget_worker

        began = time.monotonic()
        while any(process.is_alive() for process in self._workers) or not self._ending:
            time.sleep(0.05)
            if self._ending:
                continue
            for index, process in enumerate(self._workers):
                if process.is_alive():
                    continue
                if process.exitcode and time.monotonic() - began < 5 and process.exitcode > 0:
                    self._end()
                    raise ConfigurationError("a worker could not start; its error stands above")
                forget_worker(process.pid or 0)
                pause = self._pauses[index] = min(2 * self._pauses.get(index, RESTART_S[0] / 2), RESTART_S[1])
                _log.error("a worker ended with code %s; another takes its place", process.exitcode)
                time.sleep(pause)
                if not self._ending:
                    self._workers[index] = self._start(index)

    def _end(self, *_: object) -> None:
        if self._ending:
            for process in self._workers:
                process.kill()
        self._ending = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._workers:
            if process.pid is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)


def _bound(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        at = socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigurationError(f"can't listen at {host}:{port} ({why}); choose another --host or --port") from None
    at.setblocking(False)
    return at


def _announce(settings: Settings, at: socket.socket) -> None:
    address = at.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    names = [w.name for w in settings.workloads if w.bundle]
    chain = [p.name for p in settings.chain()]
    _log.info("serving at http://%s:%s/v1", shown, address[1])
    _log.info("workloads with a student: %s", ", ".join(names) or "none")
    _log.info("the frontier is %s", " then ".join(chain) or "not configured: what it has to answer gets 503")
    if not is_loopback(settings.server.host) and not settings.server.needs_keys:
        _log.warning("whoever reaches this address can use the frontier with this server's key")


def _set_up_logging(settings: Settings) -> None:
    # What no line shows need not be found out for each (see "Optimization" in the documentation of logging).
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    if not _log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_formatter(settings.telemetry.log_format))
        _log.addHandler(handler)
    if _log.level == logging.NOTSET:
        _log.setLevel(settings.telemetry.log_level.upper())


def _formatter(form: str) -> logging.Formatter:
    if form == "json":
        from tiercel.gateway.logs import JsonFormatter

        return JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
