"""What a gateway without a bundle does not load: start and memory depend on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    "alembic",
    "numpy",
    "onnxruntime",
    "opentelemetry",
    "presidio_analyzer",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
)

PROGRAM = """
import asyncio, socket, sys
from tiercel.gateway.sections import Capture, Settings
from tiercel.gateway.worker import Worker
async def main():
    worker = Worker(Settings(capture=Capture(store=sys.argv[1])))
    at = socket.create_server(("127.0.0.1", 0))
    at.setblocking(False)
    runner = await worker.listen(at)
    await worker.drain(runner)
    await worker.close(runner)
asyncio.run(main())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded(store: Path) -> set[str]:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(store)], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def test_a_gateway_without_a_bundle_loads_nothing_that_students_telemetry_or_migrations_need(tmp_path: Path) -> None:
    assert set(HEAVY) & loaded(tmp_path / "store.db") == {"alembic"}  # it makes the tables
    assert set(HEAVY) & loaded(tmp_path / "store.db") == set()
