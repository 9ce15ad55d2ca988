"""Whatever schemathesis thinks of from the gateway's own OpenAPI document, for minutes, against a gateway in a process.

python benchmarks/gateway/fuzz.py [--smoke]

Right and wrong requests at every path, with a key and without one. Each answer has to be what the document says: its
status, its type, its form, its headers; none may be 500; none may take longer than ten seconds; and the gateway's
memory must not grow with the number of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _tiercel
import schemathesis
from _load import Row, keep, progress
from _process import NotStarted, Server, running, workplace
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import checks

from tiercel.datasets.contract import example_from
from tiercel.providers.replay import ReplayServer, ReplaySettings

SAID = "an answer to everything"
BATCH = 50
"""Requests at a path before the next path's turn."""
TIMEOUT_S = 10
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@contextmanager
def replaying() -> Iterator[int]:
    """Port of a provider that has an answer to everything, in a thread."""
    asked = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": SAID}]
    server = ReplayServer([example_from({"messages": asked})], ReplaySettings(speed=float("inf"), fallback="first"))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    url = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
    yield int(url.split(":")[2].split("/")[0])
    asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
    loop.call_soon_threadsafe(loop.stop)


def demand_keys(config: Path, keyed: bool) -> None:
    """Have a gateway on loopback ask for keys too."""
    config.write_text(config.read_text().replace("[server]", f"[server]\nrequire_keys = {str(keyed).lower()}", 1))


def fuzz(server: Server, seconds: float) -> tuple[Counter[int], list[str], list[float]]:
    """Ask at every path in turn for so many seconds.

    Returns:
        How often each status came; what was wrong, a line each; the gateway's memory in MB after each round.
    """
    base = f"http://127.0.0.1:{server.port}"
    document = schemathesis.openapi.from_url(f"{base}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    memory: list[float] = []
    ends, round_ = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        for operation in operations:
            try:
                ask(operation, base, server.launch.headers, round_, statuses)
            except (Exception, BaseExceptionGroup) as error:
                wrong.append(f"{operation.method.upper()} {operation.path}: {_said(error)}")
        round_ += 1
        memory.append(server.rss_mb)
        progress(f"{server.launch.name}: {sum(statuses.values()):,} requests, {len(wrong)} wrong, {memory[-1]:.0f} MB")
    return statuses, wrong, memory


def ask(operation: Any, base: str, headers: dict[str, str], number: int, statuses: Counter[int]) -> None:
    """A batch of requests at one path; every fourth has no key.

    Raises:
        AssertionError: an answer is 500.
        Exception: as schemathesis words what is not as the document says.
    """
    modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    quick = {"deadline": None, "database": None, "phases": [Phase.generate], "max_examples": BATCH}

    @seed(number)
    @settings(**quick, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(modes), keyless=st.integers(0, 3))
    def check(case: Any, keyless: int) -> None:
        sent = headers if keyless else {}
        response = case.call(base_url=base, headers=sent, timeout=TIMEOUT_S)
        statuses[response.status_code] += 1
        assert response.status_code != 500, "500"
        case.validate_response(response, checks=CHECKS)

    check()


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([type(error).__name__, *lines])[:300]


def grown(memory: list[float]) -> float:
    """By which share the memory is larger at the end than after the first third, when caches have filled."""
    middle = memory[len(memory) // 3]
    return memory[-1] / middle - 1


def main() -> int:
    """Fuzz a gateway without keys and one with them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; keeps no result")
    smoke = parser.parse_args().smoke
    table: list[Row] = []
    for keyed in (False, True):
        with workplace() as folder, replaying() as port:
            try:
                launch = _tiercel.launch(port, folder, keyed=keyed)
                demand_keys(folder / "tiercel.toml", keyed)
                with running(launch, answers=SAID) as server:
                    statuses, wrong, memory = fuzz(server, 15 if smoke else 600)
            except NotStarted as error:
                progress(str(error))
                return 1
        for line in dict.fromkeys(wrong):
            progress(line)
        told = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
        name = "with keys" if keyed else "without keys"
        table.append((f"requests {name}, by status", told, "none with 500", not statuses[500]))
        table.append((f"not as the document says, {name}", f"{len(wrong)}", "0", not wrong))
        share = grown(memory)
        table.append((f"growth of memory {name}", f"{share:+.1%}", "< 10 %", share < 0.1))
    return keep("gateway-fuzz", "python benchmarks/gateway/fuzz.py", table, "", smoke=smoke)


if __name__ == "__main__":
    raise SystemExit(main())
