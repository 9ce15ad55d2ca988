"""Providers that are broken or hostile: the gateway bounds memory and time, and its client gets an error that is right."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.gateway.conftest import ANSWER, UNSURE, Frontier, Loop, Running, body, send, serving, sse
from tests.gateway.wire import saying
from tiercel.gateway import escalation
from tiercel.gateway.sections import Provider, Server, Settings
from tiercel.providers import upstream

Configured = Callable[..., Settings]
OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\n\r\n"
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"f","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def endlessly(*first: bytes, then: bytes, most: int = 200_000_000) -> Callable[[socket.socket], None]:
    """Says something, and then the same until nobody listens or that many bytes are sent."""

    def talk(connection: socket.socket) -> None:
        for data in first:
            connection.sendall(data)
        for _ in range(most // len(then)):
            connection.sendall(then)

    return talk


def once(*parts: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for data in parts:
            connection.sendall(data)

    return talk


def silently(*parts: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        once(*parts)(connection)
        connection.settimeout(5)
        connection.recv(1)

    return talk


@pytest.fixture
def asked(loop: Loop, configured: Configured) -> Callable[..., tuple[int, bytes, int]]:
    """Status, body and growth of memory in bytes of a request that such a provider answers."""

    def ask(
        talk: Callable[[socket.socket], Any], path: str = "/chat/completions", **more: Any
    ) -> tuple[int, bytes, int]:
        server = Server(request_timeout_s=2, drain_s=0.2)
        with saying(talk) as url:
            provider = Provider(name="hostile", url=url, timeout_s=1, retries=0)
            with serving(loop, configured(provider, bundle=False, server=server)) as gateway:
                process, before = psutil.Process(), psutil.Process().memory_info().rss
                request = (
                    {"max_tokens": 5, **body(UNSURE), **more}
                    if path != "/responses"
                    else {"model": "m", "input": "a", **more}
                )
                status, _, raw = send(gateway.url, request, path)
                grown = process.memory_info().rss - before
                assert gateway.entries(1)[0].status == status
        return status, raw, grown

    return ask


@pytest.mark.parametrize(
    ("talk", "status"),
    [
        (silently(), 504),
        (silently(OK), 504),
        (silently(JSON + b"Content-Length: 100\r\n\r\n{"), 504),
        (once(), 502),
        (once(b"SSH-2.0-OpenSSH\r\n\r\n"), 502),
        (once(JSON + b"Content-Length: 100\r\n\r\n{"), 502),
        (once(JSON + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"), 502),
        (once(JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 502),
        (once(JSON + b"Content-Length: 9\r\n\r\nnot json!"), 502),
        (once(JSON + b"Content-Length: 2\r\n\r\n[]"), 502),
        (once(JSON + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), 502),
        (once(JSON + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"), 502),
        (once(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"), 502),
        (once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), 502),
        (once(b"HTTP/1.1 204 No Content\r\n\r\n"), 502),
        (once(JSON + b"X-Long: " + b"a" * 5_000_000 + b"\r\n\r\n"), 502),
        (once(JSON + b"".join(b"X-%d: a\r\n" % i for i in range(100_000)) + b"\r\n"), 502),
        (once(b"HTTP/1.1 200 " + b"a" * 5_000_000 + b"\r\n\r\n"), 502),
        (endlessly(then=b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000), 504),
        (endlessly(JSON, then=b"X-A: a\r\n" * 1_000), 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_answer_is_an_error_in_time_and_memory(
    asked: Callable[..., tuple[int, bytes, int]], talk: Any, status: int, stream: bool
) -> None:
    found, raw, grown = asked(talk, stream=stream)
    assert found in (status, 502, 504)
    assert json.loads(raw)["error"]["message"]
    assert b"169.254" not in raw
    assert grown < 60_000_000


def test_an_answer_without_end_is_cut_off(
    asked: Callable[..., tuple[int, bytes, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "LARGEST_ANSWER", 2_000_000)
    status, _, grown = asked(endlessly(JSON + b"\r\n", then=b" " * 65_536))
    assert status == 502
    assert grown < 60_000_000


def test_an_answer_that_unpacks_to_gigabytes_is_cut_off(
    asked: Callable[..., tuple[int, bytes, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "LARGEST_ANSWER", 2_000_000)
    packed = gzip.compress(b" " * 100_000_000)
    head = JSON + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    status, _, grown = asked(once(head + packed))
    assert status in (502, 504)
    assert grown < 60_000_000


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
@pytest.mark.parametrize(
    "endless",
    [
        endlessly(EVENTS, then=b"data: " + b"x" * 60_000),
        endlessly(EVENTS, then=b": nothing\n\n" * 5_000),
        endlessly(EVENTS, then=b"\n" * 60_000),
        endlessly(EVENTS, then=b"data: x\n" * 8_000),
    ],
)
def test_an_event_without_end_is_no_beginning(
    asked: Callable[..., tuple[int, bytes, int]], endless: Any, path: str
) -> None:
    status, raw, grown = asked(endless, path, stream=True)
    assert status in (502, 504)
    assert json.loads(raw)["error"]["message"]
    assert grown < 80_000_000


@pytest.mark.parametrize("path", ["/messages", "/responses"])
def test_a_stream_that_has_to_be_translated_is_held_up_to_a_limit(
    asked: Callable[..., tuple[int, bytes, int]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(escalation, "MOST_TRANSLATED", 1_000_000)
    status, raw, _ = asked(endlessly(EVENTS, then=EVENT * 100), path, stream=True)
    assert status == 200
    assert b"longer than" in raw[-600:]


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses", "/completions"])
@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"choices":[{"index":0,"message":{"role":"assistant","content":7},"finish_reason":"stop"}]}',
        b'{"choices":[{}],"usage":{"prompt_tokens":' + b"9" * 300 + b"}}",
        b'{"choices":7,"usage":7,"model":7}',
        b'{"choices":[],"usage":{"prompt_tokens":-5,"completion_tokens":1e300}}',
        b'{"model":"' + b"m" * 100_000 + b'","choices":[]}',
        b'{"error":{"message":"m","code":' + b"9" * 300 + b"}}",
        b'{"error":{"message":"m\\r\\nSet-Cookie: a=1","code":"a\\r\\nX-B: c","type":"\\u0000"}}',
        b'{"error":"' + b"e" * 100_000 + b'"}',
        b'{"id":null,"choices":[null]}',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_another_form_never_fails_the_gateway(
    loop: Loop, server: str, frontier: Frontier, answer: bytes, path: str, stream: bool
) -> None:
    async def behave(request: Any) -> Any:
        from aiohttp import web

        if stream:
            return await frontier.stream(request, b"data: " + answer + b"\n\n", b"data: [DONE]\n\n")
        return web.Response(body=answer, content_type="application/json", headers={"Retry-After": "1e308"})

    frontier.behave = behave
    request = {
        "model": "m",
        "input": "a",
        "prompt": "a",
        "messages": body(UNSURE)["messages"],
        "max_tokens": 5,
        "stream": stream,
    }
    status, headers, raw = send(server, request, path)
    assert status in (200, 400, 429, 502)
    assert b"the server failed" not in raw
    assert "set-cookie" not in headers
    assert "x-b" not in headers


def test_what_a_provider_counts_spoils_no_ledger(gateway: Running, frontier: Frontier) -> None:
    usage = {
        "prompt_tokens": 10**300,
        "completion_tokens": 10**300,
        "prompt_tokens_details": {"cached_tokens": 10**299},
    }

    async def behave(request: Any) -> Any:
        from aiohttp import web

        return web.json_response({**ANSWER, "model": "gpt-4o", "usage": usage})

    frontier.behave = behave
    assert send(gateway.url, body(UNSURE, model="gpt-4o"))[0] == 200
    frontier.behave = None
    assert send(gateway.url, body(UNSURE))[0] == 200
    kept = gateway.entries(2)
    assert kept[0].input_tokens == 2**31 - 1
    assert kept[1].input_tokens == 1


def test_a_key_that_a_stream_repeats_in_pieces_is_taken_out(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    from tests.gateway.conftest import KEY

    async def behave(request: Any) -> Any:
        whole = b"".join(sse({"choices": [{"index": 0, "delta": {"content": f"it is {KEY}, yes"}}]}, b"[DONE]"))
        return await frontier.stream(request, *(whole[i : i + 7] for i in range(0, len(whole), 7)))

    frontier.behave = behave
    with serving(loop, configured(frontier.provider(), bundle=False)) as gateway:
        for path in ("/chat/completions", "/messages"):
            _, _, raw = send(gateway.url, body(UNSURE, stream=True, max_tokens=5), path)
            assert KEY.encode() not in raw
            assert b"it is [key], yes" in raw
