from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from tests.gateway.conftest import (
    ANSWER,
    KEY,
    SURE,
    SYSTEM,
    UNSURE,
    Frontier,
    Headers,
    Loop,
    Process,
    Running,
    answering,
    body,
    chunk,
    get,
    messages,
    send,
    serving,
    sse,
)
from tiercel.errors import BundleError, ConfigurationError
from tiercel.flows.bundle import Bundle
from tiercel.gateway import logs, pipeline
from tiercel.gateway.chat import chat_request
from tiercel.gateway.desk import Desk
from tiercel.gateway.sections import Server, Settings
from tiercel.gateway.server import serve


def error_of(raw: bytes) -> dict[str, Any]:
    error = json.loads(raw)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    return error


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server, api_key="sk-of-the-client", max_retries=0, timeout=10) as client:
        yield client


class TestStudent:
    def test_answers_what_the_gate_is_sure_of(self, client: openai.OpenAI, bundle: Bundle, frontier: Frontier) -> None:
        raw = client.chat.completions.with_raw_response.create(**body(SURE, temperature=0, max_tokens=5))
        version = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:16]
        answer = raw.parse()
        assert answer.choices[0].message.content == "billing"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.object == "chat.completion"
        assert answer.model == "tiercel/helpdesk"
        assert answer.id.startswith("chatcmpl-")
        assert abs(answer.created - time.time()) < 5
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 20
        assert answer.usage.completion_tokens == 1
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1
        assert raw.headers["x-tiercel-tier"] == "student"
        assert raw.headers["x-tiercel-reason"] == "accepted"
        assert raw.headers["x-tiercel-bundle"] == version
        assert raw.headers["x-tiercel-workload"] == "helpdesk"
        assert float(raw.headers["x-tiercel-confidence"]) == pytest.approx(1, abs=0.01)
        assert not frontier.requests

    @pytest.mark.parametrize("usage", [False, True])
    def test_streams(self, client: openai.OpenAI, usage: bool, frontier: Frontier) -> None:
        options: Any = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = list(client.chat.completions.create(**body(SURE), stream=True, **options))
        deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(deltas) == "billing"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert len({c.id for c in chunks}) == 1
        assert {c.object for c in chunks} == {"chat.completion.chunk"}
        assert [c.usage is not None for c in chunks] == [False] * 3 + [True] * usage
        assert not frontier.requests

    def test_a_stream_is_server_sent_events_that_end_with_done(self, server: str) -> None:
        status, headers, raw = send(server, body(SURE, stream=True))
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-tiercel-tier"] == "student"
        assert raw.endswith(b"data: [DONE]\n\n")

    def test_the_asynchronous_client(self, server: str) -> None:
        async def ask() -> tuple[str | None, str]:
            async with openai.AsyncOpenAI(base_url=server, api_key="x", max_retries=0) as client:
                whole = await client.chat.completions.create(**body(SURE))
                stream = await client.chat.completions.create(**body(SURE), stream=True)
                parts = [c.choices[0].delta.content or "" async for c in stream]
            return whole.choices[0].message.content, "".join(parts)

        assert asyncio.run(ask()) == ("billing", "billing")

    def test_reads_content_parts(self, server: str) -> None:
        asked = body(SURE)
        asked["messages"][1]["content"] = [{"type": "text", "text": SURE}]
        status, headers, _ = send(server, asked)
        assert (status, headers["x-tiercel-tier"]) == (200, "student")

    @pytest.mark.parametrize(
        "more",
        [
            {"n": 1, "logprobs": False, "tools": [], "response_format": None, "modalities": ["text"], "stop": None},
            {"temperature": 0.2, "seed": 1, "max_completion_tokens": 1, "user": "u", "tool_choice": "none"},
        ],
    )
    def test_other_settings_change_nothing(self, lonely: str, more: dict[str, Any]) -> None:
        assert send(lonely, body(SURE, **more))[0] == 200

    def test_requests_that_wait_are_answered_together(
        self, loop: Loop, configured: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free, sizes, real = threading.Event(), [], Bundle.answer_many

        def slow(self: Bundle, requests: Any, **more: Any) -> Any:
            sizes.append(len(requests))
            free.wait(5)
            return real(self, requests, **more)

        monkeypatch.setattr(Bundle, "answer_many", slow)

        async def ask(url: str) -> list[str]:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

                async def one(text: str) -> str:
                    async with session.post(f"{url}/chat/completions", json=body(text)) as response:
                        return (await response.json())["choices"][0]["message"]["content"]

                first = asyncio.create_task(one(SURE))
                while not sizes:
                    await asyncio.sleep(0.002)
                texts = [SURE, "password login locked profile"] * 20
                rest = [asyncio.create_task(one(t)) for t in texts]
                await asyncio.sleep(1.0)
                free.set()
                return [await first, *await asyncio.gather(*rest)]

        with serving(loop, configured()) as gateway:
            answers = asyncio.run(ask(gateway.url))
        assert answers == ["billing", *["billing", "account"] * 20]
        assert sizes == [1, 32, 8]

    def test_one_that_fails_harms_no_other(self, server: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Bundle.answer_many

        def fragile(self: Bundle, requests: Any, **more: Any) -> Any:
            if any("poison" in r[-1].text for r in requests):
                raise ZeroDivisionError("poison " + SURE)
            return real(self, requests, **more)

        monkeypatch.setattr(Bundle, "answer_many", fragile)
        reasons = [a.reason for a in Desk(bundle)._work([(_read(t), None) for t in (SURE, "poison", SURE)])]
        status, headers, _ = send(server, body("poison"))
        assert reasons == ["accepted", "student failed", "accepted"]
        assert (status, headers["x-tiercel-tier"], headers["x-tiercel-reason"]) == (200, "frontier", "student failed")


def _read(text: str) -> Any:
    return chat_request(body(text)).messages


class TestFrontier:
    def test_answers_what_the_gate_is_not_sure_of(self, client: openai.OpenAI, frontier: Frontier) -> None:
        raw = client.chat.completions.with_raw_response.create(**body(UNSURE, temperature=0.25))
        assert raw.http_response.json() == ANSWER
        assert raw.headers["x-tiercel-tier"] == "frontier"
        assert raw.headers["x-tiercel-reason"] == "unsure"
        assert 0 <= float(raw.headers["x-tiercel-confidence"]) < 0.5
        assert frontier.requests == [body(UNSURE, temperature=0.25)]

    def test_gets_the_body_and_no_header_of_the_client(self, server: str, frontier: Frontier) -> None:
        odd = {"vendor": {"a": [1, 2.5, None, "é"]}, "seed": 123456789012345678901234567890}
        headers = {"authorization": "Bearer sk-of-the-client", "x-secret": "1", "cookie": "a=b", "user-agent": "me"}
        assert send(server, body(UNSURE, **odd), headers=headers)[0] == 200
        assert frontier.requests == [body(UNSURE, **odd)]
        got = frontier.headers[0]
        assert set(got) == {"host", "accept", "content-type", "content-length", "authorization"}
        assert got["authorization"] == f"Bearer {KEY}"
        assert (got["accept"], got["content-type"]) == ("application/json", "application/json")

    def test_the_settings_model_takes_the_place_of_the_requests(
        self, loop: Loop, configured: Callable[..., Settings], frontier: Frontier
    ) -> None:
        with serving(loop, configured(frontier.provider(model="big", api_key=None))) as gateway:
            send(gateway.url, body(UNSURE))
            _, found = get(f"{gateway.url}/models")
        assert frontier.requests == [body(UNSURE) | {"model": "big"}]
        assert "authorization" not in frontier.headers[0]
        assert [m["id"] for m in found["data"]][1:] == ["big"]

    def test_streams(self, client: openai.OpenAI, frontier: Frontier) -> None:
        stream = client.chat.completions.create(**body(UNSURE), stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream) == "delivery"
        assert stream.response.headers["x-tiercel-tier"] == "frontier"
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        # The gateway needs the counts, and keeps them from a client that did not ask.
        assert frontier.requests == [body(UNSURE, stream=True, stream_options={"include_usage": True})]
        assert frontier.headers[0]["accept"] == "text/event-stream"

    def test_a_stream_is_relayed_as_it_comes(self, client: openai.OpenAI, frontier: Frontier) -> None:
        async def halting(request: web.Request) -> web.StreamResponse:
            response = await frontier.stream(request, *sse(chunk("deli")))
            await frontier.until_released()
            for part in sse(chunk("very"), b"[DONE]"):
                await response.write(part)
            return response

        frontier.behave = halting
        stream = iter(client.chat.completions.create(**body(UNSURE), stream=True))
        assert next(stream).choices[0].delta.content == "deli"
        frontier.released.set()
        assert [c.choices[0].delta.content for c in stream] == ["very"]

    def test_a_slow_reader_holds_the_frontier_back(self, server: str, frontier: Frontier) -> None:
        part = sse(chunk("x" * (2**16)))[0]
        total = 1_000 * len(part)
        frontier.behave = lambda request: frontier.stream(request, *[part] * 1_000)

        async def read() -> tuple[int, int]:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{server}/chat/completions", json=body(UNSURE, stream=True)) as response,
            ):
                received = len(await response.content.read(2**16))
                before = -1
                while before != frontier.sent:
                    before = frontier.sent
                    await asyncio.sleep(0.15)
                received += len(await response.read())
                return before, received

        held, received = asyncio.run(read())
        assert held < total / 2
        assert received == total == frontier.sent

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({"n": 2}, "several choices"),
            ({"logprobs": True}, "logprobs"),
            ({"top_logprobs": 3}, "logprobs"),
            ({"tools": [{"type": "function", "function": {"name": "look_up"}}]}, "another workload"),
            ({"tools": [{"type": "custom", "custom": {"name": "look_up"}}]}, "another workload"),
            ({"functions": [{"name": "look_up"}]}, "not text"),
            ({"modalities": ["text", "audio"]}, "not text"),
            ({"response_format": {"type": "json_object"}}, "another workload"),
            ({"tool_choice": "required"}, "tool choice"),
            ({"messages": [{"role": "user", "content": SURE}]}, "another workload"),
            ({"messages": [*messages(SURE), {"role": "assistant", "content": "bill"}]}, "another workload"),
            ({"messages": [{"role": "system", "content": SYSTEM}]}, "another workload"),
            (
                {"messages": [*messages(SURE), {"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
                "another workload",
            ),
            (
                {
                    "messages": [
                        {"role": "system", "content": SYSTEM},
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
                    ]
                },
                "another workload",
            ),
        ],
    )
    def test_gets_what_no_student_stands_in_for(
        self, server: str, frontier: Frontier, more: dict[str, Any], reason: str
    ) -> None:
        status, headers, _ = send(server, body(SURE) | more)
        assert (status, headers["x-tiercel-tier"], headers["x-tiercel-reason"]) == (200, "frontier", reason)
        assert frontier.requests == [body(SURE) | more]

    def test_without_one_503_says_what_to_set(self, lonely: str) -> None:
        with openai.OpenAI(base_url=lonely, api_key="x", timeout=10) as client:
            started = time.monotonic()
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(**body(UNSURE))
            assert time.monotonic() - started < 5  # clients are told not to try again
        assert caught.value.status_code == 503
        for name in ("needs the frontier", "unsure", "--frontier-url", "TIERCEL_FRONTIER_KEY"):
            assert name in str(caught.value)
        status, headers, raw = send(lonely, body(UNSURE, stream=True))
        assert (status, headers["x-tiercel-tier"]) == (503, "none")
        assert error_of(raw)["code"] == "frontier_not_configured"


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    def test_too_many_requests(self, client: openai.OpenAI, frontier: Frontier, stream: bool) -> None:
        error = {"message": f"slow down, {KEY}", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
        frontier.behave = answering(429, {"error": error}, **{"Retry-After": "7"})
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**body(UNSURE), stream=stream)
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.response.headers["x-tiercel-tier"] == "frontier"
        assert caught.value.code == "rate_limit_exceeded"
        assert error_of(caught.value.response.content) == error | {"message": "slow down, [key]"}

    @pytest.mark.parametrize(
        ("status", "data", "relayed", "code"),
        [
            (
                400,
                {"error": {"message": "too long", "code": "context_length_exceeded"}},
                400,
                "context_length_exceeded",
            ),
            (401, {"error": {"message": f"Incorrect API key provided: {KEY[:6]}****"}}, 401, "frontier_refused"),
            (404, "no JSON", 404, "frontier_refused"),
            (422, {"detail": [{"loc": ["body"]}]}, 422, "frontier_refused"),
            (302, "", 502, "frontier_refused"),
            (500, {"error": "oh"}, 502, "frontier_refused"),
            (503, {"error": None}, 502, "frontier_refused"),
            (504, "<html>", 504, "frontier_refused"),
            (200, "<html>", 502, "frontier_unreadable"),
            (200, "[" * 100_000, 502, "frontier_unreadable"),
            (200, "[]", 502, "frontier_unreadable"),
        ],
    )
    def test_refusals(self, server: str, frontier: Frontier, status: int, data: Any, relayed: int, code: str) -> None:
        frontier.behave = answering(status, data, Location="http://127.0.0.1:9/")
        got, headers, raw = send(server, body(UNSURE))
        assert got == relayed
        assert headers["content-type"].startswith("application/json")
        assert error_of(raw)["code"] == code
        assert KEY.encode() not in raw
        assert KEY[:6].encode() not in raw

    def test_a_frontier_that_is_down(self, loop: Loop, configured: Callable[..., Settings], frontier: Frontier) -> None:
        with socket.socket() as taken:  # bound, but nobody listens
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            with serving(loop, configured(frontier.provider(url=url))) as gateway:
                for stream in (False, True):
                    status, _, raw = send(gateway.url, body(UNSURE, stream=stream))
                    assert (status, error_of(raw)["code"]) == (502, "frontier_unreachable")
                assert send(gateway.url, body(SURE))[0] == 200

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_frontier_that_does_not_answer(
        self, loop: Loop, configured: Callable[..., Settings], frontier: Frontier, stream: bool
    ) -> None:
        async def silent(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.Response()

        frontier.behave = silent
        with serving(loop, configured(frontier.provider(timeout_s=0.15))) as gateway:
            status, _, raw = send(gateway.url, body(UNSURE, stream=stream))
        assert (status, error_of(raw)["code"]) == (504, "frontier_timed_out")
        assert frontier.cancelled.wait(2)

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_stream_that_breaks_off(self, client: openai.OpenAI, frontier: Frontier, whole: bool) -> None:
        async def breaking(request: web.Request) -> web.StreamResponse:
            await frontier.stream(request, *sse(chunk("deli")), *([] if whole else [b'data: {"id"']))
            assert request.transport is not None
            await frontier.until_released()
            request.transport.abort()
            return web.Response()

        frontier.behave = breaking
        # Passed on as it comes, for there is nothing to be kept from the client.
        asked = body(UNSURE, stream_options={"include_usage": True})
        stream = iter(client.chat.completions.create(**asked, stream=True))
        assert next(stream).choices[0].delta.content == "deli"
        frontier.released.set()
        # A broken event can only be told by a broken connection; the client then raises what its HTTP library does.
        with pytest.raises(openai.APIError if whole else Exception) as caught:
            list(stream)
        assert ("can't be reached" in str(caught.value)) == whole

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("begun", [False, True])
    def test_a_client_that_leaves_cancels_the_frontiers_work(
        self, server: str, frontier: Frontier, stream: bool, begun: bool
    ) -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            response = await frontier.stream(request, *sse(chunk("deli"))) if begun and stream else web.Response()
            await frontier.until_released()
            return response

        frontier.behave = endless

        async def leave() -> None:
            async with aiohttp.ClientSession() as session:

                async def ask() -> None:
                    async with session.post(f"{server}/chat/completions", json=body(UNSURE, stream=stream)) as response:
                        await response.read()

                task = asyncio.create_task(ask())
                while not frontier.asked.is_set():
                    await asyncio.sleep(0.005)
                task.cancel()

        asyncio.run(leave())
        assert frontier.cancelled.wait(2)

    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"\xff\xfe", "not valid JSON"),
            (b'{"messages": NaN}', "not valid JSON"),
            (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not valid JSON"),
            (b"[]", "object"),
            (b"null", "object"),
            (b"{}", "messages"),
            (b'{"messages": []}', "messages"),
            (b'{"messages": "hi"}', "messages"),
            (b'{"messages": ["hi"]}', "messages"),
            (b'{"messages": [{"content": "hi"}]}', "role"),
            (b'{"messages": [{"role": 1}]}', "role"),
            (b'{"messages": [{"role": "user", "content": 7}]}', "content"),
            (b'{"messages": [{"role": "user", "content": ["hi"]}]}', "content"),
            (b'{"model": 4, "messages": [{"role": "user"}]}', "model"),
            (b'{"stream": "yes", "messages": [{"role": "user"}]}', "stream"),
            (b'{"stream_options": 1, "messages": [{"role": "user"}]}', "stream_options"),
            (b'{"n": "2", "messages": [{"role": "user"}]}', "n"),
            (b'{"tools": {}, "messages": [{"role": "user"}]}', "tools"),
            (b'{"tools": [{"function": "f"}], "messages": [{"role": "user"}]}', "tools"),
            (b'{"response_format": "json", "messages": [{"role": "user"}]}', "response_format"),
            (b"[" * 100_000, "nested too deep"),
            (b'{"messages": [{"role": "user"}], "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep"),
            (b'{"messages": [{"role": "user"}], "n": ' + b"1" * 10_000 + b"}", ""),
        ],
    )
    def test_what_is_no_request_gets_400(self, server: str, frontier: Frontier, raw: bytes, says: str) -> None:
        status, _, answer = send(server, raw)
        assert status == 400
        assert says in error_of(answer)["message"]
        assert error_of(answer)["type"] == "invalid_request_error"
        assert not frontier.requests

    def test_every_depth_is_answered(self, lonely: str, server: str) -> None:
        for depth in (20, 400, 600, 800, 950, 970, 990, 1000):
            deep = b"[" * depth + b"]" * depth
            for field in (b"metadata", b"response_format"):
                deep_field = b'{"a":' + deep + b"}"
                raw = json.dumps(body(UNSURE)).encode()[:-1] + b', "' + field + b'": ' + deep_field + b"}"
                assert send(server, raw)[0] in (200, 400)
                assert send(lonely, raw)[0] in (503, 400)

    def test_a_body_that_is_too_large(self, server: str) -> None:
        status, _, raw = send(server, b" " * (10 * 2**20 + 1))
        assert status == 413
        assert "10 MB" in error_of(raw)["message"]
        status, headers, _ = send(server, body("x" * (9 * 2**20)))
        assert (status, headers["x-tiercel-tier"]) == (200, "frontier")

    def test_other_paths_and_methods(self, server: str) -> None:
        status, _, raw = send(server, {}, "/moderations")
        assert (status, error_of(raw)["type"]) == (404, "invalid_request_error")
        status, found = get(f"{server}/chat/completions")
        assert status == 405
        assert "POST" in found["error"]["message"]

    def test_a_bug_gives_500_without_content(
        self, server: str, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: Any) -> None:
            raise ZeroDivisionError(SURE)

        monkeypatch.setattr(pipeline, "why_frontier", broken)
        status, _, raw = send(server, body(SURE))
        assert (status, error_of(raw)["message"]) == (500, "the server failed")
        assert "ZeroDivisionError" in logged.text


def test_models_and_health(server: str, bundle: Bundle) -> None:
    version = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:16]
    with openai.OpenAI(base_url=server, api_key="x", max_retries=0) as client:
        assert [(m.id, m.owned_by) for m in client.models.list()] == [("tiercel/helpdesk", "tiercel")]
    status, state = get(server.removesuffix("/v1") + "/healthz")
    assert (status, state["status"]) == (200, "ok")
    status, state = get(server.removesuffix("/v1") + "/readyz")
    assert (status, state["status"], state["workloads"]) == (200, "ready", {"helpdesk": version})
    assert state["providers"] == ["frontier"]


def test_a_request_is_logged_without_content(gateway: Running, logged: pytest.LogCaptureFixture) -> None:
    logged.set_level(logging.DEBUG, "tiercel.gateway")
    send(gateway.url, body(SURE))
    send(gateway.url, body(UNSURE))
    gateway.entries(2)
    lines = [r.getMessage() for r in logged.records if r.name == "tiercel.gateway"]
    assert ["tier=student reason='accepted'" in lines[-2], "tier=frontier reason='unsure'" in lines[-1]] == [True] * 2


def test_what_aiohttp_logs_loses_its_text() -> None:
    try:
        raise ValueError(SURE)
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "Error from %s", ("127.0.0.1",), info)
    assert logs.without_content(record)
    assert logging.Formatter().format(record) == "Error from 127.0.0.1 (ValueError)"


