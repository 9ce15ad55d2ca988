"""An answer that is whole before its first byte is sent, written with its head at once.

`web.Response` builds the same bytes by way of a dictionary of headers and a writer that may chunk and compress, which
takes longer than all else that is done with a short answer.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp.http import SERVER_SOFTWARE, HttpVersion10

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["WholeAnswer"]

_END = "\r\n"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class WholeAnswer:
    """A response with status 200, as far as aiohttp's server asks of one.

    Args:
        body: that is sent.
        headers: of the answer; more may be added until it is sent.
    """

    __slots__ = ("body", "headers", "keep_alive")

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.body = body
        self.headers = headers
        self.keep_alive: bool | None = None
        """Whether the connection stays open; None until it is sent: then as the client wishes."""

    def force_close(self) -> None:
        """End the connection after this answer."""
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it.

        Raises:
            ConnectionResetError: the client has left.
            ValueError: a header holds a control character.
        """
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        head = self._head(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        transport.write(head.encode() + self.body)
        await request.writer.drain()

    async def write_eof(self) -> None:
        """Everything was sent."""

    def _head(self, request: web.BaseRequest) -> str:
        old = request.version == HttpVersion10
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if bool(self.keep_alive) == old:  # not what this version does by itself
            lines.append(f"Connection: {'keep-alive' if old else 'close'}")
        if any(map(_CONTROL.search, lines)):
            raise ValueError("a header holds a control character")
        return (
            f"HTTP/1.{0 if old else 1} 200 OK\r\n{_END.join(lines)}\r\n"
            f"Content-Length: {len(self.body)}\r\nDate: {_date(int(time.time()))}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
        )


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
