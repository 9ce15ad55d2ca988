"""Measures TensorZero's embedded gateway from inside the process that it lives in, and prints the figures as JSON.

Its Python package holds no server: the gateway runs in the caller's process and is asked through its client. So its
figures have no hop over HTTP between caller and gateway, which the servers' figures do have, while its memory and its
processor time include the caller's. The caller runs on uvloop, which made it up to a half faster than asyncio's loop.

PYTHON_OF_TENSORZERO benchmarks/gateway/tensorzero_driver.py UPSTREAM_PORT CONFIG SECONDS STARTED
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from _client import SYSTEM, Connection, chat_body, http_post, interleaved, question, run
from tensorzero import AsyncTensorZeroGateway

WARM_S = 2.0


def resident_mb() -> float:
    """Resident memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ask(client: Any) -> None:
    """One request through the gateway, of the same content as the others send."""
    await client.inference(
        model_name="mock",
        input={"system": SYSTEM, "messages": [{"role": "user", "content": question()}]},
        params={"chat_completion": {"temperature": 0.2, "max_tokens": 256}},
    )


async def rate(client: Any, callers: int, seconds: float) -> tuple[float, float, int]:
    """Requests a second with so many callers at once, the 99 % quantile of their time in ms, and how many failed."""
    taken: list[float] = []
    failed = 0
    started = time.perf_counter()

    async def work() -> None:
        nonlocal failed
        while (before := time.perf_counter()) < started + seconds:
            try:
                await ask(client)
            except Exception as error:
                failed += 1
                print(f"TensorZero: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            else:
                taken.append(time.perf_counter() - before)

    await asyncio.gather(*[work() for _ in range(callers)])
    slow = sorted(taken)[int(0.99 * len(taken))] * 1000 if taken else 0.0
    return len(taken) / (time.perf_counter() - started), slow, failed


async def main(upstream: int, config: str, seconds: float, started: float) -> None:
    async with await AsyncTensorZeroGateway.build_embedded(config_file=config) as client:
        await ask(client)
        start_s = time.time() - started
        connection = Connection(upstream)

        async def direct() -> float:
            return (await connection.ask(http_post(chat_body()))).seconds

        async def through() -> float:
            before = time.perf_counter()
            await ask(client)
            return time.perf_counter() - before

        await rate(client, 32, WARM_S)
        direct_s, through_s = await interleaved(direct, through, seconds)
        connection.close()
        rate_1, _, failed_1 = await rate(client, 1, seconds)
        rate_32, p99_32, failed_32 = await rate(client, 32, seconds)
    figures = {
        "start_s": start_s,
        "direct_s": direct_s,
        "through_s": through_s,
        "rate_1": rate_1,
        "rate_32": rate_32,
        "p99_32_ms": p99_32,
        "errors": failed_1 + failed_32,
        "rss_mb": resident_mb(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
