"""Asks the store's limits from the event loop: one thread, so that a store that is slow holds up nobody else.

Requests that come while the thread is at work are answered together next, in one transaction and in the order in
which they came: a store that takes its time for each transaction then costs a request little. Where the store does
not answer, nothing is granted: a limit that is passed while nobody looks would be none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from tiercel.errors import StorageError
from tiercel.store.database import Database
from tiercel.store.limits import Claim, Exceeded, Reservation, Scope, claim, release, reserve_many

__all__ = ["Limiter"]

LONGEST_S = 5.0
"""Seconds that a request waits for the store to say whether it may be answered."""
LARGEST_BATCH = 64
"""Requests of one transaction, which holds the locks of all their keys and workloads."""

_log = logging.getLogger("tiercel.gateway")


class Limiter:
    """Reserves what a request may use.

    Args:
        database: where limits are kept, for all gateways that share it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tiercel-limits")
        self._waiting: deque[tuple[Claim, Future[Reservation | Exceeded]]] = deque()
        self._silent = False

    async def reserve(
        self,
        scopes: Sequence[Scope],
        *,
        usd: float,
        tokens: int,
        now: float,
        lease_s: float,
        held: Reservation | None = None,
    ) -> Reservation | Exceeded:
        """Reserve in all scopes, or in none.

        Args:
            scopes: key and workload, with their limits.
            usd: that the request may cost.
            tokens: that it may take.
            now: Unix time in seconds.
            lease_s: seconds after which the money may go back, should nobody settle.
            held: what was reserved for the same request before; it becomes part of this reservation.

        Raises:
            StorageError: the store does not answer, or not in time.
        """
        return await self._ask(claim(scopes, usd=usd, tokens=tokens, now=now, lease_s=lease_s, held=held))

    async def count(self, scopes: Sequence[Scope], *, now: float) -> Exceeded | None:
        """Count a request that costs nothing, where its rates allow it; else which of them does not.

        Args:
            scopes: with their limits.
            now: Unix time in seconds.

        Raises:
            StorageError: the store does not answer, or not in time.
        """
        answer = await self._ask(claim(scopes, usd=0.0, tokens=0, now=now, passing=True))
        return answer if isinstance(answer, Exceeded) else None

    async def _ask(self, asked: Claim) -> Reservation | Exceeded:
        job: Future[Reservation | Exceeded] = Future()
        self._waiting.append((asked, job))
        if len(self._waiting) == 1:
            self._executor.submit(self._answer)
        try:
            async with asyncio.timeout(LONGEST_S):
                answer = await asyncio.wrap_future(job)
        except TimeoutError:
            job.add_done_callback(self._give_back)
            raise self._said(StorageError(f"the store did not answer within {LONGEST_S:g} s")) from None
        except asyncio.CancelledError:  # the client has left
            job.add_done_callback(self._give_back)
            raise
        except StorageError as error:
            raise self._said(error) from None
        if self._silent:
            self._silent = False
            _log.warning("limits are checked again")
        return answer

    def _answer(self) -> None:
        """Answer those who wait; in the thread."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(LARGEST_BATCH, len(self._waiting)))]
            # Who has left meanwhile is not asked for.
            batch = [(asked, job) for asked, job in batch if job.set_running_or_notify_cancel()]
            try:
                answers = reserve_many(self._database, [asked for asked, _ in batch])
            except Exception as error:
                for _, job in batch:
                    job.set_exception(error)
            else:
                for (_, job), answer in zip(batch, answers, strict=True):
                    job.set_result(answer)

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def _said(self, error: StorageError) -> StorageError:
        if not self._silent:
            self._silent = True
            _log.error("limits can't be checked now, and requests that have some are refused: %s", error)
        return error

    def _give_back(self, job: Future[Reservation | Exceeded]) -> None:
        """Release what was reserved for nobody."""
        if job.cancelled() or job.exception() is not None or not isinstance(held := job.result(), Reservation):
            return
        with suppress(RuntimeError):  # at the end of the program; its lease ends by itself
            self._executor.submit(self._release, held)

    def _release(self, held: Reservation) -> None:
        with suppress(StorageError):
            release(self._database, held)
