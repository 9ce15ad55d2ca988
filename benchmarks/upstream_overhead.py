"""What `Upstream` and `Chain` add to a bare aiohttp request: medians of many short turns, taken by turns.

    PYTHONPATH=src python benchmarks/upstream_overhead.py

A server in a process of its own answers every request with the same 400 bytes. One request is under way at a time, and
the client's CPU time is what counts: on a machine that others use, the time on the wall says little.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import uvloop

from tiercel.providers.chain import Chain, ChainRequest, Prepared
from tiercel.providers.upstream import ProviderSettings, Upstream

REQUESTS, ROUNDS = 400, 31
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 500 + b'"}]}'
SERVER = r"""
import asyncio
try:
    import uvloop; uvloop.install()
except ImportError:
    pass
text = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"' + b"y" * 300 + b'"}}]}'
answer = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
          b"Content-Length: %d\r\n\r\n" % len(text)) + text

class Answers(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(answer)

async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


async def measure(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"Authorization": "Bearer k", "Content-Type": "application/json", "Accept": "application/json"}
    bare = aiohttp.ClientSession()
    upstream = Upstream(ProviderSettings(name="u", url=f"http://127.0.0.1:{port}", api_key="k"))

    async def plain() -> None:
        async with bare.post(url, data=BODY, headers=headers) as response:
            await response.read()

    async def ours() -> None:
        async with upstream.send("/chat/completions", BODY) as reply:
            await reply.read()

    chain = Chain([upstream])

    async def chained() -> None:
        await chain.send(ChainRequest(prepare=lambda _: Prepared("/chat/completions", BODY)))

    ways: dict[str, Callable[[], Awaitable[None]]] = {"bare aiohttp": plain, "Upstream": ours, "Chain": chained}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.process_time()
            for _ in range(REQUESTS):
                await way()
            took[name].append((time.process_time() - begun) / REQUESTS * 1e6)
    await bare.close()
    await upstream.close()
    base = statistics.median(took["bare aiohttp"])
    for name, times in took.items():
        middle = statistics.median(times)
        print(f"{name:14} {middle:7.1f} us of CPU a request, {middle - base:+6.1f} (least {min(times):.1f})")


def main() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        uvloop.run(measure(int(server.stdout.readline())))
    finally:
        server.kill()


if __name__ == "__main__":
    main()
