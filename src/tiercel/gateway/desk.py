"""Has a bundle answer off the event loop; requests that come while it is busy are answered together next."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tiercel.errors import ProviderError, UnreadableAnswerError
from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.flows.bundle import Answered, Bundle

__all__ = ["FAILED", "MOST_WAITING", "UNREACHABLE", "Desk", "DeskFull"]

Asked = tuple[Sequence[Message], dict[str, Any] | None]

FAILED = "student failed"
UNREACHABLE = "student unreachable"
DOWN_S = 5.0
"""Seconds in which an engine that could not be reached is not asked again."""
LARGEST_BATCH = 32
MOST_WAITING = 1_000
"""Requests that wait for one bundle; each holds its body, and who comes after so many would wait long."""

_log = logging.getLogger("tiercel.gateway")


class DeskFull(Exception):
    """So many requests wait for a bundle that no more are taken."""


class Desk:
    """Where requests to one bundle wait for their turn. It closes when the last configuration that uses it lets it go.

    Args:
        bundle: that answers.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._waiting: dict[asyncio.Future[Answered], Asked] = {}
        self._busy = False
        self._users: set[int] = set()
        self._down_until = 0.0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tiercel-student")

    async def answer(self, messages: Sequence[Message], metadata: dict[str, Any] | None = None) -> Answered:
        """What the bundle says to a request; `metadata` is the request's own, by which it may be parted.

        Raises:
            DeskFull: too many wait already.
        """
        if time.monotonic() < self._down_until:
            return _passed_on(UNREACHABLE)
        if len(self._waiting) >= MOST_WAITING:
            raise DeskFull
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting[future] = (messages, metadata)
        if not self._busy:
            self._next()
        try:
            return await future
        finally:
            self._waiting.pop(future, None)  # its client may have left before its turn

    def take(self, user: object) -> None:
        """Stay open for a configuration; from any thread."""
        self._users.add(id(user))

    def release(self, user: object) -> None:
        """Let the thread go, unless another configuration still uses it."""
        if id(user) not in self._users:
            return
        self._users.discard(id(user))
        if not self._users:
            self._executor.submit(self.bundle.close)  # after what it works on
            self._executor.shutdown(wait=False)

    def _next(self) -> None:
        batch = list(itertools.islice(self._waiting.items(), LARGEST_BATCH))
        self._busy = bool(batch)
        if not batch:
            return
        for future, _ in batch:
            del self._waiting[future]
        job = asyncio.get_running_loop().run_in_executor(self._executor, self._work, [asked for _, asked in batch])

        def done(job: asyncio.Future[list[Answered]]) -> None:
            if job.cancelled():
                return
            for (future, _), answered in zip(batch, job.result(), strict=True):
                if not future.done():
                    future.set_result(answered)
            self._next()

        job.add_done_callback(done)

    def _work(self, requests: list[Asked]) -> list[Answered]:
        try:
            return self.bundle.answer_many([m for m, _ in requests], metadata=[m for _, m in requests])
        except UnreadableAnswerError as error:
            return self._one_by_one(requests, error)
        except ProviderError as error:  # its engine, a server of its own, is away or overrun: nobody waits for it again
            self._down_until = time.monotonic() + DOWN_S
            _log.error("the student's engine can't be asked for %g s: %s", DOWN_S, error)
            return [_passed_on(UNREACHABLE) for _ in requests]
        except Exception as error:
            return self._one_by_one(requests, error)

    def _one_by_one(self, requests: list[Asked], error: Exception) -> list[Answered]:
        """Pass on the one that fails alone."""
        if len(requests) > 1:
            return [answered for request in requests for answered in self._work([request])]
        _log.error("the student failed: %s", type(error).__name__)
        return [_passed_on(FAILED)]


def _passed_on(reason: str) -> Answered:
    from tiercel.flows.bundle import Answered

    return Answered(tier="frontier", answer=None, confidence=0.0, latency_ms=0.0, reason=reason)
