from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError
from tiercel.providers import resilience
from tiercel.providers.resilience import Breaker, BreakerSettings, RetryBudget, backoff


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestBackoff:
    def test_the_wait_is_anything_below_a_bound_that_doubles(self) -> None:
        rng = random.Random(0)
        for attempt, bound in ((1, 0.25), (2, 0.5), (3, 1.0), (6, 8.0), (50, 8.0), (10_000, 8.0)):
            found = [backoff(attempt, None, rng) for _ in range(2000)]
            assert 0 <= min(found) < 0.02 * bound
            assert 0.98 * bound < max(found) <= bound
            assert sum(found) / 2000 == pytest.approx(bound / 2, rel=0.1)

    @given(st.integers(1, 100), st.floats(0, 1e6), st.integers(0, 2**32))
    def test_never_sooner_than_the_provider_asks_and_not_all_at_once(
        self, attempt: int, asked: float, seed: int
    ) -> None:
        rng = random.Random(seed)
        found = [backoff(attempt, asked, rng) for _ in range(20)]
        assert asked <= min(found) < max(found) <= asked + 0.25

    def test_the_same_seed_gives_the_same_wait(self) -> None:
        assert backoff(3, None, random.Random(7)) == backoff(3, None, random.Random(7))


class TestRetryBudget:
    @given(
        share=st.floats(0, 1),
        per_second=st.floats(0, 5),
        reserve=st.floats(0, 20),
        steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5), st.integers(0, 5)), max_size=60),
    )
    def test_retries_never_exceed_reserve_share_and_rate(
        self, share: float, per_second: float, reserve: float, steps: list[tuple[float, int, int]]
    ) -> None:
        clock = Clock()
        budget = RetryBudget(share=share, per_second=per_second, reserve=reserve, clock=clock)
        requests = retries = 0
        for seconds, asked, failed in steps:
            clock.now += seconds
            for _ in range(asked):
                budget.request()
                requests += 1
            retries += sum(budget.take() for _ in range(failed))
            passed = clock.now - 1000.0
            assert retries <= reserve + share * requests + per_second * passed + 1e-6

    def test_a_dead_upstream_gets_a_fifth_more_requests_not_three_times_as_many(self) -> None:
        clock = Clock()
        budget = RetryBudget(clock=clock)
        sent = 0
        for _ in range(10_000):
            clock.now += 0.001
            budget.request()
            sent += 1
            sent += budget.take() + budget.take()
        assert 11_900 < sent < 12_100

    def test_few_requests_may_always_be_repeated(self) -> None:
        clock = Clock()
        budget = RetryBudget(clock=clock)
        for _ in range(100):
            clock.now += 1.0
            budget.request()
            assert budget.take()

    def test_a_clock_that_steps_back_gives_nothing(self) -> None:
        clock = Clock()
        budget = RetryBudget(share=0, reserve=1, clock=clock)
        assert budget.take()
        clock.now -= 100
        assert not budget.take()

    @pytest.mark.parametrize("wrong", [{"share": -0.1}, {"per_second": math.nan}, {"reserve": math.inf}])
    def test_a_budget_that_can_not_be(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigurationError):
            RetryBudget(**wrong)


def outcomes(breaker: Breaker, *good: bool) -> list[bool]:
    """Whether each request was let through; those that were end as given."""
    found: list[bool] = []
    for well in good:
        ticket = breaker.admit()
        found.append(ticket is not None)
        if ticket is not None:
            (breaker.succeeded if well else breaker.failed)(ticket)
    return found


