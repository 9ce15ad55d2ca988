"""How fast the program starts: its help, and the answer to one row with the model loaded.

python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _record import DATA, OUT, bundle_of, need, write_result

PROGRAM = str(Path(sys.executable).parent / "tiercel")


def seconds(*arguments: str, times: int = 7) -> float:
    """Median wall time of a command, the first (cold) run left out."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        subprocess.run([PROGRAM, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def main() -> None:
    bundle_of("clinc150")
    import gzip

    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.jsonl"
        with gzip.open(need(DATA / "clinc150" / "test.jsonl.gz"), "rb") as stream:
            one.write_bytes(stream.readline())
        help_time = seconds("--help")
        answer_time = seconds(
            "answer", str(OUT / "clinc150"), "--input", str(one), "--output", str(Path(folder) / "out.jsonl")
        )
    write_result(
        "start",
        "make bench-start",
        [
            ("`tiercel --help`", "<= 0.25 s", f"{help_time:.3f} s", help_time <= 0.25),
            ("`tiercel answer` on one row, encoder bundle", "<= 1.5 s", f"{answer_time:.3f} s", answer_time <= 1.5),
        ],
    )


if __name__ == "__main__":
    main()
