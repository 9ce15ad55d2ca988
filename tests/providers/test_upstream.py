from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError, DataError
from tiercel.providers import provider_settings, upstream
from tiercel.providers.failures import UpstreamError
from tiercel.providers.provider_settings import model_of, with_model
from tiercel.providers.reply_headers import request_id
from tiercel.providers.upstream import ProviderSettings, Upstream

KEY = "sk-test-0123456789abcdef"
SECRET = "header-secret-0123456789"
BODY = b'{"model": "m",  "n": 1.50, "messages": []}'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """A provider that answers every path with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def asking(handler: Handler, act: Callable[[Upstream], Awaitable[Any]], **settings: Any) -> Any:
    """What `act` finds at a provider that answers with `handler`."""

    async def run() -> Any:
        async with served(handler) as url:
            path = settings.pop("path", "")
            chosen = ProviderSettings(**{"name": "one", "url": url + path, "api_key": KEY, "timeout_s": 5, **settings})
            async with Upstream(chosen) as client:
                return await asyncio.wait_for(act(client), 20)

    return asyncio.run(run())


async def post(client: Upstream, path: str = "/chat/completions", body: bytes | None = BODY, **more: Any) -> bytes:
    async with client.send(path, body, **more) as reply:
        return await reply.read()


def failing(handler: Handler, act: Callable[[Upstream], Awaitable[Any]] = post, **settings: Any) -> UpstreamError:
    async def fail(client: Upstream) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await act(client)
        return caught.value

    error = asking(handler, fail, **settings)
    assert error.provider == "one"
    assert "provider one" in str(error)
    assert KEY not in f"{error} {error!r} {vars(error)}"
    assert SECRET not in f"{error} {error!r} {vars(error)}"
    return error


def answering(status: int, text: str, kind: str = "application/json", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=kind, headers=headers)

    return handler


async def silent(_: web.Request) -> web.Response:
    await asyncio.sleep(20)
    return web.Response()


class TestSettings:
    def test_secrets_are_never_shown(self) -> None:
        settings = ProviderSettings(name="one", url="https://host", api_key=f" {KEY}\n", headers={"x-account": SECRET})
        assert (settings.api_key, settings.headers) == (KEY, {"x-account": SECRET})
        assert KEY not in repr(settings)
        assert SECRET not in repr(settings)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": " "},
            {"kind": "google"},
            {"url": "host"},
            {"url": f"https://host/v1?key={KEY}"},
            {"api_key": f"{KEY} {KEY}"},
            {"timeout_s": 0},
            {"first_byte_s": -1},
            {"first_byte_s": float("nan")},
            {"max_connections": 0},
            {"api_version": "2024-10-21"},
            {"kind": "azure"},
            {"kind": "azure", "url": "https://name.openai.azure.com/openai/deployments/big"},
            {"headers": {"Authorization": f"Bearer {KEY}"}},
            {"headers": {"X-Api-Key": KEY}},
            {"headers": {"Host": "elsewhere"}},
            {"headers": {"x y": KEY}},
            {"headers": {"x-account": f"{KEY}\r\nx-evil: 1"}},
            {"headers": {"x-account": ""}},
        ],
    )
    def test_what_can_not_be_is_one_line_without_secrets(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            ProviderSettings(**{"name": "one", "url": "https://host", **wrong})
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_names_of_models(self) -> None:
        mapped = ProviderSettings(name="one", url="https://host", models={"gpt-4o": "big"})
        assert (mapped.named("gpt-4o"), mapped.named("other")) == ("big", "other")
        assert ProviderSettings(name="one", url="https://host", model="big", models={"a": "b"}).named("a") == "big"

    def test_settings_load_no_http_library(self) -> None:
        import subprocess
        import sys

        code = "import sys, tiercel.providers.provider_settings, tiercel.providers.failures; print('aiohttp' in sys.modules)"
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            == "False"
        )


class TestWithModel:
    MAPPED = ProviderSettings(name="one", url="https://host", models={"m": "big"})
    FIXED = ProviderSettings(name="one", url="https://host", model="big")

    def test_only_the_name_changes(self) -> None:
        body = b'{"seed": 12345678901234567890, "x": 1.50, "model": "m", "s": "\\u00e4\\/", "o": {"model": "m"}}'
        changed = with_model(body, self.MAPPED)
        assert changed == b'{"seed":12345678901234567890,"x":1.50,"model":"big","s":"\\u00e4\\/","o":{"model": "m"}}'

    @pytest.mark.parametrize("body", [b'{ "model" : "other" }', b'{"messages":[]}'])
    def test_a_body_whose_name_stays_is_the_same_object(self, body: bytes) -> None:
        assert with_model(body, self.MAPPED) is body
        assert with_model(body, ProviderSettings(name="one", url="https://host")) is body

    def test_a_fixed_model_is_named_even_where_the_request_names_none(self) -> None:
        assert json.loads(with_model(b'{"messages":[]}', self.FIXED)) == {"messages": [], "model": "big"}
        assert with_model({"messages": []}, self.FIXED) == {"messages": [], "model": "big"}

    def test_a_decoded_body_is_not_changed(self) -> None:
        body = {"model": "m", "n": 1}
        assert with_model(body, self.MAPPED) == {"model": "big", "n": 1}
        assert body == {"model": "m", "n": 1}

    @pytest.mark.parametrize("body", [b"", b"[]", b'{"model": 5}', b'{"model": "m"', b'{"model": "m", "x": }', b"\xff"])
    def test_what_is_no_request_is_refused(self, body: bytes) -> None:
        with pytest.raises(DataError):
            with_model(body, self.MAPPED)
        assert model_of(body) is None

    @given(
        st.dictionaries(
            st.text(st.characters(codec="utf-8")),
            st.integers() | st.text(st.characters(codec="utf-8")) | st.lists(st.booleans()),
        )
    )
    def test_every_other_field_keeps_its_value(self, fields: dict[str, Any]) -> None:
        body = {**fields, "model": "m"}
        assert json.loads(with_model(json.dumps(body).encode(), self.MAPPED)) == body | {"model": "big"}


class TestRequests:
    @pytest.mark.parametrize(
        ("settings", "path", "url", "auth"),
        [
            ({}, "/embeddings", "/v1/embeddings", ("Authorization", f"Bearer {KEY}")),
            ({"path": "/api/v1/chat/completions"}, "/responses", "/api/v1/responses", ("Authorization", f"Bearer {KEY}")),
            ({"kind": "anthropic"}, "/messages", "/v1/messages", ("x-api-key", KEY)),
            ({"kind": "azure", "api_version": "v"}, "/chat/completions", "/openai/deployments/m/chat/completions?api-version=v", ("api-key", KEY)),
            ({"kind": "azure", "api_version": "v", "path": "/openai", "model": "a/b"}, "/embeddings", "/openai/deployments/a%2Fb/embeddings?api-version=v", ("api-key", KEY)),
            ({"kind": "azure", "api_version": "v"}, "/responses", "/openai/responses?api-version=v", ("api-key", KEY)),
            ({"kind": "azure", "path": "/openai/v1"}, "/chat/completions", "/openai/v1/chat/completions", ("api-key", KEY)),
            ({"kind": "azure", "path": "/openai/v1", "api_version": "preview"}, "/responses", "/openai/v1/responses?api-version=preview", ("api-key", KEY)),
            ({"kind": "azure", "api_version": "v", "path": "/openai/deployments/d"}, "/chat/completions", "/openai/deployments/d/chat/completions?api-version=v", ("api-key", KEY)),
        ],
    )  # fmt: skip
    def test_where_it_goes_and_with_which_key(
        self, settings: dict[str, Any], path: str, url: str, auth: tuple[str, str]
    ) -> None:
        seen: list[tuple[str, bytes, dict[str, str]]] = []

        async def handler(request: web.Request) -> web.Response:
            seen.append((request.raw_path, await request.read(), {k.lower(): v for k, v in request.headers.items()}))
            return web.json_response({})

        async def act(client: Upstream) -> None:
            for _ in range(2):
                await post(
                    client,
                    path,
                    headers={"x-listed": "1", "Authorization": "Bearer theirs", auth[0]: "theirs"} if _ else None,
                )

        asking(handler, act, headers={"x-account": SECRET}, **settings)
        names = {"host", "accept", "content-type", "content-length", "x-account", auth[0].lower()}
        for number, (raw_path, body, headers) in enumerate(seen):
            assert (raw_path, body) == (url, BODY)
            assert headers[auth[0].lower()] == auth[1], "what the caller passes on can't replace the key"
            assert headers["x-account"] == SECRET
            more = {"x-listed", "authorization"} if number else set[str]()
            assert set(headers) == names | more | (
                {"anthropic-version"} if settings.get("kind") == "anthropic" else set()
            )

    def test_an_azure_deployment_can_not_leave_its_place(self) -> None:
        seen: list[str] = []

        async def handler(request: web.Request) -> web.Response:
            seen.append(request.raw_path)
            return web.json_response({})

        async def act(client: Upstream) -> None:
            await post(client, body=b'{"model": "../../x?y#z"}')
            for body in (b'{"model": ".."}', b"{}", b"garbage"):
                with pytest.raises(DataError):
                    await post(client, body=body)

        asking(handler, act, kind="azure", api_version="v")
        assert seen == ["/openai/deployments/..%2F..%2Fx%3Fy%23z/chat/completions?api-version=v"]

    def test_without_a_body_it_is_a_get(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response({"method": request.method, "path": request.path})

        async def act(client: Upstream) -> list[bytes]:
            return [await post(client, "/models", body) for body in (BODY, None, BODY)]

        told = [json.loads(raw) for raw in asking(handler, act)]
        assert [said["method"] for said in told] == ["POST", "GET", "POST"]
        assert {said["path"] for said in told} == {"/v1/models"}

    def test_connections_are_used_again(self) -> None:
        seen: set[Any] = set()

        async def handler(request: web.Request) -> web.Response:
            assert request.transport is not None
            seen.add(request.transport.get_extra_info("peername"))
            return (
                web.json_response({})
                if "stream" not in request.path
                else web.Response(body=b"data: {}\n\n", content_type="text/event-stream")
            )

        async def act(client: Upstream) -> None:
            for i in range(20):
                async with client.send("/stream" if i % 2 else "/x", BODY, stream=bool(i % 2)) as reply:
                    assert [c async for c in reply.chunks()]

        asking(handler, act)
        assert len(seen) == 1

    def test_no_more_connections_than_allowed(self) -> None:
        seen: set[Any] = set()

        async def handler(request: web.Request) -> web.Response:
            assert request.transport is not None
            seen.add(request.transport.get_extra_info("peername"))
            await asyncio.sleep(0.01)
            return web.json_response({})

        async def act(client: Upstream) -> int:
            return len(await asyncio.gather(*(post(client) for _ in range(20))))

        assert asking(handler, act, max_connections=3) == 20
        assert 1 < len(seen) <= 3


class TestReplies:
    def test_only_listed_headers_are_passed_on(self) -> None:
        handler = answering(
            200,
            "{}",
            **{"X-Request-Id": "req_1", "Set-Cookie": "a=b", "Server": "s", "x-ratelimit-remaining-tokens": "7"},
            **{"openai-processing-ms": "12", "x-ratelimit-of": KEY, "anthropic-ratelimit-of": f"of {SECRET}"},
        )

        async def act(client: Upstream) -> tuple[Any, ...]:
            async with client.send("/x", BODY) as reply:
                return reply.status, reply.content_type, request_id(reply.headers), reply.headers

        assert asking(handler, act, headers={"x-account": SECRET}) == (
            200,
            "application/json",
            "req_1",
            {"x-request-id": "req_1", "x-ratelimit-remaining-tokens": "7", "openai-processing-ms": "12"},
        )

    @pytest.mark.parametrize("odd", ["x" * 201, "caf\xe9"])
    def test_an_odd_request_id_is_left_out(self, odd: str) -> None:
        async def act(client: Upstream) -> Any:
            async with client.send("/x", BODY) as reply:
                return request_id(reply.headers)

        assert asking(answering(200, "{}", **{"x-request-id": odd}), act) is None

    def test_an_answer_without_a_length_is_read_whole(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for part in (b'{"a"', b":1}"):
                await response.write(part)
                await asyncio.sleep(0.01)
            return response

        assert asking(handler, post) == b'{"a":1}'

    def test_an_answer_without_an_end_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(upstream, "LARGEST_ANSWER", 2**20)
        sent = 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536

        assert failing(handler).failure == "unreadable"
        assert sent < 20 * 2**20

    def test_leaving_a_stream_closes_its_connection(self) -> None:
        async def act(client: Upstream) -> None:
            async with client.send("/x", BODY, stream=True) as reply:
                assert await reply.next() == b"data: 1\n\n"
            await asyncio.wait_for(left.wait(), 5)

        left = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: 1\n\n")
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                left.set()
                raise
            return response

        asking(handler, act)


class TestFailures:
    def test_a_refusal_says_what_the_provider_said_without_secrets(self) -> None:
        text = json.dumps({"error": {"message": f"no {KEY} {SECRET}", "type": "t"}})
        error = failing(answering(429, text, **{"Retry-After": "2"}), headers={"x-account": SECRET})
        assert (error.failure, error.status, error.retry_after) == ("refused", 429, 2)
        assert error.detail == {"message": "no [key] [key]", "type": "t", "param": None, "code": None}

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_refused_and_nothing_goes_there(self, status: int) -> None:
        asked: list[str] = []

        async def handler(request: web.Request) -> web.Response:
            asked.append(request.path)
            return web.Response(status=status, headers={"Location": "/elsewhere"})

        assert (failing(handler).status, asked) == (status, ["/v1/chat/completions"])

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("limit", ["timeout_s", "first_byte_s", "deadline"])
    def test_silence_ends_at_each_limit(self, stream: bool, limit: str) -> None:
        async def act(client: Upstream) -> Any:
            deadline = asyncio.get_running_loop().time() + 0.1 if limit == "deadline" else None
            return await post(client, stream=stream, deadline=deadline)

        error = failing(silent, act, **({} if limit == "deadline" else {limit: 0.1}))
        assert (error.failure, error.billable) == ("timed out", True)

    @pytest.mark.parametrize("limit", ["timeout_s", "first_byte_s", "deadline"])
    def test_a_stream_that_sends_headers_alone_is_silent(self, limit: str) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await asyncio.sleep(20)
            return response

        async def act(client: Upstream) -> Any:
            deadline = asyncio.get_running_loop().time() + 0.1 if limit == "deadline" else None
            return await post_stream(client, deadline)

        assert failing(handler, act, **({} if limit == "deadline" else {limit: 0.1})).failure == "timed out"

    def test_a_stream_that_has_begun_outlasts_the_limits_of_its_beginning(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for _ in range(6):
                await response.write(b"x")
                await asyncio.sleep(0.1)
            return response

        async def act(client: Upstream) -> bytes:
            return await post_stream(client, asyncio.get_running_loop().time() + 0.3)

        assert asking(handler, act, first_byte_s=0.3) == b"xxxxxx"

    def test_without_time_nothing_is_sent(self) -> None:
        asked: list[str] = []

        async def handler(request: web.Request) -> web.Response:
            asked.append(request.path)
            return web.json_response({})

        error = failing(handler, lambda c: post(c, deadline=asyncio.get_running_loop().time() - 1))
        assert (error.failure, error.billable, asked) == ("timed out", False, [])

    def test_nobody_listens(self) -> None:
        error = failing(silent, url="http://127.0.0.1:9", path="")
        assert (error.failure, error.billable) == ("unreachable", False)

    @pytest.mark.parametrize("kind", ["application/json", "text/html"])
    def test_a_stream_that_is_none(self, kind: str) -> None:
        assert failing(answering(200, "{}", kind), lambda c: post(c, stream=True)).failure == "unreadable"

    def test_nothing_is_logged_of_keys_or_content(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        failing(answering(500, json.dumps({"error": {"message": KEY}})))
        failing(silent, timeout_s=0.05)
        assert KEY not in caplog.text


async def post_stream(client: Upstream, deadline: float | None) -> bytes:
    async with client.send("/x", BODY, stream=True, deadline=deadline) as reply:
        return b"".join([chunk async for chunk in reply.chunks()])


def test_the_public_names() -> None:
    assert upstream.__all__ == ["ProviderSettings", "Reply", "Sending", "Upstream", "with_model"]
    assert provider_settings.__all__ == ["ProviderSettings", "model_of", "with_model"]
