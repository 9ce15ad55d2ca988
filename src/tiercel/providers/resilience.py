"""When a provider is asked again, and when it is left alone: backoff, a budget of retries, a circuit breaker.

All of it is arithmetic on a clock that is passed in. Nothing here waits, sends or knows of HTTP.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tiercel.errors import ConfigurationError

__all__ = ["Breaker", "BreakerSettings", "RetryBudget", "backoff"]

LONGEST_RETRY_AFTER_S = 300.0
"""Seconds that a provider can send all requests away for; after that, one asks again."""
_PARTS = 10
"""Parts of the breaker's window: it forgets in steps of a tenth."""
_MOST_DOUBLINGS = 30


def backoff(
    attempt: int,
    retry_after: float | None = None,
    rng: random.Random | None = None,
    *,
    first_s: float = 0.25,
    longest_s: float = 8.0,
) -> float:
    """Seconds to wait before a failed request is sent again, with full jitter: anything from 0 to the doubled bound.

    Requests that failed together would otherwise come back together. Where the provider named a time, it is kept, and
    the jitter comes on top.

    Args:
        attempt: how many have failed, 1 or more.
        retry_after: seconds that the provider asked for.
        rng: source of the jitter.
        first_s: bound after the first failure; it doubles with each further one.
        longest_s: the bound grows no further.
    """
    bound = min(longest_s, first_s * 2.0 ** min(max(0, attempt - 1), _MOST_DOUBLINGS))
    draw = (rng or random).random()
    return draw * bound if retry_after is None else retry_after + draw * min(bound, first_s)


class RetryBudget:
    """How many retries a provider gets: a share of the requests sent to it, and a few a second whatever their number.

    When a provider fails, the load on it grows by the share at the most. It is a bucket: each request puts a part of a
    token in, each second some more, a retry takes a whole one out.

    Args:
        share: retries for each request.
        per_second: retries that may always be made.
        reserve: tokens that the bucket holds, and begins with.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        share: float = 0.2,
        per_second: float = 1.0,
        reserve: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (share >= 0 and per_second >= 0 and reserve >= 0 and math.isfinite(share + per_second + reserve)):
            raise ConfigurationError("a retry budget has a share, a rate and a reserve of 0 or more")
        self._share = share
        self._per_second = per_second
        self._reserve = reserve
        self._clock = clock
        self._tokens = reserve
        self._filled = clock()

    def request(self) -> None:
        """A request is sent for the first time."""
        self._tokens = min(self._reserve, self._tokens + self._share)

    def take(self) -> bool:
        """Take a token for a retry; False, and nothing changes, where there is none."""
        now = self._clock()
        self._tokens = min(self._reserve, self._tokens + max(0.0, now - self._filled) * self._per_second)
        self._filled = now
        if self._tokens < 1 - 1e-9:  # ten tenths are a little less than one
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens and closes.

    Attributes:
        window_s: seconds that count.
        least: attempts in the window below which it does not open.
        share: of failures among the attempts, from which on it opens.
        rest_s: seconds that it stays open first; doubles each time that the request after it fails too.
        longest_rest_s: the rest grows no longer.

    Raises:
        ConfigurationError: one of them can't be.
    """

    window_s: float = 30.0
    least: int = 20
    share: float = 0.5
    rest_s: float = 2.0
    longest_rest_s: float = 60.0

    def __post_init__(self) -> None:
        times = (self.window_s, self.rest_s, self.longest_rest_s)
        if not all(math.isfinite(t) and t > 0 for t in times) or self.least < 1 or not 0 < self.share <= 1:
            raise ConfigurationError("a breaker has times above 0, `least` of 1 or more and a share in (0, 1]")


