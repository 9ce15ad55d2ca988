"""A real bundle, a frontier that a test can steer, and servers in a thread and in a process of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from sqlalchemy import select

from tests.conftest import chat, write_lines
from tiercel.flows.bundle import Bundle, load
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.sections import Capture, Monitor, Provider, Secret, Server, Settings, Workload
from tiercel.gateway.worker import Worker
from tiercel.store.database import Database
from tiercel.store.entries import Entry, find
from tiercel.store.tables import entries

KEY = "sk-test-0123456789abcdef"
SYSTEM = "You route the messages of customers. Answer with one word: billing, delivery, returns or account."
EASY = {
    "billing": ["invoice", "charged", "refund", "payment", "receipt", "creditcard"],
    "delivery": ["parcel", "courier", "shipped", "tracking", "doorstep", "late"],
    "returns": ["broken", "exchange", "wrongsize", "sendback", "faulty", "label"],
    "account": ["password", "login", "username", "email", "locked", "profile"],
}
COMMON = [
    "my",
    "shows",
    "a",
    "that",
    "was",
    "twice",
    "the",
    "too",
    "and",
    "with",
    "have",
    "not",
    "please",
    "hello",
    "is",
]
SURE = "my invoice shows a payment that was charged twice the receipt too"
UNSURE = "qwx zzv jjk hmm"


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-frontier", "messages": messages(text), **more}


def make_bundle(folder: Path, suffix: str = "") -> Path:
    """The bundle of a linear pilot on 600 rows, one in ten of which nobody can tell; labels end in `suffix`."""
    draw = random.Random(0)
    filler = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(200)]
    filler += COMMON * 5
    rows: list[dict[str, Any]] = []
    for i in range(600):
        label = draw.choice(list(EASY))
        words = draw.sample(filler, 3 if i % 10 else 6)
        if i % 10:
            words += draw.sample(EASY[label], 3)
        draw.shuffle(words)
        rows.append(chat(" ".join(words), label + suffix, SYSTEM, model="gpt-frontier"))
    traffic = write_lines(folder / "traffic.jsonl", *rows)
    result = pilot([traffic], folder / "out", PilotSettings(students=("linear",), max_loss=0.05))
    assert result.certificate.bound is not None
    return folder / "out" / "bundle"


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pilot's bundle for the requests of `body`."""
    return make_bundle(tmp_path_factory.mktemp("pilot"))


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load(bundle_folder)


class Loop:
    """An event loop in a thread, for servers that a test's own code talks to as it would to any other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


async def _start(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


@contextmanager
def running(loop: Loop, app: web.Application) -> Iterator[str]:
    """Base URL of an application that a test made."""
    runner, url = loop.run(_start(app))
    try:
        yield url
    finally:
        loop.run(runner.cleanup())


@dataclass
class Running:
    """A gateway in this process."""

    url: str
    worker: Worker

    @property
    def database(self) -> Database:
        return self.worker.database

    def entries(self, count: int) -> list[Entry]:
        """The entries of the ledger in the order of the requests, once there are `count`."""
        limit = time.monotonic() + 5
        while True:
            with self.database.reading() as connection:
                ids = [row.id for row in connection.execute(select(entries.c.id).order_by(entries.c.id))]
            if len(ids) >= count:
                found = [find(self.database, id_) for id_ in ids]
                return [entry for entry in found if entry is not None]
            assert time.monotonic() < limit, f"{len(ids)} of {count} entries"
            time.sleep(0.01)


@contextmanager
def serving(loop: Loop, settings: Settings, reread: Callable[[], Settings] | None = None) -> Iterator[Running]:
    """A gateway with these settings; its store is theirs."""
    worker = Worker(settings, reread)
    at = socket.create_server(("127.0.0.1", 0))
    at.setblocking(False)
    url = f"http://127.0.0.1:{at.getsockname()[1]}/v1"
    runner = loop.run(worker.listen(at))
    try:
        yield Running(url, worker)
    finally:
        loop.run(worker.close(runner))
        at.close()


@pytest.fixture
def configured(bundle_folder: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a gateway with the bundle (unless `bundle` is False) and the providers that are given."""

    def settings(
        *providers: Provider, bundle: bool = True, workload: dict[str, Any] | None = None, **more: Any
    ) -> Settings:
        own = {"name": "helpdesk", "threads": 1, **(workload or {})}
        if bundle:
            own["bundle"] = bundle_folder
        return Settings(
            **{
                "server": Server(drain_s=0.2),
                "providers": providers,
                "workloads": (Workload(**own),) if bundle or workload else (),
                "capture": Capture(store=str(tmp_path / "store.db")),
                "monitor": Monitor(enabled=False),
                **more,
            }
        )

    return settings


