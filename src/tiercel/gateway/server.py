"""`tiercel serve`: the socket, and one worker in this process or several in processes of their own."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

from tiercel.errors import ConfigurationError, TiercelError
from tiercel.gateway.logs import set_up_logging
from tiercel.gateway.sections import Settings, is_loopback

__all__ = ["serve"]

_log = logging.getLogger("tiercel.gateway")


def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are then answered, a second signal ends at once.

    Args:
        settings: of the gateway.
        reread: gives the settings again, for SIGHUP; it can be pickled. None where there is nothing to read.

    Raises:
        BundleError: a bundle can't be read.
        ConfigurationError: the server can't listen there, or the store can't be opened.
        RunError: a worker can't start or did not end well.
        StorageError: the store can't be written.
        SystemExit: it was told to end before it answered, or twice.
    """
    # Students run on threads of their own: those of BLAS would only spin beside them. It is read when numpy loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    set_up_logging(settings.telemetry)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    at = _bound(settings)
    try:
        with _early_signals():
            if settings.server.workers == 1:
                _one(settings, reread, at, announce=partial(_announce, settings, at))
            else:
                from tiercel.gateway.crew import Crew

                Crew(settings, reread, at, _in_process, partial(_announce, settings, at)).run()
    finally:
        at.close()


def _one(
    settings: Settings,
    reread: Callable[[], Settings] | None,
    at: socket.socket,
    *,
    announce: Callable[[], None],
    first: bool = True,
    keeper: int | None = None,
) -> None:
    from tiercel.gateway.worker import Worker, work

    worker = Worker(settings, reread, first=first)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work(worker, at, announce=announce, keeper=keeper))


def _in_process(
    settings: Settings, reread: Callable[[], Settings] | None, at: socket.socket, first: bool, tells: Connection
) -> None:
    """Where a worker process begins; it was started with SIGINT and SIGHUP held."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the keeper too, which then speaks
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    set_up_logging(settings.telemetry)
    parent = multiprocessing.parent_process()
    keeper = parent.sentinel if parent is not None else None
    answers = False

    def announce() -> None:
        nonlocal answers
        answers = True
        tells.send(None)
        tells.close()

    try:
        _one(settings, reread, at, first=first, announce=announce, keeper=keeper)
    except TiercelError as error:
        if answers:
            _log.error("%s", error)
        else:
            tells.send(error)
        sys.exit(error.exit_code)
    except Exception as error:
        sys.excepthook(
            type(error), error, error.__traceback__
        )  # multiprocessing would print it, whatever the form of the log
        sys.exit(1)


@contextmanager
def _early_signals() -> Generator[None]:
    """Until it answers, SIGTERM ends the program at once, and SIGHUP waits.

    Without a handler the first process of a container would not even notice SIGTERM, and SIGHUP would end it.
    """
    if not hasattr(signal, "SIGHUP"):  # Windows
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
