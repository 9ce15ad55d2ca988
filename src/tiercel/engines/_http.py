"""Small JSON requests over HTTP: to a server by TCP, or to the engine in this process by a socket in a folder."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["JsonClient"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class JsonClient:
    """Asks one server; each request has a connection of its own.

    Args:
        url: of the server, without a path's last slash; None where `path` is given.
        path: a socket in the file system.
        headers: sent with every request.
        timeout_s: seconds that one answer may take.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        path: Path | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._url = urlsplit(url or "http://localhost")
        self._path = path
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout = timeout_s

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON; None where the body is no JSON.

        Raises:
            OSError: no answer came.
        """
        connection = self._connection()
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._url.path + path, data, self._headers)
            response = connection.getresponse()
            raw = response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(type(error).__name__) from None
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, None

    def _connection(self) -> http.client.HTTPConnection:
        if self._path is not None:
            return _UnixConnection(self._path, self._timeout)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "localhost", self._url.port, timeout=self._timeout)
