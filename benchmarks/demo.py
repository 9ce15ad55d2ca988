"""How long `make demo` takes in a fresh clone: its virtual environment, and the pilot.

python benchmarks/demo.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _record import HERE, write_result

LONGEST_S = 300.0


def timed(clone: Path, target: str) -> float:
    """Wall time of a target; ends with what it said where it fails."""
    started = time.perf_counter()
    # The environment of this program must not serve the clone.
    command = ["env", "-u", "VIRTUAL_ENV", "-u", "PYTHONPATH", "make", f"PYTHON={sys.executable}", target]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"make {target} failed:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "tiercel"
        subprocess.run(["git", "clone", "--quiet", str(HERE.parent), str(clone)], check=True)
        installing = timed(clone, ".venv/demo")
        piloting = timed(clone, "demo")
        report = json.loads((clone / "demo" / "report.json").read_text("utf-8"))
    whole = installing + piloting
    certificate = report["certificate"]
    write_result(
        "demo",
        "make bench-demo",
        [
            ("`make demo` in a fresh clone", "< 5 min", f"{whole:.0f} s", whole < LONGEST_S),
            ("of that: its virtual environment, wheels from the index or pip's cache", "", f"{installing:.0f} s", None),
            ("of that: the pilot", "", f"{piloting:.0f} s", None),
            (
                f"certified offload at {certificate['max_loss']:.0%}",
                "",
                f"{certificate['offload']:.1%}",
                certificate["bound"] is not None,
            ),
        ],
    )


if __name__ == "__main__":
    main()
