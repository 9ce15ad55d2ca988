"""Answers of an encoder bundle through the gateway at c = 32: requests a second and their 99 % quantile.

python benchmarks/gateway/encoder.py [--bundle FOLDER --traffic FILE] [--smoke]

Without a bundle it is the helpdesk example's, piloted first where need be. Only requests that the student takes over
count: those that the gate passes on are found by asking each once, and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import json
import time
from collections import Counter
from pathlib import Path

import _client
import _tiercel
from _load import Row, keep, progress, quantile_ms
from _process import NotStarted, Server, running, upstream, workplace

CONNECTIONS = 32
WARM_S = 2.0


def requests_of(traffic: Path) -> list[bytes]:
    """The request of every row of a file: its messages without the answer."""
    raw = traffic.read_bytes()
    lines = (gzip.decompress(raw) if traffic.suffix == ".gz" else raw).splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [
        json.dumps({"model": "gpt-4o", "messages": [m for m in row["messages"] if m["role"] != "assistant"]}).encode()
        for row in rows
    ]


async def accepted(server: Server, bodies: list[bytes]) -> list[bytes]:
    """Those that the student answers."""
    left = iter(bodies)
    taken: list[bytes] = []

    async def work() -> None:
        connection = _client.Connection(server.port)
        for body in left:
            if (await connection.ask(server.request(body))).header("x-tiercel-tier") == "student":
                taken.append(body)
        connection.close()

    await asyncio.gather(*[work() for _ in range(CONNECTIONS)])
    return taken


async def load(server: Server, bodies: list[bytes], seconds: float) -> tuple[list[float], Counter[str], float]:
    """Ask them over and over.

    Returns:
        Seconds of each answer; how often each tier, or status, gave it; seconds in all.
    """
    turn = itertools.cycle(bodies)
    taken: list[float] = []
    tiers: Counter[str] = Counter()
    started = time.perf_counter()

    def receive(reply: _client.Reply) -> None:
        taken.append(reply.seconds)
        tiers[reply.header("x-tiercel-tier") or "no tier" if reply.answered else f"status {reply.status}"] += 1

    def request() -> bytes | None:
        return server.request(next(turn)) if time.perf_counter() < started + seconds else None

    await _client.load(server.port, CONNECTIONS, request, receive)
    return taken, tiers, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the helpdesk example's when left out")
    traffic = _tiercel.ROOT / "examples" / "helpdesk" / "traffic.jsonl.gz"
    parser.add_argument("--traffic", type=Path, default=traffic, help="requests of the bundle's workload")
    parser.add_argument("--rows", type=int, default=1000, help="of the traffic that are tried")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--smoke", action="store_true", help="300 rows, 5 s; nothing is written down")
    options = parser.parse_args()
    if options.smoke:
        options.rows, options.seconds = 300, 5.0
    try:
        bundle = options.bundle or _tiercel.helpdesk_bundle()
        with (
            workplace() as folder,
            upstream() as mock,
            running(_tiercel.launch(mock.port, folder, bundle=bundle)) as server,
        ):
            bodies = requests_of(options.traffic)[: options.rows]
            progress(f"asking {len(bodies):,} rows once, to see which the student answers")
            own = _client.run(accepted(server, bodies))
            if not own:
                raise SystemExit(f"the bundle at {bundle} answers no row of {options.traffic}")
            progress(f"{len(own):,} of {len(bodies):,} rows over and over at c = {CONNECTIONS}")
            _client.run(load(server, own, WARM_S))
            taken, tiers, lasted = _client.run(load(server, own, options.seconds))
            memory = server.rss_mb
    except NotStarted as error:
        raise SystemExit(str(error)) from None
    rate, p50, p99 = tiers["student"] / lasted, quantile_ms(taken, 0.5), quantile_ms(taken, 0.99)
    other = {tier: count for tier, count in tiers.items() if tier != "student"}
    rows: list[Row] = [
        ("answered by the encoder bundle, c = 32", ">= 500/s", f"{rate:,.0f}/s", rate >= 500),
        ("time of an answer: p50, p99", "p99 <= 100 ms", f"{p50:.1f} ms, {p99:.1f} ms", p99 <= 100),
        ("requests that the student did not answer", "0", str(other or 0), not other),
        ("memory with the bundle", "", f"{memory:.0f} MB", None),
    ]
    notes = (
        f"The student takes over {len(own) / len(bodies):.0%} of {len(bodies):,} rows of {options.traffic.name}; "
        f"these are asked in turn, {len(taken):,} requests in all."
    )
    return keep("gateway-encoder", "make bench-gateway-encoder", rows, notes, smoke=options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
