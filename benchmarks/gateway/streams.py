"""Streams: how much later the first token comes through the gateway, and 200 streams at once for ten minutes.

python benchmarks/gateway/streams.py [--smoke]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import _client
import _tiercel
from _load import Row, growth, keep, progress, quantile_ms, sample_memory
from _process import NotStarted, Server, running, upstream, workplace
from upstream import TEXT

WORDS, PACE_MS = 200, 50
"""Events of a long stream, and ms between two: ten seconds in all, 20 tokens a second."""


@contextmanager
def through_tiercel(**options: float) -> Iterator[tuple[Server, Server]]:
    """An upstream with such options, and Tiercel before it."""
    with (
        workplace() as folder,
        upstream(**options) as mock,
        running(_tiercel.launch(mock.port, folder), answers=TEXT) as server,
    ):
        yield mock, server


async def first_tokens(mock: Server, gateway: Server, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds until the first byte of a stream, from the upstream itself and through the gateway, taken in turn."""
    straight, through = _client.Connection(mock.port), _client.Connection(gateway.port)

    async def timed(connection: _client.Connection, server: Server) -> float:
        reply = await connection.ask(server.request(stream=True))
        if not reply.answered or not reply.body().endswith(b"data: [DONE]\n\n"):
            raise SystemExit(f"{server.launch.name} broke a stream off: {bytes(reply.raw[-300:])!r}")
        return reply.first - reply.sent

    taken = await _client.interleaved(lambda: timed(straight, mock), lambda: timed(through, gateway), seconds)
    straight.close()
    through.close()
    return taken


async def many(
    server: Server, count: int, seconds: float, words: int
) -> tuple[int, list[str], list[tuple[float, float]]]:
    """So many streams at once for some seconds.

    Returns:
        How many were whole; what was wrong with the others; samples of memory.
    """
    started = time.perf_counter()
    whole = 0
    broken: list[str] = []
    memory: list[tuple[float, float]] = []

    def request() -> bytes | None:
        return server.request(stream=True) if time.perf_counter() < started + seconds else None

    def receive(reply: _client.Reply) -> None:
        nonlocal whole
        body = reply.body()
        events = body.count(b"\n\ndata: ") + body.startswith(b"data: ")
        # Its words, the finish, the usage and [DONE].
        if reply.answered and events == words + 3 and body.endswith(b"data: [DONE]\n\n"):
            whole += 1
        else:
            broken.append(f"status {reply.status}, {events} of {words + 3} events, whole: {reply.whole}")

    def over() -> float:
        return min(1.0, (time.perf_counter() - started) / seconds)

    sampler = asyncio.create_task(sample_memory(server, over, memory, min(1.0, seconds / 100)))
    await _client.load(server.port, count, request, receive, pause_s=0.1)
    sampler.cancel()
    await sampler
    return whole, broken, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0, help="that the streams go on")
    parser.add_argument("--smoke", action="store_true", help="20 s of streams of 2.5 s each; nothing is written down")
    options = parser.parse_args()
    seconds, first_s, words = (20.0, 3.0, WORDS // 4) if options.smoke else (options.seconds, 20.0, WORDS)
    try:
        with through_tiercel(chunks=3, pace_ms=1) as (mock, server):
            progress("first tokens, in turn")
            direct, through = _client.run(first_tokens(mock, server, first_s))
        with through_tiercel(chunks=words, pace_ms=PACE_MS) as (_, server):
            progress(f"{options.streams} streams at once for {seconds:g} s")
            whole, broken, memory = _client.run(many(server, options.streams, seconds, words))
    except NotStarted as error:
        raise SystemExit(str(error)) from None
    p50, p99 = (quantile_ms(through, q) - quantile_ms(direct, q) for q in (0.5, 0.99))
    share, text = growth(memory)
    seen = "; the first: ".join([f"{len(broken):,} of {whole + len(broken):,}", *broken[:1]])
    rows: list[Row] = [
        (
            "first token later than from the upstream itself",
            "p50 <= 1 ms",
            f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
            p50 <= 1,
        ),
        (f"{options.streams} streams at once: broken", "0", seen, not broken and whole > 0),
        (
            f"{options.streams} streams at once: memory from 10 % of the time to its end",
            "< 10 % more",
            text,
            share < 0.1,
        ),
    ]
    notes = (
        f"{len(direct):,} streams each way for the first token. The streams at once lasted {seconds:g} s, "
        f"{words} words at {1000 / PACE_MS:g} a second each."
    )
    return keep("gateway-streams", "make bench-gateway-streams", rows, notes, smoke=options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
