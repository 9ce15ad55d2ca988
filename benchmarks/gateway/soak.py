"""A million requests at c = 32 with capture on: memory, errors, and whether every answer is in the store.

python benchmarks/gateway/soak.py [--requests 1000000] [--smoke]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter

import _client
import _tiercel
from _load import Row, calls, growth, keep, progress, sample_memory
from _process import NotStarted, Server, running, upstream, workplace
from upstream import TEXT

CONNECTIONS = 32


async def soak(server: Server, requests: int) -> tuple[Counter[int], set[str], list[tuple[float, float]], float]:
    """Send so many requests.

    Returns:
        How often each status came, 0 for broken connections; ids of the answered ones; samples of memory; seconds.
    """
    sent = 0
    statuses: Counter[int] = Counter()
    ids: set[str] = set()
    memory: list[tuple[float, float]] = []
    started = time.perf_counter()

    def request() -> bytes | None:
        nonlocal sent
        if sent >= requests:
            return None
        sent += 1
        return server.request()

    def receive(reply: _client.Reply) -> None:
        statuses[reply.status if reply.whole else 0] += 1
        if reply.answered and (name := reply.header("x-tiercel-id")):
            ids.add(name)
        over = statuses.total()
        if over % max(1, requests // 10) == 0:
            progress(f"{over:,} of {requests:,} requests, {over / (time.perf_counter() - started):,.0f}/s")

    every_s = max(0.02, min(1.0, requests / 200_000))
    sampler = asyncio.create_task(sample_memory(server, lambda: statuses.total() / requests, memory, every_s))
    await _client.load(server.port, CONNECTIONS, request, receive)
    sampler.cancel()
    await sampler
    return statuses, ids, memory, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="20,000 requests; nothing is written down")
    options = parser.parse_args()
    requests = 20_000 if options.smoke else options.requests
    rows: list[Row] = []
    with workplace() as folder, upstream() as mock:
        try:
            with running(_tiercel.launch(mock.port, folder), answers=TEXT) as server:
                first = calls(mock)["answered"]
                statuses, ids, memory, seconds = _client.run(soak(server, requests))
                seen = calls(mock)["answered"] - first
                rows += stored(server, ids, statuses[200])
        except NotStarted as error:
            raise SystemExit(str(error)) from None
    share, text = growth(memory)
    wrong = {status: count for status, count in statuses.items() if status != 200}
    answered = f"{statuses[200]:,} of {requests:,}, {statuses[200] / seconds:,.0f}/s"
    rows = [
        ("requests answered", "all", answered + (f", else {wrong}" if wrong else ""), statuses[200] == requests),
        ("of them seen by the upstream", "all", f"{seen:,}", seen >= statuses[200]),
        ("memory from 10 % of the run to its end", "< 10 % more", text, share < 0.10),
        *rows,
    ]
    return keep("gateway-soak", "make bench-gateway-soak", rows, "c = 32, one worker.", smoke=options.smoke)


def stored(server: Server, ids: set[str], answered: int) -> list[Row]:
    """Whether each answer is in the store or was counted as dropped.

    Args:
        server: still running, so that its metric can be read.
        ids: of the answers that the client got.
        answered: how many it got; the server gave one more before, when it was seen to be up.
    """
    figure = "answers in the store or counted as dropped"
    if server.launch.store is None:
        return [(figure, "all", "this version captures nothing", False)]
    count, dropped = _tiercel.recorded(server.launch.store, server.port, answered + 1)
    missing = len(ids - _tiercel.stored_ids(server.launch.store))
    return [
        ("answers with an id of their own", "all", f"{len(ids):,}", len(ids) == answered),
        (
            figure,
            "all",
            f"{count - 1:,} stored, {dropped:,} dropped; {missing:,} ids are not in the store",
            count + dropped >= answered + 1 and missing <= dropped,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