def by_hand(loop: Loop, gateway: Running) -> None:
    """Have the record written when a test says so (`auditor.flush`), and not by the clock."""
    clock = gateway.worker.auditor._clock
    assert clock is not None
    loop.loop.call_soon_threadsafe(clock.cancel)


def sse(*data: Any) -> list[bytes]:
    return [b"data: " + (d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n\n" for d in data]


def chunk(content: str, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "frontier-1", "choices": [choice]}


Headers = dict[str, str]


def send(url: str, data: Any, path: str = "/chat/completions", **more: Any) -> tuple[int, Headers, bytes]:
    """Status, headers (lower-case) and body of a POST."""

    async def sent() -> tuple[int, Headers, bytes]:
        payload = data if isinstance(data, bytes) else json.dumps(data).encode()
        more["headers"] = {"content-type": "application/json", **more.get("headers", {})}
        async with aiohttp.ClientSession() as session, session.post(url + path, data=payload, **more) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()

    return asyncio.run(sent())


def get(url: str, *, raw: bool = False, **more: Any) -> tuple[int, Any]:
    """Status and JSON, or bytes, of a GET."""

    async def got() -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(url, **more) as response:
            data = await response.read()
            return response.status, data if raw else json.loads(data)

    return asyncio.run(got())


def answering(status: int, data: Any, **headers: str) -> Callable[[web.Request], Any]:
    async def behave(_: web.Request) -> web.Response:
        text = data if isinstance(data, str) else json.dumps(data)
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    return behave


ANSWER = {
    "id": "chatcmpl-frontier",
    "object": "chat.completion",
    "created": 1,
    "model": "frontier-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "delivery"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "x_vendor": {"kept": True},
}


@dataclass
class Frontier:
    """A frontier that answers "delivery", or does what `behave` says."""

    url: str = ""
    behave: Callable[[web.Request], Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        self.requests.append(asked)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.asked.set()
        try:
            if self.behave:
                return await self.behave(request)
            if asked.get("stream"):
                return await self.stream(request, *sse(chunk("deli"), chunk("very", "stop"), b"[DONE]"))
            return web.json_response(ANSWER)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def stream(self, request: web.Request, *parts: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            self.sent += len(part)
        return response

    async def until_released(self) -> None:
        while not self.released.is_set():
            await asyncio.sleep(0.005)

    def provider(self, **more: Any) -> Provider:
        return Provider(
            **{"name": "frontier", "url": self.url, "api_key": Secret(KEY), "timeout_s": 10, "retries": 0, **more}
        )


@pytest.fixture
def frontier(loop: Loop) -> Iterator[Frontier]:
    frontier = Frontier()
    app = web.Application(client_max_size=100 * 2**20)
    app.router.add_post("/v1/{path:.*}", frontier.handle)
    with running(loop, app) as frontier.url:
        yield frontier


@pytest.fixture
def gateway(loop: Loop, configured: Callable[..., Settings], frontier: Frontier) -> Iterator[Running]:
    """A gateway that escalates to `frontier`."""
    with serving(loop, configured(frontier.provider())) as running:
        yield running


@pytest.fixture
def server(gateway: Running) -> str:
    """Base URL of a gateway that escalates to `frontier`."""
    return gateway.url


@pytest.fixture
def lonely(loop: Loop, configured: Callable[..., Settings]) -> Iterator[str]:
    """Base URL of a gateway without a frontier."""
    with serving(loop, configured()) as running:
        yield running.url


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """No log of any test holds the key or what was asked."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    ours = "\n".join(caplog.handler.format(r) for r in caplog.records if r.name.startswith(("tiercel", "aiohttp")))
    for secret in (KEY, UNSURE, "invoice"):
        assert secret not in ours


@dataclass
class Process:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def end(self) -> tuple[int, str]:
        """Exit code and all of stderr."""
        code = self.process.wait(20)
        self.lines.append(self.process.stderr.read() if self.process.stderr else "")
        return code, "".join(self.lines)


@pytest.fixture
def spawn(bundle_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `tiercel serve` on a free port."""
    started: list[subprocess.Popen[str]] = []

    def spawn(*options: str, frontier_url: str | None = None, bundle: bool = True) -> Process:
        command = [sys.executable, "-c", "from tiercel.cli import main; main()", "serve", "--port", "0"]
        command += ["--bundle", str(bundle_folder)] if bundle else []
        command += ["--frontier-url", frontier_url] if frontier_url else []
        environment = {**os.environ, "TIERCEL_FRONTIER_KEY": KEY, "TIERCEL_STORE": str(tmp_path / "spawned.db")}
        process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        )
        started.append(process)
        lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r" at (http://\S+)", line):
                return Process(process, found[1], lines)
        raise AssertionError("".join(lines))

    yield spawn
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
