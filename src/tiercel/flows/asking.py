"""Asking a teacher many requests at a time, within a budget and a rate, each answer safe on disk before the next.

A request that fails in passing is sent again. One that the provider will not answer is set aside. When the provider
answers nothing at all, or says that asking is pointless (a wrong key), everything stops.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from tiercel.errors import ProviderError
from tiercel.flows.journal import Answered, Asked, Failed, Journal
from tiercel.flows.label_checks import Fault
from tiercel.flows.progress import Progress
from tiercel.flows.teacher import Teacher, parse_samples
from tiercel.providers.budget import Budget, nano_usd
from tiercel.providers.pacing import Retry, TokenBucket
from tiercel.types import Example

if TYPE_CHECKING:
    from tiercel.providers.openai_compatible import FrontierSettings, OpenAICompatible

__all__ = ["Asker"]

FAILURES_IN_A_ROW = 8
"""Requests without an answer, one after another, from which the provider counts as gone."""
LONGEST_PAUSE_S = 900.0
"""A provider that asks to wait longer ends the run; the same command goes on later."""
GRACE_S = 60.0
"""After Ctrl-C, seconds for the requests under way to come in; they are paid for. A second Ctrl-C does not wait."""
_PASSING = frozenset({408, 409, 425, 429})
_POINTLESS = frozenset({401, 402, 403, 404, 405})
_FILTERED = frozenset({"content_filter", "content_policy_violation"})


class _Stopped(Exception):
    """The budget has no room, or another request met an error that ends the run."""


class Asker:
    """Asks one teacher.

    Args:
        settings: where it is.
        teacher: makes the requests.
        journal: keeps what was asked and answered.
        budget: of the money.
        rate: requests a minute; None for no limit.
        at_once: requests under way at a time.
        retry: when a failed request is sent again.
        seed: of the jitter.

    Attributes:
        failed: by the key of its request, why there is no answer.
        refused: requests that the provider's filter turned down before answering.
        out_of_money: whether a request did not fit the budget any more.
        overcharged: calls that cost more than the upper estimate; the provider exceeded the token limit.
        sent_again: requests that failed in passing and were sent again.
    """

    def __init__(
        self,
        settings: FrontierSettings,
        teacher: Teacher,
        journal: Journal,
        budget: Budget,
        *,
        rate: float | None,
        at_once: int,
        retry: Retry,
        seed: int = 0,
    ) -> None:
        self.settings = settings
        self.teacher = teacher
        self.journal = journal
        self.budget = budget
        self.at_once = at_once
        self.retry = retry
        self.failed: dict[str, str] = {}
        self.refused: dict[str, Fault] = {}
        self.out_of_money = False
        self.overcharged = self.sent_again = 0
        self._rng = random.Random(seed)
        self._bucket = TokenBucket(rate, sleep=self._sleep)
        self._in_a_row = 0

    def ask(self, items: Sequence[tuple[str, Example]], samples: int, progress: Progress) -> None:
        """Ask until each request has its samples, or none can be had.

        Args:
            items: requests by their keys, no key twice.
            samples: wanted of each; those in the journal count.
            progress: is told how many are done.

        Raises:
            ProviderError: the provider can't be asked any more; what it answered is in the journal.
            StorageError: the journal can't be written.
            KeyboardInterrupt: Ctrl-C, once the requests under way have come in.
        """
        open_items = [(k, e) for k, e in items if len(self.journal.samples(k)) < samples]
        if open_items and not self.out_of_money:
            asyncio.run(self._ask(open_items, samples, len(items), progress))

    async def _ask(self, items: Sequence[tuple[str, Example]], samples: int, total: int, progress: Progress) -> None:
        from tiercel.providers.openai_compatible import OpenAICompatible

        self._settled, self._stop = asyncio.Condition(), asyncio.Event()
        done = total - len(items)
        queue: Iterator[tuple[str, Example]] = iter(items)

        async def work(client: OpenAICompatible) -> None:
            nonlocal done
            for key, example in queue:
                if self._stop.is_set():
                    return
                try:
                    await self._complete(client, key, example, samples)
                except _Stopped:
                    return
                except BaseException:
                    self._stop.set()
                    raise
                done += 1
                progress.step(done, total)

        progress.step(done, total)
        async with OpenAICompatible(self.settings) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self.at_once, len(items)))]
            await self._join(workers)

    async def _join(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for all workers; what is under way when one fails, or at Ctrl-C, still comes in."""
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            await asyncio.wait(workers, timeout=GRACE_S if self._stop.is_set() else None)
        except asyncio.CancelledError:
            self._stop.set()
            await asyncio.wait(workers, timeout=GRACE_S)
            raise
        finally:
            for worker in workers:
                worker.cancel()
            outcomes = await asyncio.gather(*workers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _complete(self, client: OpenAICompatible, key: str, example: Example, samples: int) -> None:
        """Ask one request until it has its samples."""
        while (missing := samples - len(self.journal.samples(key))) > 0:
            if not await self._answered(client, key, example, missing):
                self._in_a_row += 1
                if self._in_a_row >= FAILURES_IN_A_ROW:
                    self._end(f"{self._in_a_row} requests in a row got no answer; the last: {self.failed[key]}")
                return
            self._in_a_row = 0
            if key in self.refused:
                return

    async def _answered(self, client: OpenAICompatible, key: str, example: Example, missing: int) -> bool:
        """One call, sent again while it fails in passing; whether it was answered."""
        failures = 0
        while True:
            samples = missing if self.teacher.several else 1
            await self._bucket.take()
            reserved = nano_usd(self.teacher.bound_usd(example, samples)) if self.budget.limit is not None else 0
            await self._reserve(reserved)
            asked = Asked(call=self.journal.number(), key=key, reserved=reserved)
            body = self.teacher.body(example, samples)
            try:
                return await self._send(client, asked, example, body)
            except ProviderError as error:
                wait = self._failure(error, key, body, failures)
            if key in self.failed or key in self.refused:
                return key in self.refused
            if wait:
                failures += 1
                self.sent_again += 1
                await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or end with `_Stopped` as soon as everything stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise _Stopped

    async def _reserve(self, amount: int) -> None:
        async with self._settled:
            while self._stop.is_set() or not self.budget.reserve(amount):
                # What is under way mostly costs less than it may: only when nothing is left of it is the money out.
                if not self._stop.is_set() and not self.budget.under_way:
                    self.out_of_money = True
                    self._stop.set()
                if self._stop.is_set():
                    self._settled.notify_all()
                    raise _Stopped
                await self._settled.wait()

    async def _settle(self, asked: Asked, charged: int) -> None:
        async with self._settled:
            self.budget.settle(asked.reserved, charged)
            self._settled.notify_all()

    async def _send(self, client: OpenAICompatible, asked: Asked, example: Example, body: dict[str, Any]) -> bool:
        """Send one call and write down what became of it.

        Raises:
            ProviderError: it was not answered.
        """
        from tiercel.providers.openai_compatible import UpstreamError

        charged = asked.reserved
        try:
            await self.journal.write(asked)
            started = time.perf_counter()
            try:
                response = await client.complete(body)
            except UpstreamError as error:
                charged = asked.reserved if error.billable else 0
                raise
            took = time.perf_counter() - started
            found = parse_samples(response)[: body.get("n", 1)]
            bill = self.teacher.bill(example, response, found)
            if self.budget.limit is None:
                charged = nano_usd(bill.cost_usd or 0.0)
            elif bill.counted:
                charged = nano_usd(bill.cost_usd or 0.0)
                self.overcharged += charged > asked.reserved
            if not found:
                raise ProviderError(
                    f"the frontier {self.settings.host} sent no answer that can be read", provider=self.settings.host
                )
        except ProviderError:
            await self.journal.write(Failed(call=asked.call, charged=charged))
            raise
        else:
            self.teacher.several = self.teacher.several and len(found) == body.get("n", 1)
            model = response.get("model")
            await self.journal.write(
                Answered(
                    call=asked.call,
                    key=asked.key,
                    samples=found,
                    bill=bill,
                    charged=charged,
                    latency_s=round(took, 4),
                    model=model if isinstance(model, str) else None,
                )
            )
            return True
        finally:
            await self._settle(asked, charged)

    def _failure(self, error: ProviderError, key: str, body: dict[str, Any], failures: int) -> float:
        """Seconds to wait before the request is sent again, 0 for none; or it is set aside, or everything ends."""
        detail: dict[str, Any] = getattr(error, "detail", None) or {}
        code = str(detail.get("code") or detail.get("type") or "")[:80]
        said = f"{error}" + (f" ({code})" if code else "")
        if code in _FILTERED:
            self.refused[key] = Fault(kind="refused", reason=f"the provider's filter turned it down: {said}")
            return 0
        if error.status == 400 and self.teacher.adapt(detail.get("param"), body):
            return 0
        if error.status in _POINTLESS or code == "insufficient_quota":
            self._end(said)
        if error.retry_after is not None and error.retry_after > LONGEST_PAUSE_S:
            self._end(f"{said} and asks to come back in {error.retry_after:,.0f} s")
        passing = error.status is None or error.status in _PASSING or not 300 <= error.status < 500
        if not passing or failures + 1 >= self.retry.tries:
            self.failed[key] = said + (f" after {failures + 1} tries" if failures else "")
            return 0
        if error.retry_after is not None:
            self._bucket.pause(error.retry_after)
        return self.retry.wait(failures + 1, error.retry_after, self._rng)

    def _end(self, why: str) -> NoReturn:
        self._stop.set()
        raise ProviderError(
            f"{why}; what was answered is kept in {self.journal.path}, the same command goes on from there",
            provider=self.settings.host,
        )
