"""Playing a file of recorded answers as a server, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tiercel.datasets.contract import example_from
from tiercel.datasets.sources import iterate_rows
from tiercel.errors import ConfigurationError, DataError
from tiercel.types import Example

if TYPE_CHECKING:
    from tiercel.providers.replay import ReplaySettings

__all__ = ["read_recordings", "replay"]

SHOWN = 5
"""Lines that can't be used and are named one by one."""

_log = logging.getLogger("tiercel.replay")


def read_recordings(paths: Sequence[Path]) -> list[Example]:
    """The examples of files in the data contract that hold an answer; other lines are logged and left out.

    Raises:
        DataError: a file can't be read, or none holds an answer.
    """
    examples, read, broken = list[Example](), 0, 0
    for path in paths:
        for row in iterate_rows(path):
            read += 1
            try:
                if row.error is not None:
                    raise DataError(row.error)
                example = example_from(row.value)
            except DataError as error:
                broken += 1
                if broken <= SHOWN:
                    _log.warning("%s, line %s: %s", path, row.line, error)
                continue
            if example.answer or example.reference or example.responses:
                examples.append(example)
    if broken > SHOWN:
        _log.warning("%s lines can't be used, %s of them named above", broken, SHOWN)
    if not examples:
        names = ", ".join(map(str, paths))
        raise DataError(
            f"{names}: none of {read} rows holds an answer to play; give rows that end with an assistant message"
        )
    return examples


def replay(paths: Sequence[Path], settings: ReplaySettings, host: str, port: int) -> None:
    """Serve recorded answers until SIGINT or SIGTERM; the log says where.

    Args:
        paths: recorded answers in the data contract.
        settings: how they are played.
        host: address to listen at.
        port: 0 for any that is free.

    Raises:
        DataError: no file holds an answer.
        ConfigurationError: the server can't listen there.
    """
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"--port is {port}; give one from 0 (any that is free) to 65535")
    if not _log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _log.addHandler(handler)
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    examples = read_recordings(paths)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(examples, settings, host, port))


async def _serve(examples: list[Example], settings: ReplaySettings, host: str, port: int) -> None:
    from tiercel.providers.replay import ReplayServer

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    with suppress(NotImplementedError):  # Windows: a KeyboardInterrupt ends it
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    server = ReplayServer(examples, settings, host=host, port=port)
    async with server as url:
        _log.info("playing the answers to %s requests at %s", len(server.recordings), url)
        await stop.wait()
    counts = server.counts
    faults = ", ".join(f"{name} {times}" for name, times in sorted(counts.faults.items())) or "none"
    _log.info("%s answered, %s not recorded, %s left; faults: %s", counts.answered, counts.missed, counts.left, faults)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