class Breaker:
    """Keeps requests from a provider that fails, and lets single ones through to see whether it has recovered.

    Closed, all may go. It opens when too many of the last attempts failed; after a rest it is half-open and lets one
    request through: its success closes the breaker, its failure opens it for twice as long. Apart from that, a
    provider that sends requests away for a named time gets none until then.

    Each ticket of `admit` is handed back to one of `succeeded`, `failed`, `sent_away` and `released`. A breaker that
    has opened or closed meanwhile does not count it: what was under way then says nothing of what came after.

    Args:
        settings: when it opens and closes.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: BreakerSettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings or BreakerSettings()
        self._clock = clock
        self._part_s = self._settings.window_s / _PARTS
        self._good = [0] * _PARTS
        self._bad = [0] * _PARTS
        self._part = math.floor(clock() / self._part_s)
        self._closed = True
        self._probing = False
        self._turn = 0
        self._opens_at = -math.inf
        self._rest_s = self._settings.rest_s
        self._away_until = -math.inf
        self._sent_away = 0

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """What it does with the next request; open also while the provider sends requests away."""
        now = self._clock()
        if now < self._away_until or (not self._closed and now < self._opens_at):
            return "open"
        return "closed" if self._closed else "half-open"

    def admit(self) -> int | None:
        """A ticket for one request, or None where it may not go."""
        if self._closed and self._away_until == -math.inf:
            return self._turn
        now = self._clock()
        if now < self._away_until or (not self._closed and (self._probing or now < self._opens_at)):
            return None
        self._away_until = -math.inf
        if not self._closed:
            self._probing = True
            self._turn += 1
        return self._turn

    def wait(self) -> float:
        """Seconds that are worth waiting for: those that the provider named; infinite after failures."""
        now = self._clock()
        if not self._closed and (self._probing or now < self._opens_at):
            return math.inf
        return max(0.0, self._away_until - now)

    def retry_in(self) -> float:
        """Seconds until a request may go again; 0.0 where one may go now, or where a single one finds out."""
        now = self._clock()
        return max(0.0, self._away_until - now, 0.0 if self._closed else self._opens_at - now)

    def succeeded(self, ticket: int) -> None:
        """The provider did its part: it answered, or refused what no provider would have taken."""
        self._sent_away = 0
        if ticket != self._turn:
            return
        if not self._closed:
            # What failed before the rest says nothing of the provider now.
            self._closed, self._probing, self._rest_s = True, False, self._settings.rest_s
            self._good, self._bad = [0] * _PARTS, [0] * _PARTS
            self._turn += 1
        self._count(self._good)

    def failed(self, ticket: int) -> None:
        """The provider failed: a timeout, a status of 500 or more, no connection, garbage."""
        if ticket != self._turn:
            return
        settings = self._settings
        if not self._closed:
            self._open(min(settings.longest_rest_s, self._rest_s * 2))
            return
        self._count(self._bad)
        bad = sum(self._bad)
        total = bad + sum(self._good)
        if total >= settings.least and bad >= settings.share * total:
            self._open(settings.rest_s)

    def released(self, ticket: int) -> None:
        """Nothing was learned: the request was cancelled, or the provider had too many."""
        if ticket == self._turn:
            self._probing = False

    def sent_away(self, ticket: int, seconds: float) -> None:
        """The provider asked to be left alone for so long.

        One such refusal may be about one request, its size or its model. The second in a row, or that of the request
        which finds out, is about all.
        """
        self._sent_away += 1
        if self._sent_away > 1 or (self._probing and ticket == self._turn):
            until = self._clock() + min(max(0.0, seconds), LONGEST_RETRY_AFTER_S)
            self._away_until = max(self._away_until, until)
        self.released(ticket)

    def _open(self, rest_s: float) -> None:
        self._closed, self._probing, self._rest_s = False, False, rest_s
        self._opens_at = self._clock() + rest_s
        self._turn += 1

    def _count(self, counts: list[int]) -> None:
        part = math.floor(self._clock() / self._part_s)
        for gone in range(self._part + 1, min(part, self._part + _PARTS) + 1):
            self._good[gone % _PARTS] = self._bad[gone % _PARTS] = 0
        self._part = max(self._part, part)
        counts[self._part % _PARTS] += 1
