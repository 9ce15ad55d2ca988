"""Has a bundle answer off the event loop; requests that come while it is busy are answered together next."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.flows.bundle import Answered, Bundle

__all__ = ["Desk"]

Asked = tuple[Sequence[Message], dict[str, Any] | None]

LARGEST_BATCH = 32

_log = logging.getLogger("tiercel.gateway")


class Desk:
    """Where requests to one bundle wait for their turn.

    Args:
        bundle: that answers.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._waiting: deque[tuple[Asked, asyncio.Future[Answered]]] = deque()
        self._busy = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tiercel-student")

    async def answer(self, messages: Sequence[Message], metadata: dict[str, Any] | None = None) -> Answered:
        """What the bundle says to a request; `metadata` is the request's own, by which it may be parted."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append(((messages, metadata), future))
        if not self._busy:
            self._next()
        return await future

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        batch: list[tuple[Asked, asyncio.Future[Answered]]] = []
        while self._waiting and len(batch) < LARGEST_BATCH:
            asked, future = self._waiting.popleft()
            if not future.done():  # its client may be gone
                batch.append((asked, future))
        self._busy = bool(batch)
        if not batch:
            return
        job = asyncio.get_running_loop().run_in_executor(self._executor, self._work, [asked for asked, _ in batch])

        def done(job: asyncio.Future[list[Answered]]) -> None:
            if job.cancelled():
                return
            for (_, future), answered in zip(batch, job.result(), strict=True):
                if not future.done():
                    future.set_result(answered)
            self._next()

        job.add_done_callback(done)

    def _work(self, requests: list[Asked]) -> list[Answered]:
        try:
            return self.bundle.answer_many([m for m, _ in requests], metadata=[m for _, m in requests])
        except Exception as error:
            if len(requests) > 1:  # only the one that fails is to be passed on
                return [self._work([request])[0] for request in requests]
            from tiercel.flows.bundle import Answered

            _log.error("the student failed: %s", type(error).__name__)
            return [Answered(tier="frontier", answer=None, confidence=0.0, latency_ms=0.0, reason="student failed")]
