"""HTTP as bytes on a socket: what no client library would send, and servers that no library would be."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n" + HEAD
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
STILL_OPEN = b"(still open)"


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def converse(url: str, *parts: bytes, end: bool = False, patience_s: float = 5.0) -> bytes:
    """All that a server says to these bytes until it closes; `STILL_OPEN` at the end where it waits for more.

    Args:
        url: of the server.
        parts: are sent one after the other.
        end: close the sending side after them.
        patience_s: seconds without an answer after which the connection counts as open.
    """
    said = b""
    with socket.create_connection(("127.0.0.1", port_of(url)), 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(patience_s)
        try:
            for i, part in enumerate(parts):
                if i:
                    # Its own segment, after the server has looked at what was before.
                    threading.Event().wait(0.05)
                connection.sendall(part)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                said += data
        except TimeoutError:
            return said + STILL_OPEN
        except OSError:
            return said
    return said


def closing(request: bytes) -> bytes:
    """A request after whose answer the server closes, so that all of the answer is known to be there."""
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def statuses(said: bytes) -> list[int]:
    return [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


@contextmanager
def saying(talk: Callable[[socket.socket], Any]) -> Iterator[str]:
    """Base URL of a server that says what `talk` sends to each connection, once a request's bytes have come."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.recv(65_536)
            talk(connection)

    def accept() -> None:
        while not over.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        over.set()
        # Closing a socket does not wake who waits for it; a last connection does.
        with suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()
        thread.join(2)
        listener.close()
