"""A real bundle, a frontier that a test can steer, and servers in a thread and in a process of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import chat, write_lines
from tiercel.flows.bundle import Bundle, load
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.server import make_app
from tiercel.providers.openai_compatible import FrontierSettings

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


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a linear pilot on 600 rows, one in ten of which nobody can tell."""
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
        rows.append(chat(" ".join(words), label, SYSTEM, model="gpt-frontier"))
    folder = tmp_path_factory.mktemp("pilot")
    traffic = write_lines(folder / "traffic.jsonl", *rows)
    result = pilot([traffic], folder / "out", PilotSettings(students=("linear",), max_loss=0.05))
    assert result.certificate.bound is not None
    return folder / "out" / "bundle"


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
    runner, url = loop.run(_start(app))
    try:
        yield url
    finally:
        loop.run(runner.cleanup())


def sse(*data: Any) -> list[bytes]:
    return [b"data: " + (d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n\n" for d in data]


def chunk(content: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "frontier-1", "choices": [choice]}


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
                return await self.stream(request, *sse(chunk("deli"), chunk("very"), b"[DONE]"))
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

    def settings(self, **more: Any) -> FrontierSettings:
        return FrontierSettings(**{"url": self.url, "api_key": KEY, "timeout_s": 10, **more})


@pytest.fixture
def frontier(loop: Loop) -> Iterator[Frontier]:
    frontier = Frontier()
    app = web.Application(client_max_size=100 * 2**20)
    app.router.add_post("/v1/chat/completions", frontier.handle)
    with running(loop, app) as frontier.url:
        yield frontier


@pytest.fixture
def server(loop: Loop, bundle: Bundle, frontier: Frontier) -> Iterator[str]:
    """Base URL of a server that escalates to `frontier`."""
    with running(loop, make_app(bundle, frontier.settings())) as url:
        yield url


@pytest.fixture
def lonely(loop: Loop, bundle: Bundle) -> Iterator[str]:
    """Base URL of a server without a frontier."""
    with running(loop, make_app(bundle)) as url:
        yield url


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
def spawn(bundle_folder: Path) -> Iterator[Callable[..., Process]]:
    """Starts `serve` on a free port."""
    started: list[subprocess.Popen[str]] = []

    def spawn(frontier_url: str | None = None) -> Process:
        code = (
            "import sys; from pathlib import Path; from tiercel.gateway.server import serve\n"
            "from tiercel.providers.openai_compatible import FrontierSettings\n"
            f"f = FrontierSettings(url={frontier_url!r}, api_key={KEY!r}) if {bool(frontier_url)} else None\n"
            f"serve(Path({str(bundle_folder)!r}), '127.0.0.1', 0, f, None)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
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
