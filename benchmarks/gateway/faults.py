"""What becomes of requests and of their traces when the upstream fails, and when the gateway is killed or told to stop.

1. An upstream that fails 20 % of calls (500, 429 or a reset, drawn by a seed) with a healthy fallback behind it.
2. `kill -9` under load: the store opens, is whole, holds all but the last 200 ms, and the gateway starts on it again.
3. SIGTERM under load, streams among it: what was sent before the signal is answered whole and is in the store.

python benchmarks/gateway/faults.py [--smoke]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import subprocess
import time
from collections import Counter

import _client
import _tiercel
from _load import Row, keep, progress
from _process import STOP_S, NotStarted, Server, running, upstream, workplace
from upstream import TEXT

CONNECTIONS = 32
LAST_S = 0.2
"""How much of the traces a `kill -9` may take."""


async def ask_many(server: Server, requests: int) -> Counter[int]:
    """How often each status came when so many requests were sent; 0 for broken connections."""
    left = itertools.repeat(None, requests)
    statuses: Counter[int] = Counter()

    def receive(reply: _client.Reply) -> None:
        statuses[reply.status if reply.whole else 0] += 1

    def request() -> bytes | None:
        return next((server.request() for _ in left), None)

    await _client.load(server.port, CONNECTIONS, request, receive)
    return statuses


async def interrupt(
    server: Server, seconds: float, number: signal.Signals, streams: bool
) -> tuple[float, list[_client.Reply]]:
    """Keep the gateway busy and send it a signal in the middle; goes on until it is gone.

    Args:
        server: the gateway.
        seconds: of load before the signal.
        number: the signal.
        streams: make every fourth request a stream.

    Returns:
        When the signal was sent, by `time.perf_counter`; every reply.
    """
    replies: list[_client.Reply] = []
    count = itertools.count()
    gone = False
    sent_at = 0.0

    def request() -> bytes | None:
        return None if gone else server.request(stream=streams and next(count) % 4 == 0)

    def receive(reply: _client.Reply) -> None:
        replies.append(reply)

    load = asyncio.create_task(_client.load(server.port, CONNECTIONS, request, receive, pause_s=0.02))
    await asyncio.sleep(seconds)
    sent_at = time.perf_counter()
    server.signal(number)
    while server.process.poll() is None and time.perf_counter() < sent_at + STOP_S:
        await asyncio.sleep(0.005)
    gone = True
    await asyncio.wait_for(load, 60)
    return sent_at, replies


def failing_upstream(requests: int) -> list[Row]:
    """Share of requests answered although a fifth of the upstream's calls fail."""
    with (
        workplace() as folder,
        upstream(fail=0.2, seed=7) as bad,
        upstream() as good,
        running(_tiercel.launch(bad.port, folder, fallback=good.port), answers=TEXT) as server,
    ):
        started = time.perf_counter()
        statuses = _client.run(ask_many(server, requests))
        seconds = time.perf_counter() - started
    share = statuses[200] / statuses.total()
    other = {status: count for status, count in sorted(statuses.items()) if status != 200}
    text = f"{share:.3%} of {statuses.total():,}, {statuses.total() / seconds:,.0f}/s" + f", else {other}" * bool(other)
    return [("answered while 20 % of the upstream's calls fail", ">= 99.9 %", text, share >= 0.999)]


def killed(seconds: float, times: int) -> list[Row]:
    """What `kill -9` under load leaves of the store; the worst of several times."""
    oldest = lost = kept = 0.0
    states: set[str] = set()
    restarted = 0
    for number in range(times):
        progress(f"kill -9, {number + 1} of {times}")
        with workplace() as folder, upstream() as mock:
            launch = _tiercel.launch(mock.port, folder)
            if launch.store is None:
                return [("kill -9: traces lost", "the last 200 ms", "this version captures nothing", False)]
            with running(launch, answers=TEXT) as server:
                killed_at, replies = _client.run(interrupt(server, seconds, signal.SIGKILL, streams=False))
            states.add(_tiercel.integrity(launch.store))
            ids = _tiercel.stored_ids(launch.store)
            answered = [reply for reply in replies if reply.answered]
            missing = [reply for reply in answered if reply.header("x-tiercel-id") not in ids]
            lost, kept = max(lost, len(missing)), kept + len(answered) - len(missing)
            oldest = max([oldest, *[killed_at - reply.ended for reply in missing]])
            with running(launch, answers=TEXT):
                restarted += 1
    whole = states == {"ok"} and restarted == times
    state = f"integrity_check {', '.join(sorted(states))}; started again {restarted} of {times} times"
    text = f"{oldest * 1000:.0f} ms before the signal, {lost:,.0f} lost at most, {kept:,.0f} kept in all"
    return [
        ("kill -9 under load: the store", "opens, whole", state, whole),
        ("kill -9 under load: oldest answer lost", "<= 200 ms", text, oldest <= LAST_S and kept > 0),
    ]


def stopped(seconds: float) -> list[Row]:
    """What SIGTERM under load cuts or loses."""
    with workplace() as folder, upstream(latency_ms=50, chunks=30, pace_ms=20) as mock:
        launch = _tiercel.launch(mock.port, folder)
        with running(launch, answers=TEXT) as server:
            told_at, replies = _client.run(interrupt(server, seconds, signal.SIGTERM, streams=True))
            code = _code(server)
        before = [reply for reply in replies if reply.sent < told_at]
        late = [reply for reply in before if reply.ended > told_at]
        cut = [reply for reply in before if not _whole(reply)]
        rows: list[Row] = [
            (
                "SIGTERM under load: requests sent before it that were cut",
                "0",
                f"{len(cut)} of {len(before):,}; {len(late)} were in flight; exit code {code}",
                not cut and len(late) > 0 and code == 0,
            ),
            (
                "SIGTERM under load: requests after it that were cut in their answer",
                "0",
                f"{len([r for r in replies if r.sent >= told_at and r.status and not _whole(r)])}",
                not any(r.status and not _whole(r) for r in replies if r.sent >= told_at),
            ),
        ]
        if launch.store is None:
            return [*rows, ("SIGTERM under load: traces lost", "0", "this version captures nothing", False)]
        ids = _tiercel.stored_ids(launch.store)
        answered = [reply for reply in replies if reply.answered]
        missing = [reply for reply in answered if reply.header("x-tiercel-id") not in ids]
        text = f"{len(missing)} of {len(answered):,}"
        return [*rows, ("SIGTERM under load: traces lost", "0", text, not missing)]


def _whole(reply: _client.Reply) -> bool:
    """All of an answer came; of a stream, [DONE] too."""
    if not reply.answered:
        return False
    return "event-stream" not in (reply.header("content-type") or "") or reply.body().endswith(b"data: [DONE]\n\n")


def _code(server: Server) -> int | str:
    try:
        return server.process.wait(1)
    except subprocess.TimeoutExpired:
        return f"none, still running after {STOP_S:g} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="to the failing upstream")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load before a signal")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="2,000 requests, 3 s, one kill; nothing is written down")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.seconds, options.kills = 2_000, 3.0, 1
    try:
        progress("an upstream that fails 20 % of calls")
        rows = failing_upstream(options.requests)
        rows += killed(options.seconds, options.kills)
        progress("SIGTERM")
        rows += stopped(options.seconds)
    except NotStarted as error:
        raise SystemExit(str(error)) from None
    notes = "c = 32, one worker; the failing upstream draws 500, 429 (Retry-After 1 s) or a reset of the connection."
    return keep("gateway-faults", "make bench-gateway-faults", rows, notes, smoke=options.smoke)


if __name__ == "__main__":
    raise SystemExit(main())
