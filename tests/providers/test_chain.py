from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import example
from tests.providers.test_upstream import Handler, answering, served, silent
from tiercel.errors import ConfigurationError, DataError
from tiercel.providers import chain
from tiercel.providers.chain import Chain, ChainReply, ChainRequest, Link, Prepared
from tiercel.providers.failures import Attempt, UpstreamError
from tiercel.providers.replay import FAULT_HEADER, ReplayCounts, ReplayServer, ReplaySettings
from tiercel.providers.resilience import Breaker, BreakerSettings, RetryBudget
from tiercel.providers.upstream import ProviderSettings, Upstream

KEYS = {"one": "sk-one-0123456789abcdef", "two": "sk-two-0123456789abcdef"}
ASKED = "where is my parcel"
ANSWER = "Your parcel is on its way: it left this morning."
ROWS = [example(ASKED, ANSWER)]
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": ASKED}]}).encode()
STREAM = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": ASKED}]}).encode()
EVENT = b'data: {"choices": []}\n\n'
Act = Callable[[Chain], Awaitable[Any]]


def request(stream: bool = False, deadline: float | None = None, fault: str | None = None) -> ChainRequest:
    headers = {FAULT_HEADER: fault} if fault else None
    prepared = Prepared("/chat/completions", STREAM if stream else BODY, headers)
    return ChainRequest(prepare=lambda _: prepared, stream=stream, deadline=deadline)


def chained(
    handlers: Sequence[Handler | str],
    act: Act,
    *,
    links: dict[str, Any] | None = None,
    timeout_s: float = 5,
    **more: Any,
) -> Any:
    """What `act` finds at a chain over providers one, two ..., each served by a handler or at a URL."""

    async def run() -> Any:
        async with AsyncExitStack() as stack:
            made: list[Link] = []
            for name, handler in zip(("one", "two", "three"), handlers, strict=False):
                url = handler if isinstance(handler, str) else await stack.enter_async_context(served(handler))
                settings = ProviderSettings(name=name, url=url, api_key=KEYS.get(name), timeout_s=timeout_s)
                upstream = await stack.enter_async_context(Upstream(settings))
                made.append(Link(upstream, **{key: make() for key, make in (links or {}).items()}))
            return await asyncio.wait_for(act(Chain(made, **{"rng": random.Random(0), **more})), 30)

    return asyncio.run(run())


async def body_of(found: Chain, **more: Any) -> ChainReply:
    async with await found.send(request(**more)) as reply:
        return reply


def failing(handlers: Sequence[Handler | str], act: Act = body_of, **more: Any) -> UpstreamError:
    async def fail(found: Chain) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await act(found)
        return caught.value

    error = chained(handlers, fail, **more)
    for secret in (*KEYS.values(), ASKED):
        assert secret not in f"{error} {error!r} {error.tried}"
    return error


