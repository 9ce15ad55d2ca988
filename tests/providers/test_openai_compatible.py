from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tiercel.errors import ConfigurationError, ProviderError
from tiercel.providers import openai_compatible
from tiercel.providers.openai_compatible import FrontierSettings, OpenAICompatible, UpstreamError

KEY = "sk-test-0123456789abcdef"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def asking(handler: Handler, **settings: Any) -> AsyncIterator[OpenAICompatible]:
    """A client of a frontier that answers with `handler`."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        chosen = FrontierSettings(**{"url": url, "api_key": KEY, "timeout_s": 5, **settings})
        async with OpenAICompatible(chosen) as client:
            yield client
    finally:
        await runner.cleanup()


async def streamed(client: OpenAICompatible) -> bytes:
    return b"".join([chunk async for chunk in client.stream(BODY | {"stream": True})])


def answering(status: int, text: str, content_type: str = "application/json", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=content_type, headers=headers)

    return handler


def failing(handler: Handler, *, stream: bool = False, **settings: Any) -> UpstreamError:
    async def fail() -> UpstreamError:
        async with asking(handler, **settings) as client:
            with pytest.raises(UpstreamError) as caught:
                await (streamed(client) if stream else client.complete(BODY))
            return caught.value

    error = asyncio.run(fail())
    assert isinstance(error, ProviderError)
    assert error.provider.startswith("127.0.0.1:")
    assert KEY not in f"{error} {error!r} {vars(error)}"
    return error


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "endpoint"),
        [
            ("https://host", "https://host/v1/chat/completions"),
            ("https://host/", "https://host/v1/chat/completions"),
            ("https://host/v1", "https://host/v1/chat/completions"),
            (" https://host/v1/ ", "https://host/v1/chat/completions"),
            ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
            ("https://host/v1/chat/completions/", "https://host/v1/chat/completions"),
            ("https://host/chat/completions", "https://host/chat/completions"),
            ("https://host/api/v1", "https://host/api/v1/chat/completions"),
            ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
            ("HTTP://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
            ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
        ],
    )
    def test_the_endpoint(self, url: str, endpoint: str) -> None:
        assert FrontierSettings(url=url).endpoint == endpoint

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "host/v1",
            "ftp://host",
            "https://",
            "https:///v1",
            "https://:80/v1",
            "http://host:port",
            "http://[::1",
            "http://ho st/v1",
            f"https://user:{KEY}@host/v1",
            f"https://host/v1?key={KEY}",
            f"https://host/v1#{KEY}",
            KEY,
        ],
    )
    def test_a_url_that_can_not_be(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match=r"https://api\.openai\.com/v1") as caught:
            FrontierSettings(url=url)
        assert KEY not in str(caught.value)

    def test_the_key_is_never_shown(self) -> None:
        settings = FrontierSettings(url="https://host", api_key=f" {KEY}\n")
        assert settings.api_key == KEY
        assert KEY not in f"{settings} {settings!r}"

    @pytest.mark.parametrize("key", [None, "", " \n"])
    def test_no_key(self, key: str | None) -> None:
        assert FrontierSettings(url="https://host", api_key=key).api_key is None

    @pytest.mark.parametrize("key", ["two words", "a\r\nX-Evil: 1", "schlüssel"])
    def test_a_key_that_no_header_carries(self, key: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            FrontierSettings(url="https://host", api_key=key)
        assert key not in str(caught.value)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_a_timeout_that_can_not_be(self, seconds: float) -> None:
        with pytest.raises(ConfigurationError):
            FrontierSettings(url="https://host", timeout_s=seconds)


class TestAnswers:
    @pytest.mark.parametrize("model", [None, "big"])
    def test_what_is_asked_and_answered(self, model: str | None) -> None:
        seen: list[tuple[Any, dict[str, str]]] = []

        async def handler(request: web.Request) -> web.Response:
            seen.append((await request.json(), {k.lower(): v for k, v in request.headers.items()}))
            return web.json_response({"id": "x", "odd": [1.5, None]}, headers={"Set-Cookie": "session=1"})

        async def ask() -> list[dict[str, Any]]:
            async with asking(handler, model=model) as client:
                return [await client.complete(BODY), await client.complete(BODY)]

        assert asyncio.run(ask()) == [{"id": "x", "odd": [1.5, None]}] * 2
        for asked, headers in seen:
            assert asked == (BODY | {"model": model} if model else BODY)
            assert set(headers) == {"host", "accept", "content-type", "content-length", "authorization"}
            assert headers["authorization"] == f"Bearer {KEY}"

    def test_a_stream_is_the_bytes_that_came(self) -> None:
        raw = b": ping\n\ndata: {}\r\n\r\ndata: [DONE]\n\n"

        async def ask() -> bytes:
            async with asking(answering(200, raw.decode(), "text/event-stream")) as client:
                return await streamed(client)

        assert asyncio.run(ask()) == raw

    def test_a_stream_may_last_longer_than_the_timeout(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for _ in range(5):
                await asyncio.sleep(0.1)
                await response.write(b"x")
            return response

        async def ask() -> bytes:
            async with asking(handler, timeout_s=0.3) as client:
                return await streamed(client)

        assert asyncio.run(ask()) == b"xxxxx"

    def test_many_at_a_time(self) -> None:
        waiting, everyone = 0, asyncio.Event()

        async def handler(_: web.Request) -> web.Response:
            nonlocal waiting
            waiting += 1
            if waiting == 150:
                everyone.set()
            await everyone.wait()
            return web.json_response({})

        async def ask() -> int:
            async with asking(handler) as client:
                return len(await asyncio.gather(*(client.complete(BODY) for _ in range(150))))

        assert asyncio.run(ask()) == 150


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_refusal(self, stream: bool) -> None:
        text = json.dumps({"error": {"message": f"no, {KEY}", "type": "t", "code": 7, "extra": "x", "param": ["p"]}})
        error = failing(answering(429, text, **{"Retry-After": "2.5"}), stream=stream)
        assert (error.failure, error.status, error.retry_after) == ("refused", 429, 2.5)
        assert error.detail == {"message": "no, [key]", "type": "t", "param": None, "code": 7}
        assert "no," not in str(error)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"error": "plain"}', "plain"),
            ('{"object": "error", "message": "flat"}', "flat"),
            ('{"error": {"message": "' + "x" * 5000 + '"}}', "x" * 2000),
            ('{"error": {"message": 5}}', None),
            ("[]", None),
            ("<html>", None),
            ("[" * 60_000, None),
            ("x" * 200_000, None),
            ("", None),
        ],
    )
    def test_what_a_refusal_says(self, text: str, message: str | None) -> None:
        error = failing(answering(500, text))
        assert error.status == 500
        assert (error.detail or {}).get("message") == message

    def test_a_wrong_key_is_not_spoken_of(self) -> None:
        assert failing(answering(401, '{"error": {"message": "Incorrect API key: sk-te***cdef"}}')).detail is None

    def test_a_redirect_is_not_followed(self) -> None:
        assert failing(answering(307, "", Location="/v1/elsewhere")).status == 307

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"Retry-After": "3"}, 3),
            ({"Retry-After": "3", "Retry-After-Ms": "1500"}, 1.5),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "-1"}, None),
            ({"Retry-After": "1e999"}, None),
            ({"Retry-After": formatdate(0, usegmt=True)}, 0),
        ],
    )
    def test_when_to_come_back(self, headers: dict[str, str], seconds: float | None) -> None:
        assert failing(answering(429, "{}", **headers)).retry_after == seconds

    @pytest.mark.parametrize("stream", [False, True])
    def test_silence(self, stream: bool) -> None:
        async def handler(_: web.Request) -> web.Response:
            await asyncio.sleep(5)
            return web.Response()

        error = failing(handler, stream=stream, timeout_s=0.1)
        assert (error.failure, error.status) == ("timed out", None)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("begun", [False, True])
    def test_a_connection_that_breaks(self, stream: bool, begun: bool) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            if begun:
                await response.prepare(request)
                await response.write(b"data: ")
                await asyncio.sleep(0.02)
            assert request.transport is not None
            request.transport.abort()
            return response

        assert failing(handler, stream=stream).failure == "unreachable"

    @pytest.mark.parametrize(("text", "kind"), [("{}", "application/json"), ("<html>", "text/html")])
    def test_a_stream_that_is_none(self, text: str, kind: str) -> None:
        assert failing(answering(200, text, kind), stream=True).failure == "unreadable"

    @pytest.mark.parametrize("text", ["", "no JSON", "[]", '"text"', "[" * 100_000])
    def test_an_answer_that_is_none(self, text: str) -> None:
        error = failing(answering(200, text))
        assert (error.failure, error.status) == ("unreadable", 200)

    def test_every_error_of_the_library_is_mapped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kinds: list[type[BaseException]] = [TimeoutError, ConnectionResetError, OSError, aiohttp.ClientError]
        for kind in kinds:
            kinds += [k for k in kind.__subclasses__() if k.__module__.startswith("aiohttp") and k not in kinds]
        assert len(kinds) > 20

        async def fail(kind: type[BaseException]) -> str:
            async def connect(*_: Any, **__: Any) -> Any:
                raise kind.__new__(kind)

            async with OpenAICompatible(FrontierSettings(url="https://host", api_key=KEY)) as client:
                monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect)
                with pytest.raises(UpstreamError) as caught:
                    await client.complete(BODY)
            assert caught.value.__suppress_context__
            return caught.value.failure

        for kind in kinds:
            expected = "timed out" if issubclass(kind, TimeoutError) else "unreachable"
            assert asyncio.run(fail(kind)) == expected, kind

    def test_a_stream_that_is_left_ends_the_request(self) -> None:
        async def leave() -> bool:
            cancelled = asyncio.Event()

            async def handler(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"data: 1\n\n")
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return response

            async with asking(handler) as client:
                stream = client.stream(BODY)
                assert await anext(stream) == b"data: 1\n\n"
                await stream.aclose()
                await asyncio.wait_for(cancelled.wait(), 2)
            return True

        assert asyncio.run(leave())

    def test_what_may_have_been_billed(self) -> None:
        async def silent(_: web.Request) -> web.Response:
            await asyncio.sleep(5)
            return web.Response()

        async def broken(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        assert failing(silent, timeout_s=0.1).billable
        assert failing(broken).billable
        assert failing(answering(200, "no JSON")).billable
        assert not failing(answering(500, "{}")).billable
        assert not failing(broken, url="http://127.0.0.1:9").billable

    @pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
    def test_an_error_survives_pickling_and_copying(self, copied: Callable[[Any], Any]) -> None:
        error = UpstreamError(
            "m", provider="h", failure="refused", status=429, retry_after=1.0, detail={"message": "x"}, billable=True
        )
        again = copied(error)
        assert type(again) is UpstreamError
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_the_public_names() -> None:
    assert openai_compatible.__all__ == ["Failure", "FrontierSettings", "OpenAICompatible", "UpstreamError"]
