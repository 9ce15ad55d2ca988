"""Hands what happened to those who write it down, off the request path.

`put` never waits and never fails: a bounded queue takes the item, or a counter says that it was dropped, but for what
must be written in any case. One thread
takes all that came in the last twentieth of a second, makes of each what is to be kept, and writes that. While it can't
be written, the queue fills: what came first is kept, and what finds the queue full is dropped. `is_behind` tells when
the thread gets too little of the processor, so that the next requests can leave it some.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tiercel.errors import StorageError

__all__ = ["Recorder"]

T = TypeVar("T")
U = TypeVar("U")

EVERY_S = 0.05
LARGEST_BATCH = 500
LARGEST_BATCH_BYTES = 32 * 2**20
MOST_BYTES = 64 * 2**20
"""Of requests and answers that wait, as they were sent; decoded they take some times more."""
LONGEST_PAUSE_S = 5.0
BEHIND = 600
"""Items that wait where the thread gets too little of the processor: a tenth of a second's at full load."""

_log = logging.getLogger("tiercel.gateway")


class Recorder(Generic[T, U]):
    """A bounded queue and the thread that empties it.

    Args:
        prepare: makes of an item what is kept of it; called once an item, in the thread.
        write: keeps a batch. When it raises an OSError, such as a StorageError, it is given the same batch until that
            passes; on any other error, which the items have caused, each of them alone, once.
        size: items that may wait.
        on_drop: is told how many were dropped, each time.
        weigh: the bytes that an item holds; None where all are small.
        most_bytes: that waiting items may hold together. An item is always taken when none waits.
        shorten: what must be written of an item even where there is no room, a small and rare thing; None for nothing.
    """

    def __init__(
        self,
        prepare: Callable[[T], U],
        write: Callable[[Sequence[U]], object],
        *,
        size: int = 10_000,
        on_drop: Callable[[int], object] | None = None,
        weigh: Callable[[T], int] | None = None,
        most_bytes: int = MOST_BYTES,
        shorten: Callable[[T], T | None] | None = None,
    ) -> None:
        self._prepare = prepare
        self._write = write
        self._size = size
        self._give_up = float("inf")
        self._troubles: set[str] = set()
        """What has been said of why nothing can be written, since when something was."""
        self._lost = 0
        """Items dropped since then."""
        self._on_drop = on_drop
        self._weigh = weigh
        self._most_bytes = most_bytes
        self._shorten = shorten
        self._queue: deque[tuple[T, int]] = deque()
        # Two counters, each with one thread that writes it: their difference is what waits.
        self._came_bytes = 0
        self._went_bytes = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Items that nobody wrote down, or not in full."""
        self.written = 0
        """Items that were written down."""

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def is_behind(self) -> bool:
        """Whether items come faster than they are written, though nothing keeps them from being written."""
        return len(self._queue) > BEHIND and not self._troubles

    def put(self, item: T) -> None:
        """Take an item; where there is no room, count it as dropped, and take what must be written of it."""
        if self._stop.is_set():
            self._drop(1)
            return
        held = self._weigh(item) if self._weigh is not None else 0
        waiting = self._came_bytes - self._went_bytes
        if len(self._queue) >= self._size or (waiting and waiting + held > self._most_bytes):
            self._drop(1)
            self._say("the queue of traces is full; further ones are dropped and counted until it has room")
            short = self._shorten(item) if self._shorten is not None else None
            if short is None:
                return
            item, held = short, 0
        self._came_bytes += held
        self._queue.append((item, held))

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="tiercel-recorder", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Write what waits and end the thread; what can't be written in time is counted as dropped."""
        self._give_up = time.monotonic() + timeout_s / 2
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._queue:
            self._drop(len(self._queue))
            self._queue.clear()

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._lost += count
        if self._on_drop is not None:
            self._on_drop(count)

    def _run(self) -> None:
        while True:
            last = self._stop.is_set()
            started = time.monotonic()
            while self._queue:
                batch, held = self._take()
                if batch:
                    self._keep(batch)
                self._went_bytes += held
            if last:
                return
            self._stop.wait(max(0.0, EVERY_S - (time.monotonic() - started)))

    def _take(self) -> tuple[list[U], int]:
        """What is kept of the next items, and the bytes that these held."""
        batch: list[U] = []
        held = 0
        while self._queue and len(batch) < LARGEST_BATCH and held < LARGEST_BATCH_BYTES:
            item, its_bytes = self._queue.popleft()
            held += its_bytes
            try:
                batch.append(self._prepare(item))
            except Exception as error:
                # The text of an error may hold what was asked; its type says enough.
                _log.error("a trace can't be read: %s", type(error).__name__)
                self._drop(1)
        return batch, held

    def _keep(self, batch: Sequence[U]) -> None:
        pause = 0.05
        while True:
            try:
                self._write(batch)
            except OSError as error:
                self._say(f"traces can't be stored now and wait: {_cause(error)}")
                if time.monotonic() + pause > self._give_up:
                    self._drop(len(batch))
                    return
                if self._stop.wait(pause):
                    time.sleep(min(pause, 0.1))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except Exception as error:
                if len(batch) == 1:
                    _log.error("a trace can't be stored: %s", type(error).__name__)
                    self._drop(1)
                    return
                for item in batch:
                    self._keep([item])
                return
            else:
                self.written += len(batch)
                if self._troubles:
                    _log.warning("traces are stored again; %d were dropped meanwhile", self._lost)
                    self._troubles.clear()
                    self._lost = 0
                return

    def _say(self, trouble: str) -> None:
        """Log what is wrong, once for each cause, however many traces it keeps from being stored."""
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            _log.error("%s", trouble)


def _cause(error: OSError) -> str:
    # The text of a foreign error may hold what was asked; its type says enough.
    return str(error) if isinstance(error, StorageError) else type(error).__name__
