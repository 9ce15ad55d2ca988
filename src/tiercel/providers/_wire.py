"""Requests over aiohttp's pool of connections, without its session.

The session's cookies, redirects, proxies, traces and middlewares are nothing that an API has, and cost more than the
request itself. What is kept of aiohttp is what is hard: connections, TLS, the parser of answers and their streams.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

__all__ = ["Answer", "Target", "Wire"]

_NOT_SENT = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add by itself."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Target:
    """What the requests to one endpoint have in common.

    Args:
        method: POST or GET.
        url: of the endpoint.
        headers: of every request.
        loop: in which it is asked.

    Raises:
        ValueError: a header holds a control character.
    """

    __slots__ = ("_head", "request")

    def __init__(self, method: str, url: URL, headers: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> None:
        self.request = aiohttp.ClientRequest(method, url, headers=headers, skip_auto_headers=_NOT_SENT, loop=loop)
        """Tells the pool where to connect; it is never sent."""
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.request.headers.items() if name != "Content-Length"]
        if any(_CONTROL.search(line) for line in lines):
            raise ValueError("a header holds a control character")
        self._head = "\r\n".join(lines).encode()

    def written(self, body: bytes | None) -> bytes:
        """A request, as it goes over the wire."""
        if body is None:
            return self._head + b"\r\n\r\n"
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)


class Answer:
    """An answer whose head has come. Read its `content` to the end, or close it.

    Attributes:
        status: HTTP status.
        headers: as they came.
        content: the body's bytes as they come.
    """

    __slots__ = ("_alarm", "_connection", "content", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._alarm: asyncio.TimerHandle | None = None
        self.status = 0
        self.headers: CIMultiDictProxy[str]
        self.content: StreamReader = EMPTY_PAYLOAD

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case; application/octet-stream where none is named."""
        named = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return named or "application/octet-stream"

    async def begin(self, protocol: ResponseHandler) -> None:
        """Wait for the head."""
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
        except HttpProcessingError as error:
            raise aiohttp.ClientPayloadError(f"the head of an answer can't be read ({type(error).__name__})") from None
        self.status, self.headers, self.content = message.code, message.headers, content
        content.on_eof(self._ended)

    def limit(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        """Break off what is not over at a moment of the loop's clock."""
        self._alarm = loop.call_at(when, self._too_late)

    def close(self) -> None:
        """Let the connection go: back to the others where the body was read to its end, else it is closed."""
        connection = self._let_go()
        if connection is not None:
            if self.content.exception() is None:
                self.content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))
            connection.close()

    def _ended(self) -> None:
        connection = self._let_go()
        if connection is None:
            return
        transport = connection.transport
        if transport is None or transport.get_write_buffer_size():
            connection.close()  # answered before the request was read: who knows whether the rest will ever be
        else:
            connection.release()

    def _let_go(self) -> Connection | None:
        connection, self._connection = self._connection, None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        return connection

    def _too_late(self) -> None:
        self._alarm = None
        protocol = self._connection.protocol if self._connection is not None else None
        if protocol is not None:
            error = aiohttp.SocketTimeoutError("no time is left")
            protocol.set_exception(error)
            self.content.set_exception(error)


class Wire:
    """Sends requests; all of them share one pool of connections. Made within the loop that it serves.

    Args:
        most: connections at a time; 0 for any number.
        keep_s: seconds that an idle connection is kept.
    """

    def __init__(self, most: int, keep_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._pool = aiohttp.TCPConnector(limit=most, keepalive_timeout=keep_s)

    async def ask(
        self,
        target: Target,
        body: bytes | None,
        *,
        opening: aiohttp.ClientTimeout,
        until: float | None = None,
        silence_s: float | None = None,
    ) -> Answer:
        """Send a request, and wait for the head of its answer.

        Args:
            target: where to.
            body: that is sent; None for none.
            opening: how long it may take until there is a connection.
            until: moment of the loop's clock at which the whole answer must have come.
            silence_s: seconds that may pass between two parts of the answer.

        Raises:
            ConnectionTimeoutError: there was no connection in time.
            TimeoutError: there was no answer in time.
            ClientError: the connection failed, or what came is no answer.
        """
        try:
            connection = await self._pool.connect(target.request, [], opening)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error
        answer, protocol = Answer(connection), connection.protocol
        try:
            if protocol is None or protocol.transport is None:
                raise aiohttp.ClientConnectionError("the connection was lost")
            protocol.set_response_params(read_until_eof=True, read_timeout=silence_s)
            if until is not None:
                answer.limit(until, self.loop)
            protocol.transport.write(target.written(body))
            protocol.start_timeout()
            await answer.begin(protocol)
        except BaseException:
            answer.close()
            raise
        return answer

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()
