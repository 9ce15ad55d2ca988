"""What the gateway's benchmarks share: load by wrk, latency against the upstream itself, memory over time, results."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from _client import Connection, chat_body, http_post, interleaved
from _process import HERE, Server

__all__ = ["Row", "Wrk", "added_latency", "calls", "growth", "keep", "progress", "quantile_ms", "sample_memory", "wrk"]

Row = tuple[str, str, str, bool | None]
"""Figure, target, what was reached, and whether that is good; None where there is no target."""


@dataclass(frozen=True, kw_only=True)
class Wrk:
    """What wrk counted."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    not_2xx: int
    """Answers with another status than 2xx."""
    broken: int
    """Connections that failed, and requests that got no answer in time."""

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return (self.requests - self.not_2xx) / self.seconds

    @property
    def errors(self) -> int:
        """Requests without a right answer."""
        return self.not_2xx + self.broken


def wrk(port: int, connections: int, seconds: float, headers: dict[str, str] | None = None) -> Wrk:
    """Post chat requests over so many connections for some (whole) seconds."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--timeout", "30s", "--script", str(HERE / "chat.lua"), f"http://127.0.0.1:{port}/v1/chat/completions"]
    sent = {"Authorization": "Bearer bench"} | (headers or {})
    command += ["--", *[f"{name}: {value}" for name, value in sent.items()]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("there is no wrk; install Debian's package wrk") from None
    figures = [line.removeprefix("FIGURES ") for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if not figures:
        raise SystemExit(f"wrk gave no figures: {(done.stderr or done.stdout).strip()}")
    return Wrk(**json.loads(figures[0]))


async def added_latency(upstream: Server, gateway: Server, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of requests to the upstream itself and through a gateway, taken in turn over one connection each.

    Raises:
        SystemExit: one of them was not answered.
    """
    ends = {gateway.launch.name: Connection(gateway.port), "the upstream": Connection(upstream.port)}

    async def timed(name: str, request: bytes) -> float:
        reply = await ends[name].ask(request)
        if not reply.answered:
            raise SystemExit(
                f"{name} answered {reply.status} while its latency was measured: {bytes(reply.raw[:300])!r}"
            )
        return reply.seconds

    result = await interleaved(
        lambda: timed("the upstream", http_post(chat_body())),
        lambda: timed(gateway.launch.name, gateway.request()),
        seconds,
    )
    for connection in ends.values():
        connection.close()
    return result


def calls(upstream: Server) -> dict[str, int]:
    """How many calls the mock upstream answered, streamed and failed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{upstream.port}/calls", timeout=10) as reply:
        return json.loads(reply.read())


def quantile_ms(seconds: list[float], q: float) -> float:
    """A quantile, in ms."""
    return float(np.quantile(seconds, q)) * 1000


async def sample_memory(server: Server, done: Any, into: list[tuple[float, float]], every_s: float = 0.5) -> None:
    """Note the progress and the resident memory of a server until cancelled.

    Args:
        server: whose memory.
        done: says how much of the run is over, 0 to 1.
        into: takes (progress, MB).
        every_s: seconds between two samples.
    """
    with suppress(asyncio.CancelledError):
        while True:
            into.append((done(), server.rss_mb))
            await asyncio.sleep(every_s)


def growth(samples: list[tuple[float, float]]) -> tuple[float, str]:
    """Relative growth of memory from 10 % of a run to its end, and a line that says so.

    Both ends are medians over a twentieth of the run, so that one sample at a good or bad moment decides nothing.
    """
    progress, memory = np.array(samples).T
    early, late = memory[(progress >= 0.10) & (progress <= 0.15)], memory[progress >= 0.95]
    if not len(early) or not len(late):
        raise SystemExit("the run was too short to see memory grow; make it longer")
    before, after = float(np.median(early)), float(np.median(late))
    share = after / before - 1
    return share, f"{share:+.1%} ({before:.0f} MB at 10 %, {after:.0f} MB at the end, at most {memory.max():.0f} MB)"


def keep(name: str, command: str, table: list[Row], notes: str, *, smoke: bool) -> int:
    """Print a table and, unless this was a short trial, write it to benchmarks/results.

    Returns:
        Exit code: 1 where a target was missed.
    """
    sys.path.append(str(HERE.parent))
    from _record import write_result

    load = os.getloadavg()[0]
    print(f"load average at the end, this benchmark's own included: {load:.1f}", file=sys.stderr)
    write_result(name, command, table, notes, keep=not smoke)
    return int(any(good is False for *_, good in table))


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
