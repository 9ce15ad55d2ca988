"""What the benchmarks share: where data lies, scoring a file with a bundle, and writing a result down with its date."""

from __future__ import annotations

import datetime as dt
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tiercel.flows.bundle import Bundle, load
from tiercel.flows.preparation import Rows, rows_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.students.response import Responses
from tiercel.tasks.losses import compare

HERE = Path(__file__).parent
DATA = Path(os.environ.get("TIERCEL_DATA", HERE.parent.parent / "shared" / "data"))
OUT = HERE / "out"
RESULTS = HERE / "results"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Rows of a file as a bundle sees them; arrays of n rows."""

    rows: Rows
    responses: Responses
    loss: np.ndarray
    scores: np.ndarray


def score_file(bundle: Bundle, path: Path) -> Scored:
    """Answer every row of a file, whatever the gate says of it."""
    task, labels = bundle.manifest.task, getattr(bundle.student, "labels", None)
    rows, _ = rows_of(read_workload([path], Silent()).examples, bundle.manifest.reader, task, labels)
    responses = bundle.student.respond(rows.texts)
    pairs = zip(responses.answers, rows.reference, strict=True)
    return Scored(
        rows=rows,
        responses=responses,
        loss=np.array([compare(task, a, r, labels).loss for a, r in pairs]),
        scores=bundle.policy.score(responses.signals),
    )


def need(path: Path) -> Path:
    """The path, or a clear end where the data is not there."""
    if not path.exists():
        raise SystemExit(f"{path} is not there: set TIERCEL_DATA to the folder of the benchmark data")
    return path


def bundle_of(name: str) -> Bundle:
    """The bundle that `make bench-NAME` left."""
    folder = OUT / name
    if not (folder / "bundle").exists():
        raise SystemExit(f"run first: make bench-{name}")
    return load(folder)


def write_result(
    name: str, command: str, table: list[tuple[str, str, str, bool | None]], notes: str = "", *, keep: bool = True
) -> None:
    """Print a table of figure, target and what was reached, and keep it with the date in results/NAME.md.

    Args:
        name: of the result.
        command: that repeats it.
        table: figure, target, reached, and whether that is good; None where there is no target.
        notes: below the table, in Markdown.
        keep: write the file; a short trial is only printed.
    """
    lines = [
        f"# {name}",
        "",
        f"{dt.date.today()} · `{command}` · {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}",
        "",
        "| figure | target | reached | |",
        "|---|---|---|---|",
    ]
    for figure, target, reached, good in table:
        lines.append(f"| {figure} | {target} | {reached} | {'' if good is None else 'yes' if good else 'no'} |")
    text = "\n".join(lines) + "\n" + (f"\n{notes}\n" if notes else "")
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def to_json(value: Any) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1)
