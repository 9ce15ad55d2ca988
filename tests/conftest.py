"""No test leaves this machine; small builders of what most tests need."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a run share the cores; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import ipaddress
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.postgres import postgres_server, postgres_url  # noqa: F401
from tests.skipped import pytest_terminal_summary  # noqa: F401
from tiercel.types import Answer, Example, FunctionCall, Message, ToolCall

# The suite says the same of the same code; HYPOTHESIS_PROFILE=search looks for new examples.
settings.register_profile("search", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell's background jobs ignore Ctrl-C and hand that on to all that they start; tests send it to programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class NetworkForbidden(RuntimeError):
    """A test tried to reach another machine."""


def _is_local(family: int, address: Any) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections beyond loopback raise; servers and clients of a test on this machine work."""
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, real: Any = real) -> Any:
            if not _is_local(self.family, address):
                raise NetworkForbidden(f"a test tried to connect to {address}")
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)
    yield


def chat(asked: str, answered: str | None = None, system: str | None = None, **fields: Any) -> dict[str, Any]:
    """A row of the data contract, as it stands decoded in a file."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": asked})
    if answered is not None:
        messages.append({"role": "assistant", "content": answered})
    return {"messages": messages, **fields}


def example(asked: str, answered: str | None = None, system: str | None = None, **fields: Any) -> Example:
    """An example of one question, its answer and its system prompt."""
    messages = [Message(role="system", content=system)] if system is not None else []
    messages.append(Message(role="user", content=asked))
    answer = None if answered is None else Answer(content=answered)
    return Example(**{"id": "1", "messages": tuple(messages), "answer": answer, **fields})


def calling(*calls: tuple[str, Any], content: str | None = None) -> Answer:
    """An answer that calls tools, each given as a name and its arguments (text is taken as it is)."""
    return Answer(
        content=content,
        tool_calls=tuple(
            ToolCall(function=FunctionCall(name=name, arguments=a if isinstance(a, str) else json.dumps(a)))
            for name, a in calls
        ),
    )


def write_lines(path: Path, *rows: Any) -> Path:
    """Write rows as JSON Lines; bytes are written as they are."""
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path
