from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, cast

import pytest
from aiohttp import web

from tiercel.gateway._whole_answer import WholeAnswer

HEADERS = {"Content-Type": "application/json", "x-tiercel-workload": "Größe"}


def told(request: bytes, answer: Callable[[], Any]) -> list[bytes]:
    """All that a server says to `request` on one connection: heads and bodies in turn."""

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return cast("web.StreamResponse", answer())

    async def run() -> bytes:
        runner = web.ServerRunner(web.Server(handle, access_log=None, keepalive_timeout=0.2))
        await runner.setup()
        with socket.create_server(("127.0.0.1", 0)) as at:
            await web.SockSite(runner, at).start()
            reader, writer = await asyncio.open_connection(*at.getsockname()[:2])
            writer.write(request)
            try:
                return await asyncio.wait_for(reader.read(), 10)
            finally:
                writer.close()
                await runner.cleanup()

    return asyncio.run(run()).split(b"\r\n\r\n")


def asked(version: str = "1.1", connection: str = "") -> bytes:
    field = f"Connection: {connection}\r\n" if connection else ""
    return f"POST / HTTP/{version}\r\nHost: h\r\n{field}Content-Length: 0\r\n\r\n".encode()


def named(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("connection", ["", "close", "keep-alive"])
def test_it_says_what_aiohttp_s_own_response_would(version: str, connection: str) -> None:
    request = asked(version, connection)
    ours, theirs = (
        told(request, made)
        for made in (lambda: WholeAnswer(b"{}", dict(HEADERS)), lambda: web.Response(body=b"{}", headers=HEADERS))
    )
    assert ours[1:] == theirs[1:] == [b"{}"]
    assert ours[0].split(b"\r\n")[0] == theirs[0].split(b"\r\n")[0]
    mine, its = named(ours[0]), named(theirs[0])
    assert parsedate_to_datetime(mine.pop("Date")).tzinfo is not None
    del its["Date"]
    assert mine == its


def test_answers_follow_each_other_on_one_connection() -> None:
    parts = told(asked() * 2, lambda: WholeAnswer(b"{}", dict(HEADERS)))
    assert len(parts) == 3
    assert b"Connection" not in parts[0]


def test_a_connection_that_is_to_end_ends_after_its_answer() -> None:
    def last() -> WholeAnswer:
        answer = WholeAnswer(b"{}", dict(HEADERS))
        answer.force_close()
        return answer

    head, body = told(asked() * 2, last)
    assert named(head)["Connection"] == "close"
    assert body == b"{}"


def test_a_header_can_not_bring_another_one(caplog: pytest.LogCaptureFixture) -> None:
    parts = told(asked(), lambda: WholeAnswer(b"{}", {"x-tiercel-reason": "a\r\nX-Other: b"}))
    assert b"X-Other" not in b"".join(parts)
    assert "control character" in caplog.text