class TestBreaker:
    def test_it_opens_at_the_share_of_failures_and_not_before(self) -> None:
        breaker = Breaker(clock=Clock())
        assert all(outcomes(breaker, *[True, False] * 9, True))
        assert breaker.state == "closed"
        assert outcomes(breaker, False, False) == [True, False]
        assert (breaker.state, breaker.admit(), breaker.wait()) == ("open", None, math.inf)

    def test_few_failures_do_not_open_it(self) -> None:
        breaker = Breaker(clock=Clock())
        assert all(outcomes(breaker, *[False] * 19))
        assert breaker.state == "closed"

    def test_failures_are_forgotten(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        for _ in range(50):
            assert outcomes(breaker, False) == [True]
            clock.now += 2.0
        assert breaker.state == "closed"

    def test_after_a_rest_one_request_finds_out(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        outcomes(breaker, *[False] * 20)
        assert breaker.retry_in() == 2.0
        clock.now += 2.0
        assert breaker.state == "half-open"
        ticket = breaker.admit()
        assert ticket is not None
        assert breaker.admit() is None
        breaker.succeeded(ticket)
        assert breaker.state == "closed"
        assert all(outcomes(breaker, *[False] * 19)), "what was before the rest no longer counts"

    def test_each_failed_return_doubles_the_rest_up_to_the_longest(self) -> None:
        clock = Clock()
        breaker = Breaker(BreakerSettings(rest_s=1, longest_rest_s=4), clock=clock)
        outcomes(breaker, *[False] * 20)
        for rest in (1, 2, 4, 4):
            assert breaker.retry_in() == rest
            clock.now += rest
            assert outcomes(breaker, False, False) == [True, False]
        clock.now += 4
        assert outcomes(breaker, True) == [True]
        outcomes(breaker, *[False] * 20)
        assert breaker.retry_in() == 1

    def test_a_cancelled_probe_lets_another_one_go(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        outcomes(breaker, *[False] * 20)
        clock.now += 2
        ticket = breaker.admit()
        assert ticket is not None
        breaker.released(ticket)
        assert breaker.admit() is not None

    def test_what_was_under_way_before_it_opened_neither_closes_it_nor_keeps_it_open(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        early = [breaker.admit() for _ in range(3)]
        outcomes(breaker, *[False] * 20)
        breaker.succeeded(early[0] or 0)
        assert breaker.state == "open"
        clock.now += 2
        probe = breaker.admit()
        breaker.failed(early[1] or 0)
        breaker.released(early[2] or 0)
        assert breaker.admit() is None
        assert probe is not None
        breaker.succeeded(probe)
        assert breaker.state == "closed"

    def test_a_named_rest_is_kept_and_no_longer(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        for seconds in (7.0, 7.0, 3.0):
            breaker.sent_away(0, seconds)
        assert (breaker.state, breaker.admit(), breaker.wait(), breaker.retry_in()) == ("open", None, 7.0, 7.0)
        clock.now += 7.0
        assert breaker.state == "closed"
        assert all(outcomes(breaker, *[True] * 5))

    def test_one_request_that_is_sent_away_among_others_says_nothing_of_them(self) -> None:
        breaker = Breaker(clock=Clock())
        for _ in range(20):
            breaker.sent_away(0, 60.0)
            assert outcomes(breaker, True) == [True]
        breaker.sent_away(0, 60.0)
        breaker.sent_away(0, 60.0)
        assert breaker.state == "open"

    def test_a_probe_that_is_sent_away_rests_for_the_named_time(self) -> None:
        clock = Clock()
        breaker = Breaker(clock=clock)
        outcomes(breaker, *[False] * 20)
        clock.now += 2
        breaker.sent_away(breaker.admit() or 0, 9.0)
        assert (breaker.state, breaker.retry_in()) == ("open", 9.0)
        clock.now += 9
        assert breaker.state == "half-open"
        assert outcomes(breaker, True) == [True]
        assert breaker.state == "closed"

    def test_no_provider_is_away_for_ever(self) -> None:
        breaker = Breaker(clock=Clock())
        breaker.sent_away(0, 1e9)
        breaker.sent_away(0, 1e9)
        assert breaker.retry_in() == resilience.LONGEST_RETRY_AFTER_S

    @given(
        st.lists(st.tuples(st.sampled_from(["good", "bad", "none", "away", "later"]), st.floats(0, 40)), max_size=80)
    )
    def test_it_always_lets_requests_through_again(self, steps: list[tuple[str, float]]) -> None:
        clock = Clock()
        breaker = Breaker(BreakerSettings(least=2), clock=clock)
        pending: list[int] = []
        for what, seconds in steps:
            clock.now += seconds
            if (ticket := breaker.admit()) is not None:
                assert breaker.state != "open"
                if what == "later":
                    pending.append(ticket)
                elif what == "away":
                    breaker.sent_away(ticket, seconds)
                else:
                    {"good": breaker.succeeded, "bad": breaker.failed, "none": breaker.released}[what](ticket)
        for ticket in pending:
            breaker.released(ticket)
        clock.now += 60 + resilience.LONGEST_RETRY_AFTER_S
        assert breaker.admit() is not None

    def test_a_fifth_of_failures_leaves_it_closed(self) -> None:
        clock, rng = Clock(), random.Random(0)
        breaker, refused = Breaker(clock=clock), 0
        for _ in range(20_000):
            clock.now += 0.05
            refused += outcomes(breaker, rng.random() >= 0.2) == [False]
        assert refused == 0

    @pytest.mark.parametrize(
        "wrong", [{"share": 0}, {"share": 1.1}, {"least": 0}, {"rest_s": 0}, {"window_s": math.nan}]
    )
    def test_a_breaker_that_can_not_be(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigurationError):
            BreakerSettings(**wrong)


def test_the_public_names() -> None:
    assert resilience.__all__ == ["Breaker", "BreakerSettings", "RetryBudget", "backoff"]
