"""What a caller may send below and beside HTTP: the gateway answers or closes, and the next caller is served."""

from __future__ import annotations

import gzip
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway import wire
from tests.gateway.conftest import ANSWER, UNSURE, Frontier, Loop, Running, answering, body, get, send, serving
from tests.gateway.wire import BODY, CHAT, HEAD, LENGTH, closing, converse, statuses
from tiercel.gateway import app, pipeline, worker
from tiercel.gateway.sections import Server, Settings
from tiercel.store.keys import create_key

Configured = Callable[..., Settings]
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def shared(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway without a frontier, for requests that must not get that far."""
    from tiercel.gateway.sections import Capture

    store = str(tmp_path_factory.mktemp("wire") / "store.db")
    with serving(loop, Settings(server=Server(drain_s=0.2), capture=Capture(store=store))) as running:
        yield running


@pytest.fixture
def steady(shared: Running) -> Iterator[Running]:
    """`shared`, which still answers after the test."""
    yield shared
    assert get(shared.url.removesuffix("/v1") + "/healthz")[0] == 200


class TestHead:
    @pytest.mark.parametrize(
        "request_",
        [
            CHAT + LENGTH + CHUNKED + b"0\r\n\r\n" + BODY,
            CHAT + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
            CHAT + b"Content-Length: +5\r\n\r\n" + BODY,
            CHAT + b"Content-Length: -5\r\n\r\n" + BODY,
            CHAT + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
            CHAT + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            CHAT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            CHAT + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            CHAT + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
            CHAT + b"X-A: b\rX-B: c\r\n\r\n",
            CHAT + b"X-A: b\nX-B: c\r\n\r\n",
            CHAT + b"X-A: b\0c\r\n\r\n",
            CHAT + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
            CHAT + b"".join(b"X-%d: a\r\n" % i for i in range(3_000)) + b"\r\n",
            CHAT + b"Host: elsewhere\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\nHost: a\n\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://[/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0\1\2\r\n\r\n",
        ],
    )
    def test_what_two_servers_could_read_in_two_ways_is_refused_and_ends_the_connection(
        self, steady: Running, request_: bytes
    ) -> None:
        said = converse(steady.url, request_)
        assert statuses(said) == [400]
        assert not said.endswith(wire.STILL_OPEN)

    @pytest.mark.parametrize(
        "origin", [b"http://[", b"null", b"https://evil.example", b"http://localhost.evil.example"]
    )
    @pytest.mark.parametrize(
        "first", [CHAT + LENGTH, b"GET /v1/models HTTP/1.1\r\n" + HEAD, b"GET /metrics HTTP/1.1\r\n" + HEAD]
    )
    def test_a_page_of_another_site_is_refused(self, steady: Running, first: bytes, origin: bytes) -> None:
        said = converse(steady.url, closing(first + b"Origin: " + origin + b"\r\n\r\n" + BODY * (LENGTH in first)))
        assert statuses(said) == [403]
        assert b"access-control" not in said.lower()

    @pytest.mark.parametrize("path", [b"/v1/models", b"/metrics", b"/readyz"])
    @pytest.mark.parametrize(
        ("host", "allowed"),
        [
            (b"127.0.0.1:8080", True),
            (b"LOCALHOST", True),
            (b"localhost.:80", True),
            (b"[::1]:8080", True),
            (b"192.168.1.7", True),
            (b"8.8.8.8", True),
            (b"host.docker.internal:8080", True),
            (b"tiercel:8080", True),
            (b"evil.example:8080", False),
            (b"127.0.0.1.evil.example", False),
            (b"localhost.evil.example", False),
            (b"[", False),
        ],
    )
    def test_a_page_that_rebinds_its_name_reads_nothing(
        self, steady: Running, path: bytes, host: bytes, allowed: bool
    ) -> None:
        said = converse(steady.url, closing(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"))
        if path == b"/readyz":
            assert statuses(said) == [200]
            assert (b"workloads" in said) == allowed
        else:
            assert statuses(said) == [200 if allowed else 403]

    def test_a_public_name_is_allowed_where_keys_or_the_settings_say_so(
        self, loop: Loop, configured: Configured
    ) -> None:
        request = closing(b"GET /v1/models HTTP/1.1\r\nHost: ai.example\r\n")
        for server in (Server(require_keys=True, drain_s=0.2), Server(insecure_open=True, drain_s=0.2)):
            with serving(loop, configured(server=server)) as gateway:
                _, secret = create_key(gateway.database, "test")
                gateway.worker.keys.refresh()
                assert statuses(converse(gateway.url, request + f"x-api-key: {secret}\r\n\r\n".encode())) == [200]
                assert statuses(converse(gateway.url, request + b"\r\n")) == [200 if server.insecure_open else 401]

    def test_without_a_key_readiness_tells_no_names(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        settings = configured(frontier.provider(), server=Server(require_keys=True, drain_s=0.2))
        with serving(loop, settings) as gateway:
            status, told = get(gateway.url.removesuffix("/v1") + "/readyz")
        assert (status, set(told)) == (200, {"status", "version"})

    @pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE", b"PUT", b"DELETE", b"PATCH", b"HEAD"])
    def test_other_methods_are_refused_and_nothing_is_echoed(self, steady: Running, method: bytes) -> None:
        asked = (
            method + b" /v1/chat/completions HTTP/1.1\r\nHost: a\r\nCookie: canary=1\r\nOrigin: http://evil.example\r\n"
        )
        said = converse(steady.url, closing(asked + b"Access-Control-Request-Method: POST\r\n\r\n"))
        assert statuses(said) == [405]
        assert b"Allow: POST" in said
        assert b"canary" not in said
        assert b"access-control-allow" not in said.lower()

    @pytest.mark.parametrize(
        "path",
        [
            b"//v1/chat/completions",
            b"/v1/../metrics",
            b"/v1/%2e%2e/metrics",
            b"/v1/chat/completions/",
            b"/%zz%ff",
            b"/v1/chat%00",
        ],
    )
    def test_no_other_spelling_of_a_path_leads_anywhere(self, steady: Running, path: bytes) -> None:
        assert statuses(
            converse(steady.url, closing(b"POST " + path + b" HTTP/1.1\r\n" + HEAD + LENGTH + b"\r\n" + BODY))
        ) == [404]

    def test_a_tunnel_is_not_opened(self, steady: Running) -> None:
        said = converse(steady.url, b"CONNECT evil.example:80 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert statuses(said) == [404]

    def test_half_a_head_is_not_waited_for(
        self, loop: Loop, configured: Configured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "IDLE_S", 0.4)
        with serving(loop, configured()) as gateway:
            for begin in (b"", b"POST /v1/chat", CHAT + b"X-Slow: "):
                assert not converse(gateway.url, begin).endswith(wire.STILL_OPEN)
            again = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea"
            assert statuses(converse(gateway.url, again)) == [200]


class TestBody:
    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ((CHAT + CHUNKED + b"zz\r\n",), 400),
            ((CHAT + CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\n",), 400),
            # The HTTP library says nothing of a chunk that is broken later on; the limit of time ends it.
            ((CHAT + CHUNKED, b"zz\r\n"), 408),
            ((CHAT + CHUNKED, b'5\r\n{"a":\r\n', b"-1\r\n"), 408),
            ((CHAT + b"Content-Length: 9999999999\r\n\r\n",), 413),
            ((CHAT + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + BODY,), 415),
            ((CHAT + LENGTH + b"Content-Encoding: br\r\n\r\n" + BODY,), 415),
            ((CHAT + LENGTH + b"Content-Encoding: unheard-of\r\n\r\n" + BODY,), 415),
            ((CHAT.replace(b"application/json", b"text/plain") + LENGTH + b"\r\n" + BODY,), 415),
            ((CHAT.replace(b"application/json", b";;;") + LENGTH + b"\r\n" + BODY,), 415),
            ((CHAT + LENGTH + b"Expect: 200-maybe\r\n\r\n" + BODY,), 417),
            ((CHAT + LENGTH + b"x-tiercel-tier: \xff\xfe\r\n\r\n" + BODY,), 400),
            ((CHAT + LENGTH + b"Authorization: Bearer tcl-\xff\r\n\r\n" + BODY,), 401),
        ],
    )
    def test_what_can_not_be_read_is_the_callers_mistake(
        self, steady: Running, parts: tuple[bytes, ...], expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "BODY_S", 0.3)
        said = converse(steady.url, closing(parts[0]), *parts[1:], patience_s=0.6)
        assert statuses(said) == [expected]

    def test_a_body_that_breaks_off_is_no_failure(self, steady: Running) -> None:
        for begin in (CHAT + b"Content-Length: 500\r\n\r\n", CHAT + CHUNKED + b"40\r\n"):
            assert 500 not in statuses(converse(steady.url, begin + BODY, end=True))

    def test_a_body_that_does_not_come_is_not_waited_for(
        self, steady: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "BODY_S", 0.2)
        for parts in ((CHAT + LENGTH + b"\r\n" + BODY[:5],), (CHAT + CHUNKED, b"5\r\n{")):
            said = converse(steady.url, *parts, patience_s=0.6)
            assert statuses(said) == [408]

    def test_what_unpacks_to_gigabytes_is_never_unpacked(self, steady: Running) -> None:
        packed = gzip.compress(b" " * 50_000_000)
        process, before = psutil.Process(), psutil.Process().memory_info().rss
        head = CHAT + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        for _ in range(20):
            assert statuses(converse(steady.url, closing(head + packed))) == [415]
        assert process.memory_info().rss - before < 30_000_000

    def test_a_refused_body_is_not_taken_for_the_next_request(self, steady: Running) -> None:
        inside = b"GET /metrics HTTP/1.1\r\nHost: smuggled\r\n\r\n"
        for head in (
            b"POST /v1/none HTTP/1.1\r\n" + HEAD,
            CHAT + b"Content-Encoding: gzip\r\n",
            b"GET /healthz HTTP/1.1\r\n" + HEAD,
            CHAT + b"Origin: https://evil.example\r\n",
        ):
            said = converse(steady.url, head + b"Content-Length: %d\r\n\r\n" % len(inside) + inside, patience_s=0.3)
            assert len(statuses(said)) == 1

    def test_pipelined_requests_are_answered_in_order(self, server: str) -> None:
        health = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        said = converse(server, CHAT + LENGTH + b"\r\n" + BODY + health * 30 + closing(CHAT + LENGTH + b"\r\n") + BODY)
        assert statuses(said) == [200] * 32
        assert said.index(b"chatcmpl-frontier") < said.index(b'"status":"ok"') < said.rindex(b"chatcmpl-frontier")

    def test_http_1_0_and_upgrades_get_a_plain_answer(self, server: str) -> None:
        old = CHAT.replace(b"HTTP/1.1", b"HTTP/1.0") + LENGTH + b"\r\n" + BODY
        assert statuses(converse(server, old)) == [200]
        for upgrade in (b"websocket", b"h2c"):
            asked = CHAT + LENGTH + b"Connection: Upgrade, close\r\nUpgrade: " + upgrade + b"\r\n\r\n" + BODY
            assert statuses(converse(server, asked)) == [200]


FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "role",
        "content",
        "tools",
        "function",
        "name",
        "parameters",
        "tool_calls",
        "stream",
        "input",
        "prompt",
        "system",
        "max_tokens",
        "n",
        "stop",
        "user",
        "metadata",
        "response_format",
        "stream_options",
        "type",
        "text",
    ]
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | FIELDS, inner, max_size=5),
    max_leaves=15,
)
PATHS = st.sampled_from(["/chat/completions", "/completions", "/responses", "/messages", "/embeddings"])


def _near(path: str) -> dict[str, Any]:
    """A request that is right, to have fields of it replaced."""
    said = [{"role": "user", "content": "hello"}]
    return {
        "/chat/completions": {"model": "m", "messages": said},
        "/messages": {"model": "m", "messages": said, "max_tokens": 5},
        "/responses": {"model": "m", "input": "hello"},
        "/completions": {"model": "m", "prompt": "hello"},
        "/embeddings": {"model": "m", "input": "hello"},
    }[path]


class TestFuzz:
    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(path=PATHS, more=st.dictionaries(FIELDS, JSONS, max_size=4))
    def test_no_json_fails_the_gateway(
        self, loop: Loop, server: str, frontier: Frontier, path: str, more: dict[str, Any]
    ) -> None:
        status, headers, raw = send(server, {**_near(path), **more}, path)
        assert status in (200, 400, 404, 413)
        if status != 200:
            assert headers["content-type"].startswith("application/json")
            assert json.loads(raw)["error"]["message"]

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        path=PATHS, raw=st.binary(max_size=200) | JSONS.map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass"))
    )
    def test_no_bytes_fail_the_gateway(self, server: str, path: str, raw: bytes) -> None:
        assert send(server, raw, path)[0] in (200, 400)

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        name=st.sampled_from(
            ["authorization", "x-api-key", "traceparent", "x-tiercel-tier", "x-tiercel-capture", "cookie"]
        )
        | st.sampled_from(
            ["origin", "host", "content-type", "accept", "expect", "te", "via", "forwarded", "x-forwarded-for"]
        ),
        value=st.binary(max_size=60).map(lambda b: b.translate(None, b"\r\n\0")),
    )
    def test_no_header_fails_the_gateway(self, shared: Running, name: str, value: bytes) -> None:
        head = b"\r\n".join(line for line in CHAT.split(b"\r\n") if not line.lower().startswith(name.encode() + b":"))
        said = converse(shared.url, closing(head + name.encode() + b": " + value + b"\r\n" + LENGTH + b"\r\n" + BODY))
        assert len(statuses(said)) == 1
        assert 500 not in statuses(said)

    @pytest.mark.parametrize(
        "raw",
        [
            b'{"model":"m","model":"n","messages":[{"role":"user","content":"a"}],"messages":7}',
            b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
            b'{"model":"m","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
            b'{"model":"\\u0000","messages":[{"role":"user","content":"\\u0000"}]}',
            b'{"model":"' + b"m" * 300 + b'","messages":[{"role":"user","content":"a"}]}',
            b'{"messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 400 + b"}",
            b'{"messages":[{"role":"user","content":"a"}],"seed":1e400}',
            b'{"messages":[{"role":"user","content":"a"}],"seed":NaN}',
            b'{"messages":[{"role":"user","content":"a"}],"x":[' + b"[]," * 300_000 + b"0]}",
            b"\xef\xbb\xbf{}",
            '{"messages":[]}'.encode("utf-16"),
        ],
    )
    @pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
    def test_odd_json(self, server: str, path: str, raw: bytes) -> None:
        assert send(server, raw, path)[0] in (200, 400)

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
    @pytest.mark.parametrize("number", [10**400, 2**63, -(2**70), True])
    def test_huge_numbers_break_no_limit(
        self, loop: Loop, configured: Configured, frontier: Frontier, field: str, number: int
    ) -> None:
        with serving(loop, configured(frontier.provider(), bundle=False)) as gateway:
            limits: dict[str, Any] = {"budget_usd": 1.0, "tokens_per_minute": 1000, "requests_per_minute": 10}
            _, secret = create_key(gateway.database, "test", **limits)
            gateway.worker.keys.refresh()
            asked = body(UNSURE, model="gpt-4o", **{field: number})
            assert send(gateway.url, asked, headers={"x-api-key": secret})[0] in (200, 400, 429)

    def test_prompts_are_not_remembered_by_their_length(self, gateway: Running) -> None:
        known = gateway.worker.gateway.state.workloads
        for i in range(20):
            asked = {
                "model": "m",
                "messages": [{"role": "system", "content": f"{i}" + "x" * 200_000}, {"role": "user", "content": "a"}],
            }
            assert send(gateway.url, asked)[0] == 200
        assert sum(len(key) for key in known._seen) < 1_000


class TestEnds:
    def test_who_does_not_read_an_answer_is_let_go(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        frontier.behave = answering(200, {**ANSWER, "x": "y" * 20_000_000})
        settings = configured(frontier.provider(), server=Server(request_timeout_s=1, drain_s=0.2), bundle=False)
        with (
            serving(loop, settings) as gateway,
            socket.create_connection(("127.0.0.1", wire.port_of(gateway.url)), 5) as connection,
        ):
            connection.sendall(CHAT + LENGTH + b"\r\n" + BODY)
            assert gateway.entries(1)[0].reason == "client too slow"
            connection.settimeout(5)
            got = 0
            while data := connection.recv(1_000_000):
                got += len(data)
            assert got < 20_000_000

    def test_a_stream_without_end_ends(self, loop: Loop, configured: Configured, frontier: Frontier) -> None:
        event = b'data: {"id":"c","object":"chat.completion.chunk","choices":[]}\n\n'

        async def behave(request: Any) -> Any:
            import asyncio

            response = await frontier.stream(request, event)
            while True:
                await response.write(event)
                await asyncio.sleep(0.01)

        frontier.behave = behave
        settings = configured(frontier.provider(), server=Server(request_timeout_s=1, drain_s=0.2), bundle=False)
        with serving(loop, settings) as gateway:
            status, _, raw = send(gateway.url, body(UNSURE, stream=True))
            assert status == 200
            assert json.loads(raw.split(b"data: ")[-1])["error"]["code"] == "timed_out"
            assert gateway.entries(1)[0].reason == "stream too long"
            assert frontier.cancelled.wait(5)

    @pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
    def test_a_bug_in_the_middle_of_a_stream_is_told_in_the_stream(
        self,
        server: str,
        frontier: Frontier,
        monkeypatch: pytest.MonkeyPatch,
        logged: pytest.LogCaptureFixture,
        level: int,
    ) -> None:
        real = pipeline.Escalation.relay

        async def relay(self: Any, *rest: Any) -> Any:
            async for data in real(self, *rest):
                yield data
                raise ZeroDivisionError(UNSURE)

        monkeypatch.setattr(pipeline.Escalation, "relay", relay)
        logged.set_level(level, "tiercel.gateway")
        said = converse(server, closing(CHAT) + b"Content-Length: 79\r\n\r\n" + BODY[:-1] + b', "stream": true   }')
        assert statuses(said) == [200]
        assert b"the server failed" in said
        assert said.endswith(b"\r\n0\r\n\r\n")
        assert "ZeroDivisionError" in logged.text
        assert ("raise ZeroDivisionError" in logged.text) == (level == logging.DEBUG)
