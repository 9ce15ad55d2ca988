"""The arithmetic of budgets and rates, without a database."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError, DataError
from tiercel.store.limit_rules import Account, Scope, budget_nano, cost_nano, token_count

NOON = 1_795_176_000.0  # 2026-11-20 12:00:00 UTC
MIDNIGHT = NOON + 43_200
DECEMBER = 1_796_083_200.0  # 2026-12-01 00:00:00 UTC


def scope(**limits: object) -> Scope:
    return Scope(kind="key", name="key_1", **limits)  # pyright: ignore[reportArgumentType]


def test_costs_round_up_and_budgets_down_and_a_floats_own_error_is_neither() -> None:
    assert cost_nano(1.0000000001) == 1_000_000_001
    assert cost_nano(0.1 + 0.2) == 300_000_000
    assert cost_nano(0) == 0
    assert budget_nano(0.9999999999) == 999_999_999
    assert budget_nano(0.3) == 300_000_000


@pytest.mark.parametrize("usd", [-0.01, math.nan, math.inf, 1e7])
def test_what_is_no_cost_is_refused(usd: float) -> None:
    with pytest.raises(DataError, match="price"):
        cost_nano(usd)


@pytest.mark.parametrize("tokens", [-1, 10**15])
def test_what_is_no_count_of_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(DataError, match="tokens"):
        token_count(tokens)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_usd": -1.0},
        {"budget_usd": math.nan},
        {"budget_usd": math.inf},
        {"period": "week"},
        {"requests_per_minute": -1},
        {"tokens_per_minute": -5},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 201},
        {"kind": "user"},
    ],
)
def test_limits_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Scope(**{"kind": "key", "name": "a", **wrong})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("now", [-1.0, math.nan, math.inf, 1e12])
def test_what_is_no_time_is_refused(now: float) -> None:
    with pytest.raises(DataError, match="clock"):
        Account().advance(now)


def test_a_day_and_a_month_end_where_the_calendar_says_in_utc() -> None:
    account = Account()
    account.advance(NOON)
    assert account.window_end("day") == MIDNIGHT
    assert account.window_end("month") == DECEMBER
    assert account.window_end("total") is None
    account.advance(DECEMBER - 0.5)
    assert (account.window_end("day"), account.window_end("month")) == (DECEMBER, DECEMBER)
    account.advance(DECEMBER)
    assert account.window_end("month") == DECEMBER + 31 * 86_400


@pytest.mark.parametrize(("period", "end"), [("day", MIDNIGHT), ("month", DECEMBER)])
def test_a_budget_is_new_with_its_period_and_retry_after_says_when(period: str, end: float) -> None:
    limited, account = scope(budget_usd=1.0, period=period), Account()
    account.advance(NOON)
    held = account.take(cost_nano(0.6), 0)
    refusal = account.exceeded(limited, cost_nano(0.5), 0)
    assert refusal is not None
    assert (refusal.limit, refusal.value, refusal.retry_after_s) == ("budget_usd", 1.0, end - NOON)
    assert account.exceeded(limited, cost_nano(0.4), 0) is None
    account.advance(end - 0.001)
    assert account.exceeded(limited, cost_nano(0.5), 0) is not None
    account.advance(end)
    assert account.exceeded(limited, cost_nano(1.0), 0) is None
    account.settle(held, cost_nano(0.9), 0)
    assert account.exceeded(limited, cost_nano(1.0), 0) is None, "it was spent in the period before"
    assert account.exceeded(limited, cost_nano(1.0) + 1, 0) is not None, "nor does it make room in this one"
    assert account.total.spent == cost_nano(0.9)


def test_no_wait_helps_a_total_budget_or_a_request_larger_than_its_limit() -> None:
    account = Account()
    account.advance(NOON)
    account.take(cost_nano(1), 10)
    for limited, usd, tokens in (
        (scope(budget_usd=1.0, period="total"), 0.1, 0),
        (scope(budget_usd=1.0), 1.5, 0),
        (scope(tokens_per_minute=10), 0, 11),
        (scope(requests_per_minute=0), 0, 0),
    ):
        refusal = account.exceeded(limited, cost_nano(usd), tokens)
        assert refusal is not None
        assert refusal.retry_after_s is None
        assert refusal.message.startswith("key key_1 would pass the ")
        assert "waiting does not help" in refusal.message


def test_of_several_limits_the_one_with_the_longest_wait_is_named() -> None:
    account = Account()
    account.advance(NOON)
    account.take(cost_nano(1), 10)
    limited = scope(budget_usd=1.0, requests_per_minute=1, tokens_per_minute=15)
    refusal = account.exceeded(limited, cost_nano(0.5), 10)
    assert refusal is not None
    assert refusal.limit == "budget_usd"
    refusal = account.exceeded(limited, 0, 10)
    assert refusal is not None
    assert (refusal.limit, refusal.retry_after_s) == ("requests_per_minute", 61)
    refusal = account.exceeded(limited, 0, 16)
    assert refusal is not None
    assert (refusal.limit, refusal.retry_after_s) == ("tokens_per_minute", None)


def test_a_budget_of_nothing_lets_through_what_costs_nothing() -> None:
    account = Account()
    account.advance(NOON)
    assert account.exceeded(scope(budget_usd=0.0), 0, 10) is None
    assert account.exceeded(scope(budget_usd=0.0), 1, 10) is not None


def test_retry_after_of_a_rate_is_when_enough_of_the_minute_has_gone() -> None:
    limited, account = scope(tokens_per_minute=100), Account()
    for at, tokens in ((0.0, 30), (10.25, 30), (20.0, 40)):
        account.advance(NOON + at)
        account.take(0, tokens)
    for tokens, wait in ((20, 41.0), (30, 41.0), (31, 51.0), (61, 61.0), (100, 61.0)):
        refusal = account.exceeded(limited, 0, tokens)
        assert refusal is not None
        assert refusal.retry_after_s == wait
        later = Account(clock=account.clock, admitted=dict(account.admitted))
        later.advance(NOON + 20 + wait - 0.01)
        assert later.exceeded(limited, 0, tokens) is not None
        later.advance(NOON + 20 + wait)
        assert later.exceeded(limited, 0, tokens) is None


@given(st.integers(1, 6), st.lists(st.sampled_from([0.0, 0.25, 0.999, 1.0, 5.5, 29.75, 59.0, 60.0]), max_size=60))
def test_in_no_span_of_a_minute_is_more_admitted_than_the_limit_and_a_place_is_free_after_61_s(
    limit: int, steps: list[float]
) -> None:
    limited, account, admitted, now = scope(requests_per_minute=limit), Account(), list[float](), NOON
    for step in steps:
        now += step
        account.advance(now)
        if account.exceeded(limited, 0, 0) is None:
            account.take(0, 0)
            admitted.append(now)
            assert sum(1 for at in admitted if now - 60 < at) <= limit
        else:
            assert sum(1 for at in admitted if now - 61 < at) >= limit


@given(
    st.lists(st.tuples(st.floats(0, 100_000), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20),
    st.floats(0, 1e6),
    st.sampled_from(["day", "month", "total"]),
)
def test_a_clock_that_goes_backwards_opens_no_gate(
    takes: list[tuple[float, int, int]], back: float, period: str
) -> None:
    account, now = Account(), NOON
    for step, nano, tokens in takes:
        now += step
        account.advance(now)
        account.take(nano, tokens)
    requests, tokens = account.minute()
    spent = account.meter(period)  # pyright: ignore[reportArgumentType]
    full = Scope(
        kind="key",
        name="a",
        budget_usd=(spent.spent + spent.reserved) / 1e9,
        period=period,  # pyright: ignore[reportArgumentType]
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )

    def refused() -> list[bool]:
        alone = (
            Scope(kind="key", name="a", budget_usd=full.budget_usd, period=full.period),
            Scope(kind="key", name="a", requests_per_minute=requests),
            Scope(kind="key", name="a", tokens_per_minute=tokens),
        )
        return [account.exceeded(one, 1, 1) is not None for one in alone]

    assert refused() == [True, True, True]
    account.advance(now - back)
    assert refused() == [True, True, True]
    account.set_back(now - back)
    assert refused() == [True, True, True]


def test_two_clocks_half_a_minute_apart_share_one_minute() -> None:
    limited, account = scope(requests_per_minute=1), Account()
    account.advance(NOON)
    account.take(0, 0)
    for now in (NOON - 30, NOON + 35, NOON - 20, NOON + 60.9):
        account.advance(now)
        assert account.exceeded(limited, 0, 0) is not None
    account.advance(NOON + 61)
    assert account.exceeded(limited, 0, 0) is None


@pytest.mark.parametrize(("period", "end"), [("day", MIDNIGHT), ("month", DECEMBER)])
def test_a_clock_that_steps_back_over_the_end_of_a_period_opens_no_gate(period: str, end: float) -> None:
    limited, account = scope(budget_usd=1.0, period=period), Account()
    account.advance(end + 1)
    held = account.take(cost_nano(1), 0)
    account.advance(end - 1)
    assert account.exceeded(limited, 1, 0) is not None
    account.release(held)
    assert account.exceeded(limited, cost_nano(1), 0) is None
    assert account.exceeded(limited, cost_nano(1) + 1, 0) is not None


def test_an_account_from_the_future_is_shut_until_it_is_set_back_and_then_forgets_nothing() -> None:
    limited, account = scope(requests_per_minute=1, budget_usd=1.0, period="day"), Account()
    account.advance(NOON + 3e8)
    account.take(cost_nano(0.6), 0)
    account.advance(NOON + 100)
    assert account.clock == NOON + 3e8
    assert account.exceeded(limited, 0, 0) is not None
    account.set_back(NOON + 100)
    refusal = account.exceeded(limited, 0, 0)
    assert refusal is not None
    assert refusal.retry_after_s == 61
    account.advance(NOON + 161)
    assert account.exceeded(limited, cost_nano(0.4), 0) is None
    assert account.exceeded(limited, cost_nano(0.4) + 1, 0) is not None
    account.set_back(NOON + 200)
    assert account.clock == NOON + 161, "setting back never goes forwards"


def test_a_request_may_cost_more_than_was_reserved() -> None:
    limited, account = scope(budget_usd=1.0, tokens_per_minute=100), Account()
    account.advance(NOON)
    held = account.take(cost_nano(0.2), 10)
    account.settle(held, cost_nano(1.5), 130)
    assert account.month.spent == cost_nano(1.5)
    assert account.month.reserved == 0
    assert account.minute() == (1, 130)
    assert account.exceeded(limited, 0, 0) is not None
