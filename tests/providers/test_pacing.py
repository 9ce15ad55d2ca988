from __future__ import annotations

import asyncio
import random

import pytest

from tiercel.providers.pacing import Retry, TokenBucket


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


def times(n: int, rate: float | None, *, burst: int = 1, workers: int = 1) -> list[float]:
    clock, found = Clock(), list[float]()
    bucket = TokenBucket(rate, burst=burst, clock=clock, sleep=clock.sleep)

    async def work() -> None:
        while len(found) < n:
            await bucket.take()
            found.append(clock.now - 100.0)

    async def together() -> None:
        await asyncio.gather(*(work() for _ in range(workers)))

    asyncio.run(together())
    return found


@pytest.mark.parametrize("rate", [1.0, 60.0, 77.7, 6000.0])
@pytest.mark.parametrize("burst", [1, 5])
@pytest.mark.parametrize("workers", [1, 4])
def test_no_span_holds_more_than_burst_and_rate_allow(rate: float, burst: int, workers: int) -> None:
    found = times(40, rate, burst=burst, workers=workers)
    for i, start in enumerate(found):
        for j, end in enumerate(found[i:], start=1):
            assert j <= burst + (end - start) * rate / 60 + 1e-6
    assert found[39] == pytest.approx((40 - burst) * 60 / rate, rel=0.01), "nor is it slower than it may be"


def test_without_a_rate_nothing_waits() -> None:
    assert set(times(50, None)) == {0.0}


@pytest.mark.parametrize("rate", [None, 600.0])
def test_a_pause_holds_everything(rate: float | None) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock=clock, sleep=clock.sleep)

    async def act() -> None:
        bucket.pause(7.0)
        bucket.pause(3.0)
        await bucket.take()

    asyncio.run(act())
    assert clock.now == pytest.approx(107.0)


class TestRetry:
    def test_waits_double_with_jitter_up_to_the_longest(self) -> None:
        retry, rng = Retry(first_s=1.0, longest_s=8.0), random.Random(0)
        for failures, most in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
            found = [retry.wait(failures, None, rng) for _ in range(200)]
            assert most / 2 <= min(found) < max(found) <= most
            assert max(found) - min(found) > 0.4 * most

    def test_never_sooner_than_the_provider_asks(self) -> None:
        found = [Retry().wait(5, 2.0, random.Random(seed)) for seed in range(50)]
        assert min(found) >= 2.0
        assert max(found) < 2.3
        assert len(set(found)) > 1
