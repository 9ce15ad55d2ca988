"""Budgets and rates in a real store, against a plain model of the rules."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from tiercel.errors import ConfigurationError, DataError, StorageError
from tiercel.store.database import Database, open_database
from tiercel.store.limit_tables import limit_accounts, limit_holdings
from tiercel.store.limit_upkeep import purge, set_clocks_back
from tiercel.store.limits import (
    Claim,
    Exceeded,
    Reservation,
    Scope,
    Spent,
    claim,
    owe,
    release,
    reserve,
    reserve_many,
    settle,
    settle_many,
    settlement,
    spent,
)

NOON = 1_795_176_000.0  # 2026-11-20 12:00:00 UTC
KEY = Scope(kind="key", name="key_1", budget_usd=1.0)
WORKLOAD = Scope(kind="workload", name="tickets", requests_per_minute=2)


@dataclasses.dataclass
class Seen:
    """What is used of a scope, whatever its name."""

    spent_usd: float
    reserved_usd: float
    requests: int
    tokens: int

    @classmethod
    def of(cls, used: Spent) -> Seen:
        return cls(used.spent_usd, used.reserved_usd, used.requests, used.tokens)


def granted(answer: Reservation | Exceeded) -> Reservation:
    assert isinstance(answer, Reservation), answer
    return answer


def refused(answer: Reservation | Exceeded) -> Exceeded:
    assert isinstance(answer, Exceeded), answer
    return answer


def test_ten_tenths_fit_exactly_and_no_more(database: Database) -> None:
    answers = [reserve(database, [KEY], usd=0.1, tokens=5, now=NOON + i) for i in range(11)]
    assert [isinstance(a, Reservation) for a in answers] == [True] * 10 + [False]
    refusal = refused(answers[-1])
    assert (refusal.scope, refusal.limit, refusal.value) == (KEY, "budget_usd", 1.0)
    for answer in answers[:10]:
        assert settle(database, granted(answer), usd=0.1, tokens=5)
    (used,) = spent(database, [KEY], NOON + 10)
    assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (1.0, 0.0, 10, 50)
    assert used.resets == 1_796_083_200.0


def test_all_scopes_or_none(database: Database) -> None:
    for _ in range(2):
        granted(reserve(database, [KEY, WORKLOAD], usd=0.1, tokens=1, now=NOON))
    refusal = refused(reserve(database, [KEY, WORKLOAD], usd=0.1, tokens=1, now=NOON))
    assert (refusal.scope, refusal.limit, refusal.value, refusal.retry_after_s) == (
        WORKLOAD, "requests_per_minute", 2, 61.0,
    )  # fmt: skip
    key, workload = spent(database, [KEY, WORKLOAD], NOON)
    assert (key.reserved_usd, key.requests, workload.requests) == (0.2, 2, 2)


def test_what_is_owed_is_booked_whatever_the_budget_says_and_rates_do_not_count_it(database: Database) -> None:
    both = Scope(kind="workload", name="tickets", budget_usd=1.0, requests_per_minute=2, tokens_per_minute=100)
    owed = [owe(database, both, usd=0.75, now=NOON) for _ in range(2)]
    (used,) = spent(database, [both], NOON)
    assert (used.reserved_usd, used.requests, used.tokens) == (1.5, 0, 0)
    assert refused(reserve(database, [both], usd=0.1, tokens=5, now=NOON)).limit == "budget_usd"
    assert [settle(database, one, usd=0.25, tokens=0) for one in owed] == [True, True]
    assert not settle(database, owed[0], usd=0.25, tokens=0)
    granted(reserve(database, [both], usd=0.5, tokens=100, now=NOON + 1))
    (used,) = spent(database, [both], NOON + 1)
    assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.5, 0.5, 1, 100)


def test_what_nobody_settles_is_owed_no_longer_than_its_lease(database: Database) -> None:
    owe(database, KEY, usd=5.0, now=NOON, lease_s=60)
    refused(reserve(database, [KEY], usd=0.1, tokens=5, now=NOON + 59))
    granted(reserve(database, [KEY], usd=0.1, tokens=5, now=NOON + 61))


def test_settling_replaces_the_estimate_once(database: Database) -> None:
    reservation = granted(reserve(database, [KEY, WORKLOAD], usd=0.5, tokens=100, now=NOON))
    assert settle(database, reservation, usd=0.2, tokens=30)
    assert not settle(database, reservation, usd=0.2, tokens=30)
    assert not release(database, reservation)
    for used in spent(database, [KEY, WORKLOAD], NOON):
        assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.2, 0.0, 1, 30)


def test_a_reservation_that_takes_the_place_of_another_books_the_request_once(database: Database) -> None:
    first = granted(reserve(database, [WORKLOAD], usd=0.0, tokens=100, now=NOON))
    both = granted(reserve(database, [KEY], usd=0.5, tokens=100, now=NOON + 2, held=first))
    assert both.scopes == (KEY.id, WORKLOAD.id)
    for used in spent(database, [KEY, WORKLOAD], NOON + 2):
        assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.0, 0.5, 1, 100)
    assert not settle(database, first, usd=0.2, tokens=30)
    assert settle(database, both, usd=0.2, tokens=30)
    for used in spent(database, [KEY, WORKLOAD], NOON + 2):
        assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.2, 0.0, 1, 30)


def test_a_refusal_leaves_what_was_held_before(database: Database) -> None:
    first = granted(reserve(database, [KEY, WORKLOAD], usd=0.25, tokens=100, now=NOON))
    over = granted(reserve(database, [KEY], usd=0.5, tokens=1, now=NOON, lease_s=10))
    # What is over goes back in the same transaction, which must not take the first reservation along.
    assert refused(reserve(database, [KEY], usd=0.8, tokens=100, now=NOON + 11, held=first)).limit == "budget_usd"
    (used,) = spent(database, [KEY], NOON + 11)
    assert (used.reserved_usd, used.requests, used.tokens) == (0.25, 2, 101)
    assert release(database, over)
    assert settle(database, first, usd=0.25, tokens=100)
    assert spent(database, [WORKLOAD], NOON + 11)[0].tokens == 100


def test_claims_together_are_answered_as_one_after_the_other(database: Database) -> None:
    draw = random.Random(0)

    def scopes(name: str) -> list[Scope]:
        key = Scope(kind="key", name=name, budget_usd=2.0, requests_per_minute=8)
        return [key, Scope(kind="workload", name=name, budget_usd=3.0, period="day", tokens_per_minute=250)]

    def made(name: str, kind: int, asked: list[int], usd: float, tokens: int, now: float) -> Claim:
        chosen = [scopes(name)[i] for i in asked] or [Scope(kind="key", name=f"{name} without")]
        return claim(chosen, usd=usd * (kind > 0), tokens=tokens * (kind > 0), now=now, lease_s=20, passing=not kind)

    alone, together = list[Reservation | Exceeded](), list[Reservation | Exceeded]()
    now = NOON
    for _ in range(24):
        now += draw.choice([0.25, 3.0, 25.0])
        drawn = [
            (draw.randrange(4), draw.sample([0, 1], draw.randrange(3)), draw.choice([0.0, 0.25, 0.5]), 40)
            for _ in range(draw.randrange(1, 9))
        ]
        alone += [reserve_many(database, [made("alone", *one, now)])[0] for one in drawn]
        together += reserve_many(database, [made("together", *one, now) for one in drawn])
        ended = [i for i in range(len(alone)) if draw.random() < 0.3 and isinstance(alone[i], Reservation)]
        said = [settle(database, granted(alone[i]), usd=0.125, tokens=7) for i in ended]
        mine = [settlement(granted(together[i]), usd=0.125, tokens=7) for i in ended]
        assert settle_many(database, mine) == said
        first, second = spent(database, scopes("alone"), now), spent(database, scopes("together"), now)
        for one, other in zip(first, second, strict=True):
            assert dataclasses.astuple(Seen.of(one)) == dataclasses.astuple(Seen.of(other))
    assert [type(answer) for answer in alone] == [type(answer) for answer in together]
    refusals = [(a.limit, a.retry_after_s) for a in alone if isinstance(a, Exceeded)]
    assert refusals == [(a.limit, a.retry_after_s) for a in together if isinstance(a, Exceeded)]
    assert {limit for limit, _ in refusals} == {"budget_usd", "requests_per_minute", "tokens_per_minute"}


def test_what_passes_is_counted_and_leaves_nothing_to_settle(database: Database) -> None:
    answers = reserve_many(database, [claim([WORKLOAD], usd=0, tokens=0, now=NOON, passing=True)] * 3)
    assert [type(answer) for answer in answers] == [Reservation, Reservation, Exceeded]
    assert settle(database, granted(answers[0]), usd=0, tokens=0)
    (used,) = spent(database, [WORKLOAD], NOON)
    assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.0, 0.0, 2, 0)
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(limit_holdings)) == 0


def test_scopes_without_limits_leave_what_was_held_before(database: Database) -> None:
    first = granted(reserve(database, [KEY], usd=0.25, tokens=1, now=NOON))
    assert reserve(database, [Scope(kind="key", name="free")], usd=1, tokens=1, now=NOON, held=first) == first


def test_releasing_gives_everything_back(database: Database) -> None:
    reservation = granted(reserve(database, [KEY, WORKLOAD], usd=0.5, tokens=100, now=NOON))
    assert release(database, reservation)
    assert not release(database, reservation)
    assert not settle(database, reservation, usd=0.5, tokens=100)
    for used in spent(database, [KEY, WORKLOAD], NOON):
        assert (used.spent_usd, used.reserved_usd, used.requests, used.tokens) == (0.0, 0.0, 0, 0)


def test_a_request_may_cost_more_than_its_estimate_and_the_gate_knows(database: Database) -> None:
    reservation = granted(reserve(database, [KEY], usd=0.1, tokens=1, now=NOON))
    assert settle(database, reservation, usd=1.7, tokens=1)
    assert refused(reserve(database, [KEY], usd=0.0, tokens=1, now=NOON)).limit == "budget_usd"
    assert spent(database, [KEY], NOON)[0].spent_usd == 1.7


def test_a_reservation_that_nobody_settles_is_given_back_after_its_lease(database: Database) -> None:
    granted(reserve(database, [KEY, WORKLOAD], usd=0.7, tokens=1, now=NOON, lease_s=120))
    assert refused(reserve(database, [KEY], usd=0.7, tokens=1, now=NOON + 119.9)).limit == "budget_usd"
    assert spent(database, [KEY], NOON + 119.9)[0].reserved_usd == 0.7
    assert spent(database, [KEY], NOON + 120)[0].reserved_usd == 0.0, "shown as free, though nobody has asked yet"
    granted(reserve(database, [KEY], usd=0.7, tokens=1, now=NOON + 120))
    assert refused(reserve(database, [KEY], usd=0.7, tokens=1, now=NOON + 121)).limit == "budget_usd"


def test_a_late_settlement_counts_what_was_spent_and_nothing_twice(database: Database) -> None:
    late = granted(reserve(database, [KEY], usd=0.7, tokens=1, now=NOON, lease_s=120))
    other = granted(reserve(database, [KEY], usd=0.8, tokens=1, now=NOON + 130))
    assert settle(database, late, usd=0.6, tokens=1)
    assert settle(database, other, usd=0.3, tokens=1)
    (used,) = spent(database, [KEY], NOON + 140)
    assert (used.spent_usd, used.reserved_usd) == (0.9, 0.0)
    assert not settle(database, late, usd=0.6, tokens=1)


def test_purging_gives_back_what_is_overdue_and_forgets_it_a_day_later(database: Database) -> None:
    late = granted(reserve(database, [KEY, WORKLOAD], usd=0.7, tokens=1, now=NOON, lease_s=120))
    running = granted(reserve(database, [KEY], usd=0.1, tokens=1, now=NOON, lease_s=1e6))
    assert purge(database, NOON + 130) == 0
    assert spent(database, [KEY], NOON + 130)[0].reserved_usd == 0.1
    assert purge(database, NOON + 86_500) == 2
    assert not settle(database, late, usd=0.7, tokens=1)
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(limit_holdings)) == 1
    assert settle(database, running, usd=0.1, tokens=1)


def test_a_gateway_from_the_future_shuts_a_rate_until_clocks_are_set_back(database: Database) -> None:
    ahead = granted(reserve(database, [WORKLOAD, KEY], usd=0.1, tokens=1, now=NOON + 7200))
    granted(reserve(database, [WORKLOAD], usd=0.1, tokens=1, now=NOON))
    refused(reserve(database, [WORKLOAD], usd=0.1, tokens=1, now=NOON + 100))
    assert set_clocks_back(database, NOON + 100) == (KEY.id, WORKLOAD.id)
    assert set_clocks_back(database, NOON + 100) == ()
    refused(reserve(database, [WORKLOAD], usd=0.1, tokens=1, now=NOON + 100))
    granted(reserve(database, [WORKLOAD], usd=0.1, tokens=1, now=NOON + 161))
    assert settle(database, ahead, usd=0.2, tokens=1)
    assert spent(database, [KEY], NOON + 161)[0].spent_usd == 0.2


def test_limits_may_change_and_what_was_used_stays(database: Database) -> None:
    granted(reserve(database, [KEY], usd=0.9, tokens=1, now=NOON))
    refused(reserve(database, [KEY], usd=0.2, tokens=1, now=NOON))
    raised = Scope(kind="key", name="key_1", budget_usd=2.0, period="day")
    granted(reserve(database, [raised], usd=1.1, tokens=1, now=NOON))
    assert refused(reserve(database, [raised], usd=0.1, tokens=1, now=NOON)).retry_after_s == 43_200


def test_a_key_and_a_workload_of_one_name_are_two(database: Database) -> None:
    twin = Scope(kind="workload", name="key_1", budget_usd=1.0)
    granted(reserve(database, [KEY], usd=0.9, tokens=1, now=NOON))
    granted(reserve(database, [twin], usd=0.9, tokens=1, now=NOON))


def test_scopes_without_limits_leave_nothing_in_the_store(database: Database) -> None:
    reservation = granted(reserve(database, [Scope(kind="key", name="free")], usd=5, tokens=5, now=NOON))
    assert reservation.scopes == ()
    assert settle(database, reservation, usd=5, tokens=5)
    assert release(database, reservation)
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(limit_accounts)) == 0


def test_what_makes_no_sense_is_refused_before_anything_is_booked(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        reserve(database, [KEY, KEY], usd=0.1, tokens=1, now=NOON)
    with pytest.raises(DataError, match="price"):
        reserve(database, [KEY], usd=float("nan"), tokens=1, now=NOON)
    with pytest.raises(DataError, match="clock"):
        reserve(database, [KEY], usd=0.1, tokens=1, now=float("nan"))
    reservation = granted(reserve(database, [KEY], usd=0.1, tokens=1, now=NOON))
    with pytest.raises(DataError, match="price"):
        settle(database, reservation, usd=-1, tokens=1)
    assert settle(database, reservation, usd=0.1, tokens=1)


def test_names_with_letters_of_sql_and_of_other_scripts_work(database: Database) -> None:
    odd = [Scope(kind="workload", name=name, budget_usd=1) for name in ("a'; --", "%(s0)s", ":s0", "Übersetzung 翻訳")]
    granted(reserve(database, odd, usd=1, tokens=1, now=NOON))
    assert [used.reserved_usd for used in spent(database, odd, NOON)] == [1.0] * 4


def test_a_failure_while_booking_books_nothing_and_names_no_values(database: Database) -> None:
    granted(reserve(database, [KEY], usd=0.1, tokens=1, now=NOON))
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE limit_holdings RENAME COLUMN tokens TO counted")
    with pytest.raises(StorageError) as failure:
        reserve(database, [KEY], usd=0.1, tokens=1, now=NOON)
    assert "key_1" not in str(failure.value)
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE limit_holdings RENAME COLUMN counted TO tokens")
    (used,) = spent(database, [KEY], NOON)
    assert (used.reserved_usd, used.requests) == (0.1, 1)
    granted(reserve(database, [KEY], usd=0.9, tokens=1, now=NOON))


def test_a_server_that_is_gone_is_a_storage_error(postgres_url: str) -> None:
    database = open_database(postgres_url)
    granted(reserve(database, [KEY], usd=0.1, tokens=1, now=NOON))
    other = open_database(postgres_url.rpartition("/")[0] + "/postgres")
    with other.writing() as connection:
        name = postgres_url.rpartition("/")[2]
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )  # fmt: skip
    other.close()
    with pytest.raises(StorageError):
        reserve(database, [KEY], usd=0.1, tokens=1, now=NOON)
    database.close()


# The model: every request ever admitted, in a list; each question is answered by going through all of it.


@dataclasses.dataclass
class Booked:
    at: float
    nano: int
    tokens: int
    expires: float
    reserved: bool = True
    ended: bool = False


class Model:
    """One scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.clock, self.booked = scope, 0.0, list[Booked]()

    def _used(self, now: float) -> int:
        import datetime

        def window(at: float) -> object:
            day = datetime.datetime.fromtimestamp(at, datetime.UTC).date()
            return {"day": day, "month": (day.year, day.month), "total": 0}[self.scope.period]

        return sum(b.nano for b in self.booked if window(b.at) == window(now) and (b.reserved or b.ended))

    def fits(self, nano: int, tokens: int, now: float) -> bool:
        recent = [b for b in self.booked if int(b.at) + 61 > now and b.tokens >= 0]
        limits = self.scope
        return (
            (limits.budget_usd is None or self._used(now) + nano <= round(limits.budget_usd * 1e9))
            and (limits.requests_per_minute is None or len(recent) < limits.requests_per_minute)
            and (
                limits.tokens_per_minute is None
                or sum(b.tokens for b in recent) + tokens <= limits.tokens_per_minute
            )
        )  # fmt: skip

    def give_back(self, at: float) -> None:
        for b in self.booked:
            if b.reserved and b.expires <= at:
                b.reserved = False


