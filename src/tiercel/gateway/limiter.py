"""Asks the store's limits from the event loop: one thread, so that a store that is slow holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tiercel.store.database import Database
from tiercel.store.limits import Exceeded, Reservation, Scope, reserve

__all__ = ["Limiter"]


class Limiter:
    """Reserves what a request may use.

    Args:
        database: where limits are kept, for all gateways that share it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tiercel-limits")

    async def reserve(self, scopes: Sequence[Scope], *, usd: float, tokens: int, now: float) -> Reservation | Exceeded:
        """Reserve in all scopes, or in none.

        Args:
            scopes: key and workload, with their limits.
            usd: that the request may cost.
            tokens: that it may take.
            now: Unix time in seconds.
        """
        job = partial(reserve, self._database, scopes, usd=usd, tokens=tokens, now=now)
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)
