"""Made-up recordings of two models: easy and hard requests, answers that show whether they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import chat, write_lines


def recorded_rows(n: int, seed: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Sums of two numbers; the small model errs on large ones, and its wrong answers show a wrong sum."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        a, b = (int(v) for v in rng.integers(2, 99, 2))
        words = " ".join(rng.choice(["red", "green", "old", "new", "small", "heavy", "cheap", "wet"], 4))
        hard = bool(rng.random() < 0.4)
        asked = f"Ann has {a} {words} boxes of {b} pens"
        asked += " after she gave half of the remaining ones away twice. How many pens?" if hard else ". How many pens?"
        right = bool(rng.random() < (0.35 if hard else 0.95))
        good = bool(rng.random() < 0.96)
        shown = a * b if right else a * b + int(rng.integers(1, 9))
        rows.append(
            chat(
                asked,
                id=f"row-{seed}-{number}",
                responses=[
                    {"model": "tiny-1b", "content": f"{a} * {b} = {shown}\n#### {shown}", "score": float(right)},
                    {"model": "huge-9", "content": f"{a * b}", "score": float(good)},
                ],
                **fields,
            )
        )
    return rows


def recorded_file(folder: Path, n: int, seed: int = 0, **fields: Any) -> Path:
    """The rows as a file."""
    return write_lines(folder / f"recorded-{seed}.jsonl", *recorded_rows(n, seed, **fields))