class TestServe:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_lets_requests_in_flight_end(
        self, spawn: Callable[..., Process], frontier: Frontier, number: int
    ) -> None:
        async def slow(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response(ANSWER)

        frontier.behave = slow
        process = spawn(frontier_url=frontier.url)
        results: list[tuple[int, Headers, bytes]] = []
        assert send(process.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        thread = threading.Thread(target=lambda: results.append(send(process.url, body(UNSURE))))
        thread.start()
        assert frontier.asked.wait(5)
        process.process.send_signal(number)
        address = process.url.removeprefix("http://").removesuffix("/v1").split(":")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # no new connection once it was told to stop
            try:
                socket.create_connection((address[0], int(address[1])), 1).close()
            except OSError:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("the server still listens")
        assert process.process.poll() is None
        frontier.released.set()
        thread.join(10)
        code, log = process.end()
        assert results[0][0] == 200
        assert json.loads(results[0][2]) == ANSWER
        assert code == 0
        assert "stopping" in log
        for secret in (KEY, "invoice", UNSURE, SYSTEM, "Traceback"):
            assert secret not in log

    def test_a_malformed_request_leaves_no_content_in_the_log(self, spawn: Callable[..., Process]) -> None:
        process = spawn()
        address = process.url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization sk-leaked\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.0 400")
        process.process.terminate()
        code, log = process.end()
        assert code == 0
        assert "sk-leaked" not in log
        assert "Traceback" not in log

    def test_a_taken_port_is_the_users_mistake(self, configured: Callable[..., Settings]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError, match="--port"):
            serve(configured(server=Server(port=taken.getsockname()[1])))

    def test_no_bundle(self, configured: Callable[..., Settings], tmp_path: Path) -> None:
        with pytest.raises(BundleError):
            serve(configured(workload={"bundle": tmp_path / "nothing"}, bundle=False, server=Server(port=0)))
