"""How many requests a chain of two providers answers when each fails one call in five.

    PYTHONPATH=src python benchmarks/upstream_faults.py [REQUESTS]

Both providers are replay servers that draw faults from a seed: refusals, garbage, broken connections, halves, silences.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack

import uvloop

from tiercel.providers.chain import Chain, ChainRequest, Prepared
from tiercel.providers.failures import Attempt, UpstreamError
from tiercel.providers.replay import ReplayServer, ReplaySettings
from tiercel.providers.upstream import ProviderSettings, Upstream
from tiercel.types import Answer, Example, Message

FAULTS = {"429": 0.05, "500": 0.06, "garbage": 0.03, "reset": 0.03, "half": 0.02, "timeout": 0.01}
ROWS = [Example(id="1", messages=(Message(role="user", content="hello"),), answer=Answer(content="good day " * 20))]
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


async def measure(requests: int, at_once: int) -> None:
    spent, told = Counter[tuple[str, str]](), Counter[str]()

    def count(attempt: Attempt) -> None:
        spent[attempt.provider, attempt.outcome] += 1

    async with AsyncExitStack() as stack:
        upstreams: list[Upstream] = []
        for seed, name in enumerate(("first", "second")):
            settings = ReplaySettings(faults=FAULTS, seed=seed, retry_after_s=1.0)
            url = await stack.enter_async_context(ReplayServer(ROWS, settings))
            upstream = Upstream(ProviderSettings(name=name, url=url, timeout_s=1.0))
            upstreams.append(await stack.enter_async_context(upstream))
        chain = Chain(upstreams, on_attempt=count, rng=random.Random(0))
        left = iter(range(requests))

        async def work() -> None:
            for _ in left:
                try:
                    await chain.send(ChainRequest(prepare=lambda _: Prepared("/chat/completions", BODY)))
                    told["answered"] += 1
                except UpstreamError as error:
                    told[f"failed: {error}"] += 1

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        seconds = time.perf_counter() - begun
    share = told["answered"] / requests
    print(f"{told['answered']:,} of {requests:,} answered ({share:.2%}), {at_once} at a time, {seconds:.1f} s")
    for what, times in sorted(told.items()):
        if what != "answered":
            print(f"  {times} {what}")
    for (provider, outcome), times in sorted(spent.items()):
        print(f"  {provider}: {times:,} {outcome}")


if __name__ == "__main__":
    uvloop.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, 32))
