"""A stream whose pieces are made in a thread of their own and taken in another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from tiercel.engines.protocol import Delta
from tiercel.errors import EngineError, TiercelError

__all__ = ["DeltaRelay", "Relay"]

T = TypeVar("T")


class _End:
    """What follows the last piece."""


class Relay(Generic[T]):
    """An iterator over what `work` puts; closing it makes the next `put` return True, which asks `work` to stop.

    Args:
        work: called in a new thread with `put`; whatever it raises is raised by the iterator.
        cancel: called once on closing, to wake a `work` that waits.
    """

    def __init__(self, work: Callable[[Callable[[T], bool]], None], cancel: Callable[[], None] | None = None) -> None:
        self._pieces: queue.SimpleQueue[T | _End | BaseException] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._cancel = cancel
        self._ended = False
        # The thread does not hold the relay, so that one that nobody holds any more is closed.
        self._thread = threading.Thread(
            target=_run, args=(work, self._pieces, self._closed), daemon=True, name="tiercel-stream"
        )
        self._thread.start()

    def __iter__(self) -> Relay[T]:
        return self

    def __next__(self) -> T:
        if self._ended or self._closed.is_set():
            raise StopIteration
        piece = self._pieces.get()
        if isinstance(piece, _End | BaseException):
            self._ended = True
            if self._closed.is_set() or isinstance(piece, _End):
                raise StopIteration
            if isinstance(piece, TiercelError):
                raise piece
            raise EngineError(f"the engine failed while it answered ({type(piece).__name__})") from piece
        return piece

    def close(self) -> None:
        """Stop the work; pieces that were not taken are dropped."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._cancel is not None and self._thread.is_alive():
            self._cancel()
        # Whoever waits for the next piece is let go.
        self._pieces.put(_End())

    def join(self, seconds: float) -> bool:
        """Wait for the work to end; whether it did."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def __enter__(self) -> Relay[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()


def _run(
    work: Callable[[Callable[[T], bool]], None],
    pieces: queue.SimpleQueue[T | _End | BaseException],
    closed: threading.Event,
) -> None:
    def put(piece: T) -> bool:
        pieces.put(piece)
        return closed.is_set()

    try:
        work(put)
    except BaseException as error:
        pieces.put(error)
    else:
        pieces.put(_End())


class DeltaRelay:
    """The deltas of a relay of chunks; closing it closes the relay.

    Args:
        chunks: as a server sends them.
        read: the delta of a chunk, or None for a chunk that says nothing.
        finish: the delta that follows the last chunk, or None.
    """

    def __init__(
        self,
        chunks: Relay[dict[str, Any]],
        read: Callable[[dict[str, Any]], Delta | None],
        finish: Callable[[], Delta | None] | None = None,
    ) -> None:
        self._chunks = chunks
        self._read = read
        self._finish = finish

    def __iter__(self) -> DeltaRelay:
        return self

    def __next__(self) -> Delta:
        for chunk in self._chunks:
            delta = self._read(chunk)
            if delta is not None:
                return delta
        finish, self._finish = self._finish, None
        last = finish() if finish is not None else None
        if last is None:
            raise StopIteration
        return last

    def close(self) -> None:
        """Cancel what is left of the work."""
        self._finish = None
        self._chunks.close()

    def __enter__(self) -> DeltaRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
