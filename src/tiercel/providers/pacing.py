"""How fast a provider is asked: a token bucket, and how long to wait before a failed request is sent again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

__all__ = ["Retry", "TokenBucket"]


class TokenBucket:
    """Lets through so many requests a minute, evenly; a pause that the provider asked for holds all of them.

    In any span of t seconds it lets through at most `burst` + t x rate / 60.

    Args:
        rate: requests a minute; None for no limit.
        burst: requests that may go at once after a silence.
        clock: seconds, monotonic.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        burst: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._per_second = rate / 60 if rate is not None else None
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._filled = clock()
        self._open_at = self._filled

    async def take(self) -> None:
        """Wait until one more request may be sent."""
        while (wait := self._wait()) > 0:
            await self._sleep(wait)
        self._tokens -= 1

    def pause(self, seconds: float) -> None:
        """Let nothing through for `seconds` from now."""
        self._open_at = max(self._open_at, self._clock() + seconds)

    def _wait(self) -> float:
        now = self._clock()
        if now < self._open_at:
            return self._open_at - now
        if self._per_second is None:
            self._tokens = 1.0
            return 0.0
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled) * self._per_second)
        self._filled = now
        # A wait that rounding cut short must not be followed by endless shorter ones.
        return 0.0 if self._tokens >= 1 - 1e-9 else max(1e-4, (1 - self._tokens) / self._per_second)


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When a request that failed is sent again.

    Attributes:
        tries: of one request, the first included.
        first_s: wait after the first failure, before jitter; doubles with each further one.
        longest_s: the wait grows no further than this.
    """

    tries: int = 6
    first_s: float = 1.0
    longest_s: float = 60.0

    def wait(self, failures: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds to wait after so many failures (1 or more); never less than the provider asked for.

        Jitter keeps requests that failed together from coming back together.
        """
        grown = min(self.longest_s, self.first_s * 2 ** (failures - 1))
        if retry_after is not None:
            return retry_after + rng.uniform(0, 0.25) * self.first_s
        return grown * rng.uniform(0.5, 1.0)
