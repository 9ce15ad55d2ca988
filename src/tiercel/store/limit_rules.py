"""The rules of budgets and rates as arithmetic, without a database.

Budgets: a day and a month are those of the calendar in UTC; what is asked for is granted when what the window has
spent, what is reserved in it and what is asked stay within the budget. Money is whole nano-USD, so that sums are exact.

Rates: in no span of 60 s is more admitted than the limit. Admissions are counted by the second in which they fell, and
a second counts until all of it is 60 s old: an admission holds its place for at least 60 s and less than 61 s. Tokens
count at the moment of their admission, as the estimate first and as what they were once that is known.

Clocks: a scope's time never runs backwards by itself. Whoever asks with an earlier clock than another gateway, or than
before, is answered at the latest time that the scope has seen, so that no step of a clock backwards opens a gate. The
price: a clock that ran ahead holds rates shut until time has caught up, or until somebody sets the account back.
"""

from __future__ import annotations

import math
import time
from calendar import timegm
from dataclasses import dataclass, field
from typing import Literal, get_args

from msgspec import Struct

from tiercel.errors import ConfigurationError, DataError

__all__ = [
    "Account",
    "Exceeded",
    "Holding",
    "LimitName",
    "Period",
    "Scope",
    "ScopeKind",
    "budget_nano",
    "cost_nano",
    "token_count",
]

Period = Literal["day", "month", "total"]
ScopeKind = Literal["key", "workload"]
LimitName = Literal["budget_usd", "requests_per_minute", "tokens_per_minute"]

WINDOW_S = 60
DAY_S = 86_400
MOST_USD = 1e9
MOST_TOKENS = 10**12


def cost_nano(usd: float) -> int:
    """A cost in USD as whole nano-USD, rounded up; a float's own error is no cost.

    Raises:
        DataError: for what is no amount between 0 and a million USD.
    """
    if not 0 <= usd <= 1e6:
        raise DataError(f"a request that costs {usd} USD can't be booked; check the price of its model")
    return math.ceil(round(usd * 1e9, 3))


def budget_nano(usd: float) -> int:
    """A budget in USD as whole nano-USD, rounded down."""
    return math.floor(round(usd * 1e9, 3))


def token_count(tokens: int) -> int:
    """The count itself.

    Raises:
        DataError: for a count below 0 or beyond what any request has.
    """
    if not 0 <= tokens <= MOST_TOKENS:
        raise DataError(f"a request of {tokens} tokens can't be booked; a count lies between 0 and {MOST_TOKENS}")
    return tokens


class Scope(Struct, frozen=True, kw_only=True):
    """What a limit is on, and the limits. What was used is stored by kind and name; limits may change at any time."""

    kind: ScopeKind
    name: str
    """Id of the key, or name of the workload."""
    budget_usd: float | None = None
    """USD a period; None for no budget, 0 for nothing that costs."""
    period: Period = "month"
    """What the budget is for: a calendar day or month in UTC, or all time."""
    requests_per_minute: int | None = None
    """In any 60 s; None for no limit."""
    tokens_per_minute: int | None = None
    """Input and output, in any 60 s; None for no limit."""

    def __post_init__(self) -> None:
        check_limits(self.budget_usd, self.period, self.requests_per_minute, self.tokens_per_minute)
        if self.kind not in get_args(ScopeKind) or not self.name or len(self.name) > 200 or not self.name.isprintable():
            raise ConfigurationError(
                f"{self.kind} {self.name[:80]!r} can't have limits; use a key or workload of 1 to 200 printable letters"
            )

    @property
    def id(self) -> str:
        """Kind and name in one, as in `key:key_3f9a20c7d1e4`."""
        return f"{self.kind}:{self.name}"

    @property
    def limited(self) -> bool:
        """Whether it has a limit at all."""
        return not (self.budget_usd is None and self.requests_per_minute is None and self.tokens_per_minute is None)


def check_limits(budget_usd: float | None, period: str, requests: int | None, tokens: int | None) -> None:
    """Raise ConfigurationError for limits that mean nothing."""
    if budget_usd is not None and not 0 <= budget_usd <= MOST_USD:
        raise ConfigurationError(f"a budget of {budget_usd} USD is none; give an amount between 0 and {MOST_USD:.0f}")
    if period not in get_args(Period):
        raise ConfigurationError(f"there is no period {period[:40]!r}; use one of: {', '.join(get_args(Period))}")
    for count, what in ((requests, "requests"), (tokens, "tokens")):
        if count is not None and not 0 <= count <= MOST_TOKENS:
            raise ConfigurationError(f"a limit of {count} {what} a minute is none; give a count of 0 or more")


