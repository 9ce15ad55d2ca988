"""Canaries: secrets and content that are planted, and looked for wherever the gateway leaves a trace."""

from __future__ import annotations

import json
import logging
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from tests.gateway import wire
from tests.gateway.conftest import ANSWER, Frontier, Loop, Running, answering, chunk, get, send, serving, sse
from tiercel.errors import ConfigurationError
from tiercel.gateway import pipeline
from tiercel.gateway.logs import JsonFormatter
from tiercel.gateway.sections import Capture, Settings
from tiercel.gateway.settings import read_settings
from tiercel.gateway.spans import Spans
from tiercel.store.keys import create_key

ENV_KEY, FILE_KEY = "sk-env-canary-7b1e0c55aa91", "sk-file-canary-90c2f1d6b3e8"
HEADER_SECRET = "hdr-canary-5f2a77e1c4d0b6"
CLIENT_HEADER, CLIENT_KEY, FIELD, USER = "cli-canary-18d9", "tcl-canary-wrong", "fld-canary-77aa", "usr-canary-31f0"
CONTENT, ANSWERED = "con-canary-zebra-4411", "ans-canary-quokka-9922"
SECRETS = (ENV_KEY, FILE_KEY, HEADER_SECRET)
ALL = (*SECRETS, CLIENT_HEADER, CLIENT_KEY, FIELD, USER, CONTENT, ANSWERED)

ASK = {
    "model": "m",
    "messages": [{"role": "system", "content": CONTENT}, {"role": "user", "content": CONTENT}],
    "user": USER,
    "x_field": FIELD,
}
TOLD = json.loads(json.dumps(ANSWER).replace("delivery", ANSWERED))


@pytest.fixture
def settings(tmp_path: Path, frontier: Frontier) -> Settings:
    """Of a gateway with one provider whose secrets come from the environment and from files."""
    (tmp_path / "key").write_text(FILE_KEY)
    (tmp_path / "key").chmod(0o600)
    config = tmp_path / "tiercel.toml"
    config.write_text(
        f"""
        [server]
        drain_s = 0.2
        [telemetry]
        log_level = "debug"
        [[provider]]
        name = "one"
        url = "{frontier.url}"
        key_env = "CANARY"
        retries = 0
        timeout_s = 0.3
        headers = {{ x-team-token = {{ env = "CANARY_HEADER" }} }}
        [[provider]]
        name = "two"
        url = "{frontier.url}"
        key_file = "key"
        retries = 0
        timeout_s = 0.3
        """
    )
    return read_settings(config, {"CANARY": ENV_KEY, "CANARY_HEADER": HEADER_SECRET})


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of every gateway of the test."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr("tiercel.gateway.bookkeeping.Spans", lambda endpoint: Spans(endpoint, exporter))
    return exporter


