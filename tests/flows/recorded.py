"""Made-up recordings of models: easy and hard requests, answers that show whether they are right."""

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


def ladder_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The same sums with a model between, which errs on hard ones less, and some that nobody gets right."""
    rng = np.random.default_rng(seed + 1_000)
    rows = recorded_rows(n, seed)
    for row in rows:
        cheap, dear = row["responses"]
        asked = row["messages"][0]["content"]
        right = bool(rng.random() < (0.75 if "half" in asked else 0.97))
        if rng.random() < 0.15:
            row["messages"][0]["content"] = asked.replace("How many", "Nobody knows how many")
            right, cheap["score"], dear["score"] = False, 0.0, float(rng.random() < 0.1)
        whole = int(dear["content"])
        shown = whole if right else whole + int(rng.integers(1, 9))
        middle = {"model": "mid-3b", "content": f"1 * {whole} = {shown}\n#### {shown}", "score": float(right)}
        row["responses"] = [cheap, middle, dear]
    return rows


def ladder_file(folder: Path, n: int, seed: int = 0) -> Path:
    """The rows of a ladder as a file."""
    return write_lines(folder / f"ladder-{seed}.jsonl", *ladder_rows(n, seed))
