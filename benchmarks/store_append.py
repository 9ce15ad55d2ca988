"""Entries a second that the store takes, in batches of 500 with 1 KB of content each.

    python benchmarks/store_append.py [PATH or postgresql://...] [entries]

2026-11-20, 2 shared cores at a load of 4 to 5: SQLite 30,600 to 55,900 entries/s in four runs, PostgreSQL 15 (fsync on)
16,300/s.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tiercel.store.database import open_database
from tiercel.store.entries import Content, Entry, append, new_id

BATCH = 500


def entries(text: str) -> list[Entry]:
    """A batch of entries as a gateway makes them."""
    request = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()
    content = Content(request=request, response=json.dumps({"role": "assistant", "content": text[:200]}).encode())
    return [
        Entry(
            id=new_id(),
            created=time.time(),
            api="chat",
            workload="tickets",
            key="key-1",
            user=f"{number % 97:032x}",
            tier="frontier",
            provider="openai",
            model="gpt-4o-mini",
            status=200,
            reason="unsure",
            confidence=0.4,
            latency_s=0.3,
            first_byte_s=0.1,
            input_tokens=300,
            output_tokens=40,
            cost_usd=0.001,
            frontier_cost_usd=0.001,
            content=content,
        )
        for number in range(BATCH)
    ]


def main() -> None:
    """Write and print the rate; only the time inside `append` counts."""
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else str(Path(folder) / "store.db")
        batches = int(sys.argv[2]) // BATCH if len(sys.argv) > 2 else 100
        written, seconds = 0, 0.0
        with closing(open_database(url)) as database:
            for _ in range(batches):
                new = entries("x" * 780)
                started = time.perf_counter()
                written += append(database, new)
                seconds += time.perf_counter() - started
            print(f"{database.url_shown}: {written:,} entries, {written / seconds:,.0f}/s")


if __name__ == "__main__":
    main()