def check_time(now: float) -> None:
    """Raise `DataError` for what is no Unix time between 1970 and 9999."""
    if not 0 <= now < 253_370_764_800:
        raise DataError(f"{now} is no Unix time; check the clock of this machine")


class Exceeded(Struct, frozen=True, kw_only=True):
    """A refusal: what was asked for would pass a limit."""

    scope: Scope
    limit: LimitName
    """Which limit; where several would be passed, the one with the longest wait."""
    value: float
    """The limit: USD, requests or tokens."""
    asked: float
    """What the request asked for, in the same unit."""
    retry_after_s: float | None
    """Seconds until the window lets as much through; None where no wait helps: a budget for all time, or a request
    that is larger than the limit itself. Requests under way that cost less than reserved may free a budget sooner."""

    @property
    def too_large(self) -> bool:
        """Whether the request asks for more than the limit itself, so that it will never be let through."""
        return self.asked > self.value

    @property
    def message(self) -> str:
        """One line for the client."""
        what = {
            "budget_usd": f"the budget of {self.value:.10g} USD ({self.scope.period})",
            "requests_per_minute": f"the limit of {self.value:.0f} requests per minute",
            "tokens_per_minute": f"the limit of {self.value:.0f} tokens per minute",
        }[self.limit]
        wait = (
            "waiting does not help: ask for less, or have the limit raised"
            if self.retry_after_s is None
            else f"try again in {math.ceil(self.retry_after_s)} s"
        )
        return f"{self.scope.kind} {self.scope.name} would pass {what}; {wait}"


class Holding(Struct, frozen=True, kw_only=True):
    """What one reservation holds of one scope, and in which windows."""

    nano_usd: int
    tokens: int
    second: int
    """Unix second in which it was admitted."""
    day: int
    """Days since 1970, UTC."""
    month: int
    """Months since the year 0, UTC."""


@dataclass(slots=True)
class Meter:
    """One window of a budget, in nano-USD."""

    window: int = 0
    spent: int = 0
    reserved: int = 0

    def turn_to(self, window: int) -> None:
        """Begin another window, where it is another one."""
        if window != self.window:
            self.window, self.spent, self.reserved = window, 0, 0