def then(*handlers: Handler) -> tuple[Handler, list[str]]:
    """A handler that answers each request in turn, the last for ever, and what it was asked."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await handlers[min(len(asked), len(handlers)) - 1](request)

    return handler, asked


def outcomes(attempts: Sequence[Attempt]) -> list[tuple[str, str, int | None]]:
    return [(a.provider, a.outcome, a.status) for a in attempts]


GOOD = answering(200, '{"id": "good"}')
EVENTS = answering(200, EVENT.decode() * 2, "text/event-stream")
ONE_STREAM_ERROR = 'data: {"error": {"message": "busy", "type": "overloaded_error"}}\n\n'


async def broken(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class TestRetries:
    @pytest.mark.parametrize(
        ("fault", "outcome", "status"),
        [
            (answering(500, "{}"), "refused", 500),
            (answering(503, "{}"), "refused", 503),
            (answering(529, "{}"), "refused", 529),
            (answering(429, "{}"), "refused", 429),
            (answering(408, "{}"), "refused", 408),
            (answering(409, "{}"), "refused", 409),
            (answering(200, "<html>"), "unreadable", 200),
            (answering(200, "[]"), "unreadable", 200),
            (answering(200, ""), "unreadable", 200),
            (answering(200, '{"error": {"message": "busy", "type": "overloaded_error"}}'), "refused", 529),
            (broken, "unreachable", None),
            (silent, "timed out", None),
        ],
    )
    def test_what_may_pass_is_tried_again(self, fault: Handler, outcome: str, status: int | None) -> None:
        handler, asked = then(fault, GOOD)
        reply = chained([handler], body_of, timeout_s=0.5)
        assert (reply.body, reply.provider, len(asked)) == (b'{"id": "good"}', "one", 2)
        assert outcomes(reply.attempts) == [("one", outcome, status), ("one", "answered", 200)]

    @pytest.mark.parametrize("status", [400, 413, 415, 422])
    def test_the_clients_fault_is_said_at_once(self, status: int) -> None:
        handler, asked = then(answering(status, '{"error": {"message": "bad `n`", "param": "n"}}'))
        other, others = then(GOOD)
        error = failing([handler, other])
        assert (error.status, len(asked), others) == (status, 1, [])
        assert error.detail is not None
        assert error.detail["param"] == "n"

    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (401, ""),
            (403, ""),
            (404, ""),
            (402, ""),
            (307, ""),
            (501, ""),
            (429, '{"error": {"message": "m", "code": "insufficient_quota"}}'),
        ],
    )
    def test_what_is_wrong_with_one_provider_alone_is_asked_of_the_next(self, status: int, text: str) -> None:
        handler, asked = then(answering(status, text))
        reply = chained([handler, GOOD], body_of)
        assert (reply.provider, len(asked)) == ("two", 1)

    def test_the_next_takes_over_when_all_tries_are_spent(self) -> None:
        handler, asked = then(answering(500, "{}"))
        reply = chained([handler, GOOD], body_of, retries=1)
        assert (reply.provider, len(asked)) == ("two", 2)
        assert outcomes(reply.attempts) == [("one", "refused", 500)] * 2 + [("two", "answered", 200)]

    def test_the_last_failure_is_raised_with_all_that_was_tried(self) -> None:
        error = failing([answering(500, "{}"), answering(503, "{}", **{"Retry-After": "60"})], retries=1)
        assert (error.status, error.retry_after, error.provider) == (503, 60, "two")
        assert outcomes(error.tried) == [("one", "refused", 500)] * 2 + [("two", "refused", 503)]
        assert str(error).endswith("tried: one (500), one (500), two (503)")

    def test_retries_end_with_their_budget(self) -> None:
        handler, asked = then(answering(500, "{}"))

        async def act(found: Chain) -> None:
            for _ in range(10):
                with pytest.raises(UpstreamError):
                    await found.send(request())

        budget = {"budget": lambda: RetryBudget(share=0, per_second=0, reserve=3)}
        chained(
            [handler],
            act,
            links={**budget, "breaker": lambda: Breaker(BreakerSettings(least=1000))},
            patience_s=60,
            sleep=_at_once,
        )
        assert len(asked) == 13

    def test_retries_end_with_the_deadline(self) -> None:
        handler, asked = then(answering(429, "{}", **{"Retry-After": "5"}))

        async def act(found: Chain) -> Any:
            return await body_of(found, deadline=asyncio.get_running_loop().time() + 1.0)

        error = failing([handler], act)
        assert (error.status, error.retry_after, len(asked)) == (429, 5, 1)

    def test_a_client_in_a_hurry_does_not_open_the_breaker_of_others(self) -> None:
        async def act(found: Chain) -> str:
            for _ in range(5):
                with pytest.raises(UpstreamError) as caught:
                    await found.send(request(deadline=asyncio.get_running_loop().time() + 0.02))
                assert caught.value.failure == "timed out"
            return found.links[0].breaker.state

        assert chained([silent], act, links={"breaker": lambda: Breaker(BreakerSettings(least=1))}) == "closed"

    def test_a_short_retry_after_is_waited_for_and_kept(self) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(seconds)

        handler, _ = then(answering(429, "{}", **{"Retry-After-Ms": "100"}), GOOD)
        assert chained([handler], body_of, sleep=sleep).provider == "one"
        assert len(slept) == 1
        assert 0.1 - 0.01 <= slept[0] <= 0.1 + 0.25

    def test_another_provider_is_not_kept_waiting_for_one_that_rests(self) -> None:
        handler, asked = then(answering(429, "{}", **{"Retry-After": "30"}))

        async def act(found: Chain) -> list[str]:
            return [(await body_of(found)).provider for _ in range(3)]

        assert chained([handler, GOOD], act, sleep=_never) == ["two"] * 3
        assert len(asked) == 2, "the second that is sent away is the last"

    def test_each_provider_gets_its_own_words(self) -> None:
        seen: list[tuple[str, Any]] = []

        async def handler(request: web.Request) -> web.Response:
            seen.append((request.path, await request.json()))
            return web.json_response({}, status=200 if request.path.endswith("messages") else 500)

        def prepare(upstream: Upstream) -> Prepared | None:
            name = upstream.settings.name
            if name == "two":
                return None
            return Prepared(
                "/messages" if name == "three" else "/chat/completions", json.dumps({"model": name}).encode()
            )

        async def act(found: Chain) -> ChainReply:
            return await found.send(ChainRequest(prepare=prepare))

        reply = chained([handler] * 3, act, retries=0)
        assert reply.provider == "three"
        assert seen == [("/v1/chat/completions", {"model": "one"}), ("/v1/messages", {"model": "three"})]

    def test_a_request_that_nobody_can_serve_is_an_error(self) -> None:
        async def act(found: Chain) -> ChainReply:
            return await found.send(ChainRequest(prepare=lambda _: None))

        error = failing([GOOD, GOOD], act)
        assert outcomes(error.tried) == [("one", "skipped", None), ("two", "skipped", None)]

    def test_what_preparing_raises_is_raised_and_leaves_the_breaker_well(self) -> None:
        def prepare(_: Upstream) -> Prepared:
            raise DataError("no such dialect")

        async def act(found: Chain) -> int | None:
            with pytest.raises(DataError):
                await found.send(ChainRequest(prepare=prepare))
            return found.links[0].breaker.admit()

        assert chained([GOOD], act) is not None


async def _at_once(_: float) -> None:
    await asyncio.sleep(0)


async def _never(_: float) -> None:
    raise AssertionError("nothing is to be waited for")


class TestBreaker:
    def test_a_dead_provider_is_left_alone_and_found_again(self) -> None:
        well = False

        async def handler(request: web.Request) -> web.StreamResponse:
            asked.append(request.path)
            return await (GOOD if well else answering(500, "{}"))(request)

        asked: list[str] = []

        async def act(found: Chain) -> None:
            nonlocal well
            providers = Counter([(await body_of(found)).provider for _ in range(40)])
            assert providers == {"two": 40}
            assert found.links[0].breaker.state == "open"
            assert len(asked) < 30
            well = True
            while found.links[0].breaker.state == "open":
                await asyncio.sleep(0.01)
            assert [(await body_of(found)).provider for _ in range(5)] == ["one"] * 5
            assert found.links[0].breaker.state == "closed"

        breaker = {"breaker": lambda: Breaker(BreakerSettings(rest_s=0.2))}
        chained([handler, GOOD], act, links=breaker, sleep=_at_once)

    def test_an_open_breaker_alone_fails_at_once_and_says_when_to_come_back(self) -> None:
        handler, asked = then(answering(500, "{}"))

        async def act(found: Chain) -> None:
            for _ in range(20):
                with pytest.raises(UpstreamError):
                    await found.send(request())
            before = len(asked)
            with pytest.raises(UpstreamError) as caught:
                await found.send(request())
            assert len(asked) == before
            assert (caught.value.failure, caught.value.status) == ("unreachable", None)
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= 2
            assert outcomes(caught.value.tried) == [("one", "skipped", None)]

        chained([handler], act, retries=0)

    def test_refusals_do_not_open_it(self) -> None:
        async def act(found: Chain) -> str:
            for _ in range(30):
                with pytest.raises(UpstreamError):
                    await found.send(request())
            return found.links[0].breaker.state

        assert chained([answering(400, "{}")], act) == "closed"
        assert chained([answering(429, "{}")], act, retries=0) == "closed"

    def test_a_link_shared_by_two_chains_has_one_breaker(self) -> None:
        async def act(found: Chain) -> None:
            for _ in range(20):
                with pytest.raises(UpstreamError):
                    await found.send(request())
            with pytest.raises(UpstreamError) as caught:
                await Chain(found.links).send(request())
            assert outcomes(caught.value.tried) == [("one", "skipped", None)]

        chained([answering(500, "{}")], act, retries=0)


class TestStreams:
    async def read(self, found: Chain) -> tuple[str, bytes]:
        async with await found.send(request(stream=True)) as reply:
            return reply.provider, b"".join([chunk async for chunk in reply.chunks()])

    @pytest.mark.parametrize(
        ("fault", "outcome"),
        [
            (answering(200, "", "text/event-stream"), "unreadable"),
            (answering(200, "data: {cut\n\n", "text/event-stream"), "unreadable"),
            (answering(200, "data: [DONE]\n\n", "text/event-stream"), "unreadable"),
            (answering(200, ": ping\n\ndata: {", "text/event-stream"), "unreadable"),
            (answering(200, "{}", "application/json"), "unreadable"),
            (answering(200, ONE_STREAM_ERROR, "text/event-stream"), "refused"),
            (answering(500, "{}"), "refused"),
            (broken, "unreachable"),
        ],
    )
    def test_another_takes_over_before_the_first_event(self, fault: Handler, outcome: str) -> None:
        attempts: list[Attempt] = []
        found = chained([fault, EVENTS], self.read, retries=0, on_attempt=attempts.append)
        assert found == ("two", EVENT * 2)
        assert [a.outcome for a in attempts] == [outcome, "answered"]

    def test_an_error_in_a_stream_that_is_the_clients_fault_is_said_at_once(self) -> None:
        error = answering(200, 'data: {"error": {"message": "bad", "code": 400}}\n\n', "text/event-stream")
        found = failing([error, EVENTS], self.read)
        assert (found.status, found.provider) == (400, "one")

    @pytest.mark.parametrize("beginning", [b"", b"data: {", b": ping\n\n" * 3])
    def test_a_stream_that_is_silent_or_breaks_before_its_first_event_is_asked_elsewhere(
        self, beginning: bytes
    ) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(beginning)
            await asyncio.sleep(20)
            return response

        assert chained([handler, EVENTS], self.read, retries=0, timeout_s=0.3) == ("two", EVENT * 2)

    def test_comments_do_not_make_a_beginning_however_many_come(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            while True:
                await response.write(b": ping\n\n")
                await asyncio.sleep(0.02)

        assert chained([handler, EVENTS], self.read, retries=0, timeout_s=0.3) == ("two", EVENT * 2)

    def test_nobody_takes_over_after_the_first_event(self) -> None:
        other, others = then(EVENTS)

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(EVENT)
            await asyncio.sleep(0.02)
            assert request.transport is not None
            request.transport.abort()
            return response

        async def act(found: Chain) -> bytes:
            got = b""
            async with await found.send(request(stream=True)) as reply:
                with pytest.raises(UpstreamError) as caught:
                    async for chunk in reply.chunks():
                        got += chunk
            assert caught.value.failure == "unreachable"
            return got

        assert chained([handler, other], act) == EVENT
        assert others == []

    def test_all_bytes_are_passed_on_as_they_came(self) -> None:
        raw = b": hello\r\n\r\nevent: x\r\ndata: {}\r\n\r\ndata: \xc3\xa4\r\n\r\ndata: [DONE]\r\n\r\n"

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for i in range(0, len(raw), 5):
                await response.write(raw[i : i + 5])
                await asyncio.sleep(0.001)
            return response

        assert chained([handler], self.read) == ("one", raw)


class TestCancelling:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("begun", [False, True])
    def test_the_provider_sees_it_at_once(self, stream: bool, begun: bool) -> None:
        left, came = asyncio.Event(), asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream" if stream else "application/json"}
            )
            try:
                if begun:
                    await response.prepare(request)
                    await response.write(EVENT if stream else b"{")
                came.set()
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                left.set()
                raise
            return response

        async def use(found: Chain) -> None:
            async with await found.send(request(stream=stream)) as reply:
                async for _ in reply.chunks():
                    pass

        async def act(found: Chain) -> None:
            task = asyncio.create_task(use(found))
            await came.wait()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(left.wait(), 5)
            assert found.links[0].breaker.state == "closed"

        attempts: list[Attempt] = []
        chained([handler], act, on_attempt=attempts.append)
        assert [a.outcome for a in attempts] == ["answered" if stream and begun else "cancelled"]

    def test_a_probe_that_is_cancelled_lets_another_go(self) -> None:
        async def act(found: Chain) -> None:
            with pytest.raises(UpstreamError):
                await found.send(request())
            breaker = found.links[0].breaker
            while breaker.state == "open":
                await asyncio.sleep(0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(found.send(request()), 0.05)
            assert (await found.send(request())).body == b'{"id": "good"}'

        handler, _ = then(answering(500, "{}"), silent, GOOD)
        breaker = {"breaker": lambda: Breaker(BreakerSettings(least=1, rest_s=0.05))}
        chained([handler], act, links=breaker, retries=0)


def many_requests(
    n: int, faults: dict[str, float], *, stream: bool = False
) -> tuple[Counter[str], list[ReplayCounts], list[Attempt]]:
    """How many of `n` requests, eight at a time, were answered, over two providers that both fail."""
    attempts: list[Attempt] = []

    async def run() -> tuple[Counter[str], list[ReplayCounts]]:
        made = [
            ReplayServer(ROWS, ReplaySettings(faults=faults, seed=seed, retry_after_s=0.05, slow_s=0.0001))
            for seed in (1, 2)
        ]
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(server) for server in made]
            upstreams = [
                await stack.enter_async_context(
                    Upstream(ProviderSettings(name=name, url=url, api_key=KEYS[name], timeout_s=0.5))
                )
                for name, url in zip(KEYS, urls, strict=True)
            ]
            found = Chain(upstreams, rng=random.Random(0), on_attempt=attempts.append)
            told, left = Counter[str](), iter(range(n))

            async def work() -> None:
                for _ in left:
                    try:
                        async with await found.send(request(stream=stream)) as reply:
                            raw = b"".join([chunk async for chunk in reply.chunks()])
                        told[reply.provider if (b"[DONE]" in raw or b"way" in raw) else "wrong"] += 1
                    except UpstreamError as error:
                        told["failed"] += 1
                        assert not any(key in f"{error} {error!r}" for key in KEYS.values())

            await asyncio.gather(*(work() for _ in range(8)))
            return told, [server.counts for server in made]

    return *asyncio.run(run()), attempts


FAULTS = {"429": 0.04, "500": 0.06, "garbage": 0.03, "reset": 0.03, "half": 0.02, "timeout": 0.01, "slow": 0.01}


class TestUnderFaults:
    def test_with_a_fifth_of_faults_all_are_answered(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        told, counts, attempts = many_requests(300, FAULTS)
        assert told["one"] + told["two"] == 300, told
        assert sum(counts[0].faults.values()) > 30
        assert len(counts[0].faults) >= 6
        spent = Counter(a.outcome for a in attempts)
        assert spent["answered"] == 300
        assert {"refused", "unreadable", "unreachable"} <= set(spent)
        assert not any(key in caplog.text for key in KEYS.values())
        assert ASKED not in caplog.text

    def test_streams_are_answered_too_where_the_fault_comes_before_the_first_event(self) -> None:
        faults = {name: share for name, share in FAULTS.items() if name != "half"}
        told, _, _ = many_requests(150, faults, stream=True)
        assert told["one"] + told["two"] == 150, told


@pytest.mark.parametrize("wrong", [{"links": []}, {"retries": -1}, {"patience_s": -1}])
def test_a_chain_that_can_not_be(wrong: dict[str, Any]) -> None:
    upstream = Upstream(ProviderSettings(name="one", url="https://host"))
    with pytest.raises(ConfigurationError):
        Chain(**{"links": [upstream], **wrong})


def test_the_public_names() -> None:
    assert chain.__all__ == ["Chain", "ChainReply", "ChainRequest", "Link", "Prepared"]
