"""Memory while one gigabyte of JSON Lines is imported and while its workloads are listed.

python benchmarks/stream.py
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from _record import write_result

PROGRAM = str(Path(sys.executable).parent / "tiercel")
GIGABYTE = 10**9
WORDS = [
    f"{a}{b}"
    for a in ["ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa"]
    for b in ["n", "r", "st", "lk", "m", "x", "nd"]
]


def write_traffic(path: Path) -> int:
    """One gigabyte of distinct rows, like a log's: short and long requests, a few workloads."""
    rng, encode, size, rows = random.Random(0), msgspec.json.Encoder().encode, 0, 0
    with path.open("wb") as stream:
        while size < GIGABYTE:
            text = " ".join(rng.choices(WORDS, k=rng.choice((12, 40, 120))))
            row = {
                "messages": [
                    {"role": "system", "content": f"Sort the request of tenant {rows % 7}. Answer with a label."},
                    {"role": "user", "content": f"{rows} {text}"},
                    {"role": "assistant", "content": f"label_{rng.randrange(20)}"},
                ],
                "model": "gpt-4o",
                "created": 1_700_000_000 + rows,
            }
            line = encode(row) + b"\n"
            stream.write(line)
            size += len(line)
            rows += 1
    return rows


def peak_of(*arguments: str) -> tuple[float, float]:
    """Peak resident memory in MB and seconds of a command."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"tiercel {arguments[0]} failed with {process.returncode}")
    return peak / 1e6, time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "traffic.jsonl"
        rows = write_traffic(source)
        memory, seconds = peak_of("import", str(source), "--output", str(Path(folder) / "out.jsonl"))
        listed, listing = peak_of("workloads", str(source))
    write_result(
        "stream",
        "make bench-stream",
        [
            (f"import of 1 GB, {rows:,} rows: peak memory", "<= 500 MB", f"{memory:.0f} MB", memory <= 500),
            ("import: rate", "", f"{rows / seconds:,.0f} rows/s, {1000 / seconds:.0f} MB/s", None),
            ("workloads of the same file: peak memory", "<= 500 MB", f"{listed:.0f} MB", listed <= 500),
            ("workloads: rate", "", f"{rows / listing:,.0f} rows/s", None),
        ],
    )


if __name__ == "__main__":
    main()
