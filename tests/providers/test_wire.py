from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tiercel.providers._wire import Answer, Target, Wire

BODY = b'{"n": 1}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Bytes for bytes: what each request gets, and what came, connection by connection."""

    def __init__(self, *answers: bytes, reads: bool = True) -> None:
        self.answers = list(answers)
        self.reads = reads
        self.came: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(v) for n, _, v in fields(head) if n == b"content-length"), 0)
                self.came.append(head + (await reader.readexactly(length) if self.reads else b""))
                writer.write(self.answers.pop(0) if self.answers else b"")
                if not self.reads:
                    await asyncio.sleep(30)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def fields(head: bytes) -> list[tuple[bytes, bytes, bytes]]:
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
    return [(name.lower(), colon, value) for name, colon, value in lines]


def talking(
    server: Server,
    act: Callable[[Wire, Callable[..., Awaitable[Answer]]], Awaitable[Any]],
    *,
    method: str = "POST",
    opening_s: float = 5.0,
    most: int = 0,
) -> Any:
    """What `act` finds, given a wire and a way to ask over it."""

    async def run() -> Any:
        at = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = URL(f"http://127.0.0.1:{at.sockets[0].getsockname()[1]}/v1/chat?version=1")
        wire = Wire(most, 60.0)
        opening = aiohttp.ClientTimeout(connect=opening_s, sock_connect=opening_s)
        target = Target(method, url, {"Authorization": "Bearer key", "Accept": "application/json"}, wire.loop)

        async def ask(body: bytes | None = BODY, **more: Any) -> Answer:
            return await wire.ask(target, body, opening=opening, **more)

        try:
            return await asyncio.wait_for(act(wire, ask), 20)
        finally:
            await wire.close()
            at.close()

    return asyncio.run(run())


async def _read(_: Wire, ask: Callable[..., Awaitable[Answer]]) -> tuple[Answer, bytes]:
    answer = await ask()
    return answer, await answer.content.read()


def test_a_request_says_what_it_has_to_and_nothing_else() -> None:
    server = Server(OK)
    answer, raw = talking(server, _read)
    head, _, body = server.came[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat?version=1 HTTP/1.1\r\n")
    assert [name for name, *_ in fields(head)] == [b"host", b"authorization", b"accept", b"content-length"]
    assert body == BODY
    assert (answer.status, answer.content_type, raw) == (200, "application/json", b"{}")


def test_a_get_has_no_body_and_no_length() -> None:
    async def act(_: Wire, ask: Callable[..., Awaitable[Answer]]) -> bytes:
        return await (await ask(None)).content.read()

    server = Server(OK)
    assert talking(server, act, method="GET") == b"{}"
    assert server.came[0].startswith(b"GET /v1/chat")
    assert b"ontent-" not in server.came[0]


def test_what_was_read_to_its_end_leaves_its_connection_to_the_next() -> None:
    async def act(wire: Wire, ask: Callable[..., Awaitable[Answer]]) -> None:
        for _ in range(3):
            answer, _ = await _read(wire, ask)
            answer.close()  # comes late and changes nothing

    server = Server(OK, OK, OK)
    talking(server, act)
    assert server.connections == 1


def test_what_is_left_early_closes_its_connection() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"

    async def act(wire: Wire, ask: Callable[..., Awaitable[Answer]]) -> bytes:
        left = await ask()
        left.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await left.content.read()
        return (await _read(wire, ask))[1]

    server = Server(half, OK)
    assert talking(server, act) == b"{}"
    assert server.connections == 2


def test_an_answer_that_comes_before_the_request_was_read_ends_its_connection() -> None:
    async def act(_: Wire, ask: Callable[..., Awaitable[Answer]]) -> None:
        large = b" " * 32 * 2**20
        for _ in range(2):
            assert await (await ask(large)).content.read() == b"{}"

    server = Server(OK, OK, reads=False)
    talking(server, act)
    assert server.connections == 2


def test_news_on_the_way_is_not_the_answer() -> None:
    server = Server(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    answer, raw = talking(server, _read)
    assert (answer.status, raw) == (200, b"{}")


def test_an_answer_without_a_body_is_whole_at_once() -> None:
    server = Server(b"HTTP/1.1 204 No Content\r\n\r\n", OK)

    async def act(wire: Wire, ask: Callable[..., Awaitable[Answer]]) -> tuple[int, bytes]:
        answer, raw = await _read(wire, ask)
        await _read(wire, ask)
        return answer.status, raw

    assert talking(server, act) == (204, b"")
    assert server.connections == 1


def test_what_no_type_is_named_for_are_bytes() -> None:
    answer, _ = talking(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), _read)
    assert answer.content_type == "application/octet-stream"


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
def test_a_moment_ends_what_is_not_over(begun: bytes) -> None:
    async def act(wire: Wire, ask: Callable[..., Awaitable[Answer]]) -> None:
        answer = await ask(until=wire.loop.time() + 0.1)
        await answer.content.read()

    with pytest.raises(TimeoutError):
        talking(Server(begun), act)


def test_a_silence_ends_an_answer_that_has_begun() -> None:
    async def act(_: Wire, ask: Callable[..., Awaitable[Answer]]) -> None:
        answer = await ask(silence_s=0.1)
        assert await answer.content.readany() == b"half"
        with pytest.raises(TimeoutError):
            await answer.content.readany()

    talking(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), act)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_a_head_that_can_not_be_read_is_an_error_of_the_library_without_its_text(garbage: bytes) -> None:
    with pytest.raises(aiohttp.ClientPayloadError) as caught:
        talking(Server(garbage), _read)
    assert garbage[:4].decode("latin-1") not in str(caught.value)


def test_a_connection_that_is_not_to_be_had_in_time_is_told_apart() -> None:
    async def act(_: Wire, ask: Callable[..., Awaitable[Answer]]) -> None:
        held = await ask()
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await ask()
        held.close()

    talking(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), act, opening_s=0.1, most=1)


def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    async def act(wire: Wire, ask: Callable[..., Awaitable[Answer]]) -> bytes:
        waiting = asyncio.ensure_future(ask())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        server.answers.append(OK)
        return (await _read(wire, ask))[1]

    server = Server(b"")
    assert talking(server, act) == b"{}"
    assert server.connections == 2


def test_a_header_can_not_bring_another_one() -> None:
    async def run() -> None:
        with pytest.raises(ValueError, match="control character"):
            Target("POST", URL("http://host/"), {"X-Name": "a\r\nX-Other: b"}, asyncio.get_running_loop())

    asyncio.run(run())