@dataclass(slots=True)
class Account:
    """What a scope has used: its budgets' windows and its last minute."""

    clock: float = 0.0
    """The latest Unix time that the scope has seen."""
    day: Meter = field(default_factory=Meter)
    month: Meter = field(default_factory=Meter)
    total: Meter = field(default_factory=Meter)
    admitted: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """Requests and tokens by the Unix second in which they were admitted; oldest first."""

    def advance(self, now: float) -> None:
        """Bring the account to `now`, or leave it where it is when that is earlier.

        Args:
            now: Unix time in seconds.

        Raises:
            DataError: for what is no time between 1970 and 9999.
        """
        check_time(now)
        self.clock = max(self.clock, now)
        self.day.turn_to(int(self.clock) // DAY_S)
        self.month.turn_to(_month(self.clock))
        oldest = int(self.clock) - WINDOW_S
        self.admitted = {second: counts for second, counts in self.admitted.items() if second >= oldest}

    def set_back(self, now: float) -> None:
        """Repair an account whose clock has run ahead: what counts at its own time counts as if it were of now.

        Args:
            now: the right Unix time; a later one than the account's changes nothing.
        """
        if now >= self.clock:
            return
        requests, tokens = self.minute()
        self.admitted = {int(now): (requests, tokens)}
        for meter, window in ((self.day, int(now) // DAY_S), (self.month, _month(now))):
            if meter.window != window:
                # Reservations remember the window that is left here, so none of them will take this back.
                meter.window, meter.spent, meter.reserved = window, meter.spent + meter.reserved, 0
        self.clock = now

    def exceeded(self, scope: Scope, nano_usd: int, tokens: int) -> Exceeded | None:
        """The limit that one more request would pass, the longest wait first; None where it fits."""
        found = list[Exceeded]()
        if scope.budget_usd is not None:
            limit = budget_nano(scope.budget_usd)
            meter = self.meter(scope.period)
            if meter.spent + meter.reserved + nano_usd > limit:
                wait = None if nano_usd > limit else self._until_next(scope.period)
                found.append(
                    Exceeded(
                        scope=scope,
                        limit="budget_usd",
                        value=scope.budget_usd,
                        asked=nano_usd / 1e9,
                        retry_after_s=wait,
                    )
                )
        rates: tuple[tuple[LimitName, int | None, int, int], ...] = (
            ("requests_per_minute", scope.requests_per_minute, 1, 0),
            ("tokens_per_minute", scope.tokens_per_minute, tokens, 1),
        )
        for name, limit, asked, column in rates:
            if limit is None:
                continue
            surplus = sum(counts[column] for counts in self.admitted.values()) + asked - limit
            if surplus > 0:
                wait = None if asked > limit else self._until_gone(surplus, column)
                found.append(Exceeded(scope=scope, limit=name, value=limit, asked=asked, retry_after_s=wait))
        return max(found, key=longest_wait) if found else None

    def take(self, nano_usd: int, tokens: int) -> Holding:
        """Book one request as reserved and admitted."""
        for meter in (self.day, self.month, self.total):
            meter.reserved += nano_usd
        second = int(self.clock)
        requests, counted = self.admitted.get(second, (0, 0))
        self.admitted[second] = (requests + 1, counted + tokens)
        return Holding(nano_usd=nano_usd, tokens=tokens, second=second, day=self.day.window, month=self.month.window)

    def owe(self, nano_usd: int) -> Holding:
        """Book money as reserved for what is no request of a caller: the rates don't count it."""
        for meter in (self.day, self.month, self.total):
            meter.reserved += nano_usd
        return Holding(
            nano_usd=nano_usd, tokens=0, second=int(self.clock), day=self.day.window, month=self.month.window
        )

    def settle(self, holding: Holding, nano_usd: int, tokens: int, *, expired: bool = False) -> None:
        """Replace what was reserved by what it was, in the windows in which it was reserved.

        Args:
            holding: what the reservation holds here.
            nano_usd: what it cost.
            tokens: what it had.
            expired: whether its money was given back already.
        """
        if not expired:
            self.expire(holding)
        for meter in self._meters_of(holding):
            meter.spent += nano_usd
        self._readmit(holding, 0, tokens - holding.tokens)

    def release(self, holding: Holding, *, expired: bool = False) -> None:
        """Take back a request that was never made."""
        if not expired:
            self.expire(holding)
        self._readmit(holding, -1, -holding.tokens)

    def expire(self, holding: Holding) -> None:
        """Give reserved money back; what was admitted stays admitted."""
        for meter in self._meters_of(holding):
            meter.reserved -= holding.nano_usd

    def meter(self, period: Period) -> Meter:
        """The current window of a period."""
        return {"day": self.day, "month": self.month, "total": self.total}[period]

    def minute(self) -> tuple[int, int]:
        """Requests and tokens that count against the rates."""
        return sum(r for r, _ in self.admitted.values()), sum(t for _, t in self.admitted.values())

    def window_end(self, period: Period) -> float | None:
        """Unix time at which the period's window ends; None for all time."""
        if period == "total":
            return None
        if period == "day":
            return float((self.day.window + 1) * DAY_S)
        following = self.month.window + 1
        return float(timegm((following // 12, following % 12 + 1, 1, 0, 0, 0)))

    def _meters_of(self, holding: Holding) -> list[Meter]:
        """The meters whose window is still the one in which the holding was made."""
        windows = ((self.day, holding.day), (self.month, holding.month), (self.total, 0))
        return [meter for meter, window in windows if meter.window == window]

    def _readmit(self, holding: Holding, requests: int, tokens: int) -> None:
        if (counts := self.admitted.get(holding.second)) is not None:
            self.admitted[holding.second] = (counts[0] + requests, counts[1] + tokens)

    def _until_next(self, period: Period) -> float | None:
        end = self.window_end(period)
        return None if end is None else end - self.clock

    def _until_gone(self, surplus: int, column: int) -> float | None:
        """Seconds until so much of the last minute no longer counts."""
        for second in sorted(self.admitted):
            surplus -= self.admitted[second][column]
            if surplus <= 0:
                return second + WINDOW_S + 1 - self.clock
        return None


def longest_wait(refusal: Exceeded) -> float:
    """Seconds to wait; infinite where no wait helps."""
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s


def _month(now: float) -> int:
    moment = time.gmtime(now)
    return moment.tm_year * 12 + moment.tm_mon - 1