@pytest.fixture
def seen(logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """All that was logged by the gateway and written to stdout and stderr."""

    def seen() -> str:
        records = [r for r in logged.records if r.name.startswith(("tiercel", "aiohttp", "asyncio", "sqlalchemy"))]
        forms = (logging.Formatter("%(asctime)s %(message)s"), JsonFormatter())
        out, error = capfd.readouterr()
        return "\n".join([*(form.format(r) for r in records for form in forms), out, error])

    yield seen


def found(haystack: str | bytes, needles: tuple[str, ...] = ALL) -> list[str]:
    text = haystack.decode("latin-1") if isinstance(haystack, bytes) else haystack
    return [n for n in needles if n in text]


def everywhere(gateway: Running, traces: InMemorySpanExporter) -> str:
    """Metrics, readiness, document, spans and the ledger."""
    base = gateway.url.removesuffix("/v1")
    pages = [get(base + path, raw=True)[1].decode() for path in ("/metrics", "/readyz", "/openapi.json", "/v1/models")]
    gateway.worker.books.close()  # sends the last spans
    spans = [span.to_json() for span in traces.get_finished_spans()]
    with gateway.database.reading() as connection:
        rows = [str(row) for row in connection.execute(text("SELECT * FROM entries"))]
    assert spans
    assert rows
    return "\n".join([*pages, *spans, *rows])


HEADERS = {"cookie": CLIENT_HEADER, "x-mine": CLIENT_HEADER, "referer": CLIENT_HEADER, "x-tiercel-tier": "auto"}


def raw(url: str, asked: Any, headers: dict[str, str]) -> bytes:
    """All bytes of an answer, head included, however it ends."""
    sent = json.dumps(asked).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    head = wire.CHAT + lines + b"Content-Length: %d\r\n\r\n" % len(sent)
    return wire.converse(url, wire.closing(head) + sent)


def drive(gateway: Running, frontier: Frontier, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What clients are told on every way that a request can end badly."""
    told: list[bytes] = []

    def echoing(status: int) -> Any:
        async def behave(request: Any) -> Any:
            from aiohttp import web

            key = request.headers["authorization"].split()[1]
            text = f"no such key {key}, or {request.headers['authorization']}, or {request.headers.get('x-team-token')}"
            error = {"message": text, "type": key, "code": key, "param": key}
            headers = {"x-leak": key, "x-request-id": key, "retry-after": "1"}
            return web.json_response({"error": error}, status=status, headers=headers)

        return behave

    async def repeats(request: Any) -> Any:
        from aiohttp import web

        message = {"role": "assistant", "content": json.dumps({"seen": dict(request.headers)})}
        answer = {**TOLD, "choices": [{**TOLD["choices"][0], "message": message}]}
        return web.json_response(answer, headers={"x-request-id": request.headers["authorization"].split()[1]})

    async def breaks(request: Any) -> Any:
        response = await frontier.stream(request, *sse(chunk(ANSWERED)), b"data: {" + ENV_KEY.encode())
        request.transport.abort()
        return response

    async def silent(request: Any) -> Any:
        await frontier.until_released()

    behaviours: list[Any] = [echoing(status) for status in (200, 400, 401, 403, 404, 429, 500, 503)]
    behaviours += [answering(200, f'{{"{ANSWERED}'), answering(302, {}, Location=ENV_KEY), repeats, breaks, silent]
    for behave in behaviours:
        frontier.behave = behave
        for stream in (False, True):
            told.append(raw(gateway.url, {**ASK, "stream": stream}, HEADERS))
    frontier.behave = None
    asked = json.dumps(ASK).encode()
    told.append(send(gateway.url, ASK, headers={"authorization": f"Bearer {CLIENT_KEY}"})[2])
    told.append(send(gateway.url, ASK, headers={"origin": f"https://{CLIENT_HEADER}.example"})[2])
    told.append(send(gateway.url, ASK, headers={"x-tiercel-tier": CLIENT_HEADER})[2])
    told.append(send(gateway.url, {**ASK, "messages": CONTENT, "model": [FIELD]})[2])
    told.append(send(gateway.url, asked[:-3])[2])
    told.append(send(gateway.url, asked, "/nowhere/" + FIELD)[2])
    told.append(send(gateway.url, asked, headers={"content-type": CLIENT_HEADER + "/x"})[2])
    told.append(send(gateway.url, asked, headers={"content-encoding": CLIENT_HEADER})[2])
    wire.converse(gateway.url, b"GET / HTTP/1.1\r\nHost: a\r\nX-Bad " + CLIENT_HEADER.encode() + b"\r\n\r\n")
    with monkeypatch.context() as patched:

        def bug(*_: Any) -> None:
            raise ValueError(f"{CONTENT} {ENV_KEY} {ANSWERED}")

        patched.setattr(pipeline, "_users", bug)
        told.append(send(gateway.url, ASK)[2])
    return told


def test_no_way_to_fail_lets_a_secret_out(
    loop: Loop,
    settings: Settings,
    frontier: Frontier,
    traces: InMemorySpanExporter,
    seen: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    capture = Capture(store=str(tmp_path / "store.db"), content=False)
    telemetry = replace(settings.telemetry, otlp_endpoint="http://127.0.0.1:9")
    with serving(loop, replace(settings, capture=capture, telemetry=telemetry)) as gateway:
        told = drive(gateway, frontier, monkeypatch)
        # Content comes back to who sent it, and errors of a provider may quote it; secrets never do.
        assert found(b"\n".join(told), (*SECRETS, CLIENT_HEADER, CLIENT_KEY)) == []
        assert b"[key]" in b"\n".join(told)
        gateway.entries(34)
        assert found(everywhere(gateway, traces)) == []
    for file in tmp_path.glob("store.db*"):
        assert found(file.read_bytes()) == []
    assert found(seen()) == []


def test_content_is_in_the_table_of_contents_and_nowhere_else(
    loop: Loop,
    settings: Settings,
    frontier: Frontier,
    traces: InMemorySpanExporter,
    seen: Callable[[], str],
    tmp_path: Path,
) -> None:
    frontier.behave = answering(200, TOLD)
    store = tmp_path / "store.db"
    telemetry = replace(settings.telemetry, otlp_endpoint="http://127.0.0.1:9")
    with serving(loop, replace(settings, capture=Capture(store=str(store)), telemetry=telemetry)) as gateway:
        assert send(gateway.url, ASK, headers=HEADERS)[0] == 200
        gateway.entries(1)
        assert found(everywhere(gateway, traces)) == []
        with gateway.database.reading() as connection:
            names = [r[0] for r in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))]
            tables = {n: str(connection.execute(text(f"SELECT * FROM {n}")).all()) for n in names}
    assert set(found(tables.pop("contents"))) == {CONTENT, ANSWERED, FIELD}
    assert found(str(tables)) == []
    assert found(seen()) == []
    if sys.platform != "win32":
        for file in tmp_path.glob("store.db*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_store_that_fails_says_nothing_of_what_it_was_given(
    loop: Loop,
    settings: Settings,
    frontier: Frontier,
    seen: Callable[[], str],
    logged: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    frontier.behave = answering(200, TOLD)
    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        _, secret = create_key(gateway.database, "test", requests_per_minute=100)
        gateway.worker.keys.refresh()
        kept = gateway.database.path
        assert kept is not None
        with gateway.database.writing() as connection:
            # Whatever is written from now on is refused by the database, with the values in its mouth.
            for table in ("entries", "contents"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
        status, _, told = send(gateway.url, ASK, headers={"x-api-key": secret})
        assert status == 200
        assert ANSWERED.encode() in told
        wait_for(lambda: gateway.worker.recorder.dropped == 1)
        assert "can't be stored" in logged.text
        assert found(seen(), (*ALL, secret)) == []


def test_a_limit_that_can_not_be_asked_is_no_failure_of_the_gateway(
    loop: Loop, settings: Settings, frontier: Frontier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiercel.errors import StorageError
    from tiercel.gateway import limiter

    def down(*_: Any, **__: Any) -> None:
        raise StorageError("the store does not answer")

    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        _, secret = create_key(gateway.database, "test", requests_per_minute=100)
        gateway.worker.keys.refresh()
        monkeypatch.setattr(limiter, "reserve_many", down)
        status, _, told = send(gateway.url, ASK, headers={"x-api-key": secret})
    assert (status, json.loads(told)["error"]["code"]) == (503, "limits_unavailable")
    assert found(told) == []
    assert not frontier.requests


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        f'[[provider]]\nname = "a"\nurl = "https://{ENV_KEY}@api.example/v1"\nkey_env = "CANARY"',
        f'[[provider]]\nname = "a"\nurl = "https://api.example/v1?key={ENV_KEY}"\nkey_env = "CANARY"',
        f'[[provider]]\nname = "a"\nurl = "https://api.example"\nkey_env = "{ENV_KEY}"',
        f'[[provider]]\nname = "a"\nurl = "https://api.example"\nkey_file = "{ENV_KEY}"',
        f'[[provider]]\nname = "a"\nurl = "https://api.example"\napi_key = "{ENV_KEY}"',
        f'[[provider]]\nname = "a"\nurl = "https://api.example"\nkey_env = "CANARY"\nheaders = {{ x-token = "{ENV_KEY}" }}',
        f'[capture]\nstore = "postgresql://tiercel:{ENV_KEY}@db/tiercel"',
        f'[capture]\nstore = "postgresql://db/tiercel?password={ENV_KEY}"',
        f'[telemetry]\notlp_endpoint = "https://user:{ENV_KEY}@collector"',
        f'key = "{ENV_KEY}"',
    ],
)
def test_a_wrong_configuration_is_answered_without_its_secrets(
    loop: Loop,
    settings: Settings,
    frontier: Frontier,
    seen: Callable[[], str],
    tmp_path: Path,
    wrong: str,
    logged: pytest.LogCaptureFixture,
) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(wrong)
    environment = {"CANARY": FILE_KEY}
    with pytest.raises(ConfigurationError) as caught:
        read_settings(config, environment)
    assert found(str(caught.value)) == []
    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        gateway.worker._reread = lambda: read_settings(config, environment)
        loop.loop.call_soon_threadsafe(gateway.worker.reload)
        wait_for(lambda: "the configuration stays as it was" in logged.text)
    assert found(seen()) == []


def test_a_reload_that_fails_otherwise_says_so_without_its_text(
    loop: Loop, settings: Settings, seen: Callable[[], str], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    def reread() -> Settings:
        raise RuntimeError(f"unforeseen {ENV_KEY}")

    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        gateway.worker._reread = reread
        loop.loop.call_soon_threadsafe(gateway.worker.reload)
        wait_for(lambda: "stays as it was: RuntimeError" in logged.text)
    assert found(seen()) == []


@pytest.mark.parametrize("stream", [False, True])
def test_no_header_of_a_client_goes_up_and_none_of_a_provider_comes_down(
    loop: Loop, settings: Settings, frontier: Frontier, tmp_path: Path, stream: bool
) -> None:
    async def behave(request: Any) -> Any:
        from aiohttp import web

        down = {
            "Set-Cookie": "down=1",
            "X-Down": "1",
            "Connection": "close",
            "Access-Control-Allow-Origin": "*",
            "x-tiercel-tier": "student",
        }
        if stream:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **down})
            await response.prepare(request)
            await response.write(b"".join(sse(chunk("a", "stop"), b"[DONE]")))
            return response
        return web.json_response(TOLD, headers=down)

    frontier.behave = behave
    up = {
        "authorization": "Bearer sk-of-the-client",
        "cookie": "up=1",
        "x-forwarded-for": "1.2.3.4",
        "x-up": "up",
        "te": "trailers",
        "proxy-authorization": "Basic up",
        "openai-organization": "up",
        "origin": "http://localhost",
        "referer": "http://up",
        "x-tiercel-fault": "500",
        "host": "localhost",
        "user-agent": "up",
    }
    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        status, headers, _ = send(gateway.url, {**ASK, "stream": stream}, headers=up)
    assert status == 200
    assert set(frontier.headers[0]) == {
        "host",
        "accept",
        "content-type",
        "content-length",
        "authorization",
        "x-team-token",
    }
    assert frontier.headers[0]["authorization"] == f"Bearer {ENV_KEY}"
    assert frontier.headers[0]["host"] == frontier.url.split("/")[2]
    plain = {"x-request-id", "content-type", "date", "server", "content-length" if not stream else "transfer-encoding"}
    ours = {name for name in headers if not name.startswith("x-tiercel-")}
    assert ours - {"cache-control", "x-accel-buffering"} == plain
    assert headers["x-tiercel-tier"] == "frontier"


@pytest.mark.parametrize(
    "more",
    [
        {
            "base_url": "http://127.0.0.1:9/v1",
            "api_base": "http://127.0.0.1:9",
            "url": "http://127.0.0.1:9",
            "provider": "two",
        },
        {"model": "http://127.0.0.1:9/m"},
        {"model": "../../files"},
        {"model": "@127.0.0.1:9/x"},
    ],
)
def test_a_request_can_not_name_where_it_goes(
    loop: Loop, settings: Settings, frontier: Frontier, tmp_path: Path, more: dict[str, Any]
) -> None:
    with serving(loop, replace(settings, capture=Capture(store=str(tmp_path / "store.db")))) as gateway:
        assert send(gateway.url, {**ASK, **more})[0] == 200
    assert len(frontier.requests) == 1


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..%2f..%2fx", "/etc/passwd", "helpdesk\0", "helpdesk/../helpdesk"]
)
def test_a_workloads_name_is_no_path(server: str, frontier: Frontier, name: str) -> None:
    assert send(server, {**ASK, "model": "tiercel/" + name})[0] == 404
    assert not frontier.requests