_names = itertools.count()
_steps = st.sampled_from(
    [0.0, 0.0, 0.3, 1.0, 20.0, 59.5, 60.0, 61.0, 500.0, 43_000.0, 86_400.0, 3e6, -0.4, -30.0, -900.0, -90_000.0]
)
_asks = st.tuples(
    _steps,
    st.sets(st.integers(0, 2), min_size=1),
    st.integers(0, 4),
    st.integers(0, 40),
    st.sampled_from(["settle", "release", "keep", "keep"]),
    st.integers(0, 6),
    st.integers(0, 60),
)


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(Path(tmp_path_factory.mktemp("model")) / "store.db")
    yield database
    database.close()


@settings(max_examples=120)
@given(asks=st.lists(_asks, min_size=5, max_size=60), period=st.sampled_from(["day", "month", "total"]))
def test_the_store_says_what_a_plain_model_says(
    one_store: Database, asks: list[tuple[float, set[int], int, int, str, int, int]], period: str
) -> None:
    run = next(_names)
    scopes = [
        Scope(kind="key", name=f"{run}", budget_usd=10e-9, period=period),  # pyright: ignore[reportArgumentType]
        Scope(kind="workload", name=f"{run}", budget_usd=14e-9, requests_per_minute=3, period="day"),
        Scope(kind="key", name=f"{run}b", tokens_per_minute=100, requests_per_minute=4),
    ]
    models = [Model(scope) for scope in scopes]
    now = NOON
    kept = list[tuple[Reservation, list[Booked]]]()
    for step, chosen, nano, tokens, then, actual_nano, actual_tokens in asks:
        now += step
        involved = [models[i] for i in sorted(chosen)]
        times = [max(now, model.clock) for model in involved]
        answer = reserve(
            one_store, [scopes[i] for i in chosen], usd=nano / 1e9, tokens=tokens, now=now, lease_s=600
        )  # fmt: skip
        fits = all(m.fits(nano, tokens, t) for m, t in zip(involved, times, strict=True))
        if not fits:
            for model in involved:
                model.give_back(max(times))
            fits = all(m.fits(nano, tokens, t) for m, t in zip(involved, times, strict=True))
        assert isinstance(answer, Reservation) == fits
        if isinstance(answer, Exceeded):
            assert not models[scopes.index(answer.scope)].fits(
                nano, tokens, max(now, models[scopes.index(answer.scope)].clock)
            )
            continue
        booked = [Booked(at=t, nano=nano, tokens=tokens, expires=max(times) + 600) for t in times]
        for model, t, b in zip(involved, times, booked, strict=True):
            model.clock = t
            model.booked.append(b)
        kept.append((answer, booked))
        if then == "settle":
            reservation, ended = kept.pop(0)
            assert settle(one_store, reservation, usd=actual_nano / 1e9, tokens=actual_tokens)
            for b in ended:
                b.reserved, b.ended, b.nano, b.tokens = False, True, actual_nano, actual_tokens
        elif then == "release":
            reservation, ended = kept.pop()
            assert release(one_store, reservation)
            for b in ended:
                b.reserved, b.nano, b.tokens = False, 0, -1
