"""Gateways as processes of their own, and connections that show what happens to each of their requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.gateway.conftest import KEY, body
from tests.ports import free_port

WAIT_S = 30.0


def until(true: Callable[[], Any], what: str = "it") -> Any:
    """What `true` says once that is so."""
    limit = time.monotonic() + WAIT_S
    while not (said := true()):
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.01)
    return said


@dataclass
class Launched:
    """A gateway with processes of its own."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def write(self, text: str) -> None:
        """Change the configuration file."""
        (self.folder / "tiercel.toml").write_text(text)

    def workers(self) -> list[psutil.Process]:
        """The processes that answer, where there is a keeper."""
        return [
            p for p in psutil.Process(self.process.pid).children() if "spawn_main" in " ".join(command_of(p))
        ]  # and not multiprocessing's resource tracker

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def logged(self, text: str, times: int = 1) -> None:
        until(lambda: self.log.count(text) >= times, f"{text!r} in the log {times} times")

    def ids(self) -> set[str]:
        """Ids of what is in the store."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as store:
            return {row[0] for row in store.execute("SELECT id FROM entries")}

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics, summed over their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=WAIT_S) as page:
            sums: dict[str, float] = {}
            for line in page.read().decode().splitlines():
                if not line.startswith("#"):
                    name, value = re.match(r"([^{ ]+).* (\S+)$", line).groups()  # type: ignore[union-attr]
                    sums[name] = sums.get(name, 0.0) + float(value)
            return sums


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def config(*tables: str, frontier: str | None = None, server: str = "") -> str:
    """A configuration with a provider at `frontier`; further tables are given whole."""
    parts = [f"[server]\n{server}"]
    if frontier:
        parts.append(f'[[provider]]\nname = "frontier"\nurl = "{frontier}"\nkey_env = "TIERCEL_FRONTIER_KEY"\n')
    return "\n".join([*parts, *tables])


@contextmanager
def launched(
    folder: Path, text: str, *options: str, env: dict[str, str] | None = None, ready: bool = True, **more: Any
) -> Iterator[Launched]:
    """`tiercel serve` with a configuration file, on a free port; SIGKILLed at the end where it still runs."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    (folder / "tiercel.toml").write_text(text)
    command = [sys.executable, "-c", "from tiercel.cli import main; main()", "serve", "--config", "tiercel.toml"]
    command += ["--port", str(port), *options]
    if "store" not in text:
        command += ["--store", "store.db"]
    # What a killed keeper leaves of its workers' metrics goes with the test's folder.
    environment = {**os.environ, "TIERCEL_FRONTIER_KEY": KEY, "TMPDIR": str(folder), **(env or {})}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment, cwd=folder, start_new_session=True, **more)
    gateway = Launched(process, port, folder)
    try:
        if ready:
            until(lambda: "serving at" in gateway.log or process.poll() is not None, "the gateway's start")
            assert process.poll() is None, gateway.log
        yield gateway
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait()


@dataclass
class Reply:
    """What became of one request."""

    status: int = 0
    """0 where the connection ended before there was an answer."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    sent: float = 0.0
    """Moment of `time.monotonic`."""
    ended: float = 0.0

    @property
    def id(self) -> str:
        return self.headers["x-tiercel-id"]

    @property
    def good(self) -> bool:
        """A whole answer of a model; of a stream, to its end."""
        stream = "event-stream" in self.headers.get("content-type", "")
        return self.whole and self.status == 200 and (not stream or self.body.endswith(b"data: [DONE]\n\n"))


def request(data: dict[str, Any] | None = None, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """An HTTP/1.1 request; a POST where there is a body."""
    raw = json.dumps(data).encode() if data is not None else b""
    head = [f"{'POST' if data is not None else 'GET'} {path} HTTP/1.1", "Host: gateway"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if data is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


def question(text: str, **more: Any) -> bytes:
    return request(body(text, **more))


class Line:
    """One keep-alive connection on which request follows request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, raw: bytes) -> Reply:
        reply = Reply(sent=time.monotonic())
        try:
            self._writer.write(raw)
            await self._writer.drain()
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            reply.status = int(first.split()[1])
            reply.headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines) if n}
            if reply.headers.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readline(), 16):
                    reply.body += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readline()
            else:
                reply.body = await self._reader.readexactly(int(reply.headers.get("content-length", 0)))
            reply.whole = True
        except (OSError, asyncio.IncompleteReadError):
            pass
        reply.ended = time.monotonic()
        return reply

    def close(self) -> None:
        self._writer.close()
