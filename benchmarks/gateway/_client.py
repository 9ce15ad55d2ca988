"""A client on bare sockets whose own cost is small and the same for everyone it asks.

One `Connection` holds one keep-alive connection and asks one thing at a time. Nothing is decoded until it is looked
at. Needs the standard library alone: the process that measures TensorZero imports it from that peer's environment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

try:
    import uvloop
except ImportError:
    uvloop = None

__all__ = ["SYSTEM", "Connection", "Reply", "chat_body", "http_post", "interleaved", "load", "question", "run"]

SYSTEM = (
    "You answer customers of a shop for outdoor gear. Be brief and polite. Use only what the order system says; never "
    "promise a date that it does not hold. If the customer is angry, say sorry once. If the customer asks for money "
    "back, say which steps follow and how long each takes. Answer in the customer's language. Never name other "
    "customers, prices of suppliers or notes of colleagues. End with the number of the case."
)
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_number = itertools.count()
_RUN = uuid.uuid4().hex[:8]


def question() -> str:
    """A customer's message that was never sent before, so that no cache can answer it."""
    return (
        "Hello, I ordered a tent and two sleeping mats nine days ago and the page still says that it was handed to the "
        "carrier. We leave on Friday for the Dolomites with three children and can't go without the tent, so please "
        "tell me where it is and whether I could fetch it from the depot myself. My order is "
        f"{_RUN}-{next(_number)}, paid by card, sent to the address of my office. Thank you, Jo"
    )


def chat_body(*, stream: bool = False) -> bytes:
    """A chat request of about 1 KB."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question()}]
    body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": messages, "temperature": 0.2, "max_tokens": 256}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def http_post(body: bytes, headers: dict[str, str] | None = None, path: str = "/v1/chat/completions") -> bytes:
    """The bytes of a POST."""
    named = {"Host": "127.0.0.1", "Content-Type": "application/json", "Authorization": "Bearer bench"} | (headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(kw_only=True)
class Reply:
    """What came back; times are of `time.perf_counter`, in seconds."""

    sent: float
    first: float = 0.0
    """When the first bytes of the body came; 0.0 when none did."""
    ended: float = 0.0
    whole: bool = False
    """False when the connection broke before all was there."""
    raw: bytearray = field(default_factory=bytearray)
    body_at: int = 0
    """Where in `raw` the body begins; 0 while the head is not whole."""

    @property
    def status(self) -> int:
        """HTTP status; 0 when not even that came."""
        return int(self.raw[9:12]) if len(self.raw) >= 12 else 0

    @property
    def answered(self) -> bool:
        """All of an answer with status 200 came."""
        return self.whole and self.status == 200

    @property
    def seconds(self) -> float:
        """From the first byte sent to the last one received."""
        return self.ended - self.sent

    def header(self, name: str) -> str | None:
        """A header's value."""
        found = re.search(rb"\r\n" + name.encode() + rb":[ \t]*([^\r]*)", self.raw[: self.body_at], re.IGNORECASE)
        return found[1].decode("latin-1") if found else None

    def body(self) -> bytes:
        """The body without the framing of chunks."""
        raw = bytes(self.raw[self.body_at :])
        if not _CHUNKED.search(self.raw, 0, self.body_at):
            return raw
        parts: list[bytes] = []
        at = 0
        while (line := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line].split(b";")[0], 16)
            parts.append(raw[line + 2 : line + 2 + size])
            at = line + 4 + size
        return b"".join(parts)


class Connection(asyncio.Protocol):
    """One keep-alive connection; opened by the first request, and again after it was lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._done: asyncio.Future[Reply] | None = None
        self._length: int | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for all of its answer; a connection that is refused is a reply without status."""
        loop = asyncio.get_running_loop()
        if self.transport is None or self.transport.is_closing():
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError:
                now = time.perf_counter()
                return Reply(sent=now, ended=now)
        assert self.transport is not None
        self._length, self._done = None, loop.create_future()
        self._reply = Reply(sent=time.perf_counter())
        self.transport.write(request)
        return await self._done

    def close(self) -> None:
        """Let the connection go."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            return
        raw = reply.raw
        raw += data
        if not reply.body_at:
            end = raw.find(b"\r\n\r\n")
            if end < 0:
                return
            reply.body_at = end + 4
            found = _LENGTH.search(raw, 0, end + 2)
            self._length = int(found[1]) if found else None
        if not reply.first and len(raw) > reply.body_at:
            reply.first = time.perf_counter()
        if self._length is None:
            # No event of a stream ends like the framing's last chunk, so its end needs no parser.
            whole = raw.endswith(b"\r\n0\r\n\r\n") or raw.startswith(b"0\r\n\r\n", reply.body_at)
        else:
            whole = len(raw) >= reply.body_at + self._length
        if whole:
            self._finish(whole=True)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._finish(whole=False)

    def _finish(self, *, whole: bool) -> None:
        reply, done = self._reply, self._done
        self._reply = None
        if reply is not None and done is not None and not done.done():
            reply.ended, reply.whole = time.perf_counter(), whole
            done.set_result(reply)


async def load(
    port: int,
    connections: int,
    request: Callable[[], bytes | None],
    receive: Callable[[Reply], object],
    pause_s: float = 0.0,
) -> None:
    """Keep so many connections busy until `request` has no more to send.

    Args:
        port: whom to ask.
        connections: how many requests are in flight.
        request: makes the next request; None to stop.
        receive: is given every reply as it comes.
        pause_s: seconds that a connection waits after a request which got no answer at all.
    """

    async def work() -> None:
        connection = Connection(port)
        while (sent := request()) is not None:
            reply = await connection.ask(sent)
            receive(reply)
            if not reply.status and pause_s:
                await asyncio.sleep(pause_s)
        connection.close()

    await asyncio.gather(*[work() for _ in range(connections)])


async def interleaved(
    direct: Callable[[], Awaitable[float]], through: Callable[[], Awaitable[float]], seconds: float
) -> tuple[list[float], list[float]]:
    """Take two ways in turn, one request in flight, so that whatever else the machine does meets both alike.

    Args:
        direct: asks the upstream itself and says how many seconds that took.
        through: asks it through a gateway.
        seconds: how long to go on.

    Returns:
        Seconds of every request, direct and through, both of the same length.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        taken[0].append(await direct())
        taken[1].append(await through())
    return taken


def run(main: Awaitable[Any]) -> Any:
    """Run a coroutine on uvloop where there is one."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        return runner.run(main)  # type: ignore[arg-type]
