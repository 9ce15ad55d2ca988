"""Starts and stops the servers that are measured: time to the first right answer, memory, a plain word on failure."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import _client
import psutil

__all__ = ["HERE", "Launch", "NotStarted", "STOP_S", "Server", "free_port", "running", "upstream", "workplace"]

HERE = Path(__file__).parent
START_S = 120.0
"""Seconds that a contender gets to its first answer."""
STOP_S = 40.0


class NotStarted(Exception):
    """A contender is not installed, ended, or gave no right answer; the text says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a server is started and talked to."""

    name: str
    command: list[str]
    port: int
    env: dict[str, str] = field(default_factory=dict)
    """Added to the environment."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request."""
    store: Path | None = None
    """SQLite file of the captured traces; None where nothing is captured."""


@dataclass(kw_only=True)
class Server:
    """A running server."""

    launch: Launch
    process: subprocess.Popen[bytes]
    log: Path
    start_s: float = 0.0
    """Seconds from the start of the process to its first right answer."""

    @property
    def port(self) -> int:
        return self.launch.port

    @property
    def rss_mb(self) -> float:
        """Resident memory of the process and its children, in MB of 1,000,000 bytes."""
        root = psutil.Process(self.process.pid)
        total = 0
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def request(self, body: bytes | None = None, *, stream: bool = False) -> bytes:
        """The bytes of a chat request that this server accepts, a new one each time."""
        return _client.http_post(body or _client.chat_body(stream=stream), self.launch.headers)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, as systemd and `docker stop` do."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()

    def last_lines(self, count: int = 12) -> str:
        """The end of what it printed."""
        return "\n".join("    " + line for line in self.log.read_text(errors="replace").splitlines()[-count:])


def free_port() -> int:
    """A port of loopback that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for configurations, stores and logs that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder:
        yield Path(folder)


@contextmanager
def running(launch: Launch, *, answers: str | None = None, timeout_s: float = START_S) -> Iterator[Server]:
    """Start a server, wait for its first right answer, and stop it in the end.

    Args:
        launch: what to start.
        answers: text that the first answer must hold; None for any answer with status 200.
        timeout_s: seconds to wait.

    Raises:
        NotStarted: it ended, or gave no right answer.
    """
    log = Path(tempfile.mkstemp(prefix="tiercel-bench-", suffix=".log")[1])
    try:
        started = time.perf_counter()
        with log.open("wb") as sink:
            process = subprocess.Popen(
                launch.command, env=os.environ | launch.env, stdout=sink, stderr=sink, start_new_session=True
            )
        server = Server(launch=launch, process=process, log=log)
        with ExitStack() as stack:
            stack.callback(server.stop)
            _await_answer(server, answers, timeout_s)
            server.start_s = time.perf_counter() - started
            yield server
    except FileNotFoundError:
        raise NotStarted(f"{launch.name} did not start: there is no {launch.command[0]}") from None
    finally:
        log.unlink()


def _await_answer(server: Server, answers: str | None, timeout_s: float) -> None:
    deadline = time.perf_counter() + timeout_s
    name, seen = server.launch.name, "nothing listened at its port"
    headers = {"Content-Type": "application/json", "Authorization": "Bearer bench"} | server.launch.headers
    while time.perf_counter() < deadline:
        code = server.process.poll()
        if code is not None:
            raise NotStarted(
                f"{name} ended with code {code} before its first answer; the last it printed:\n{server.last_lines()}"
            )
        connection = http.client.HTTPConnection(
            "127.0.0.1", server.port, timeout=max(1.0, deadline - time.perf_counter())
        )
        try:
            connection.request("POST", "/v1/chat/completions", _client.chat_body(), headers)
            reply = connection.getresponse()
            text = reply.read().decode(errors="replace")
            if reply.status == 200 and (answers or "") in text:
                return
            seen = f"its last answer was {reply.status}: {text[:300]}"
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise NotStarted(
        f"{name} gave no right answer within {timeout_s:g} s; {seen}; the last it printed:\n{server.last_lines()}"
    )


@contextmanager
def upstream(**options: float | str) -> Iterator[Server]:
    """Run the mock upstream; options are those of its command line (`latency_ms=5`)."""
    port = free_port()
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, str(HERE / "upstream.py"), "--port", str(port), *flags]
    with running(Launch(name="the mock upstream", command=command, port=port), timeout_s=10) as server:
        yield server
