"""The micro rung on SNIPS (request to JSON), GeoQuery (question to SQL) and HEADLINES (label): exact match and time.

python benchmarks/micro.py snips|geoquery|headlines [--minutes M] [--size N] [--rows N] [--threads N] [--test]

Trains on the training file but for two parts that are held out, near-duplicates together: one tells when to stop, the
other is scored. With --test the test file is scored instead: look once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time

from _record import DATA, OUT, need, write_result
from tiercel.cli.terminal import TerminalProgress
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import split_groups
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.stats.intervals import rate_interval
from tiercel.students.micro import Generated, MicroStudent
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.tasks.losses import compare
from tiercel.types import Answer

TASKS = {"snips": "extraction", "geoquery": "sql", "headlines": "generation"}
TARGETS = {"snips": 0.8}

Rows = list[tuple[str, str]]


def read(name: str, file: str) -> Rows:
    """Requests and answers; the system message is the same in all rows and says nothing."""
    examples = read_workload([need(DATA / name / file)], Silent()).examples
    return [(e.messages[-1].text, e.answer.text) for e in examples if e.answer]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def measured(name: str, rows: Rows, found: list[Generated], seconds: float) -> list[tuple[str, str, str, bool | None]]:
    task = TASKS[name]
    pairs = [(Answer(content=f.text), Answer(content=answer)) for f, (_, answer) in zip(found, rows, strict=True)]
    right = sum(compare(task, got, wanted).loss == 0 for got, wanted in pairs)
    interval = rate_interval(right, len(rows))
    target = TARGETS.get(name)
    share = right / len(rows)
    tokens = sum(len(f.logprobs) for f in found)
    table: list[tuple[str, str, str, bool | None]] = [
        (
            f"exact match, {len(rows)} rows",
            "" if target is None else f">= {target:.0%}",
            f"{share:.2%} [{interval.low:.2%}, {interval.high:.2%}]",
            None if target is None else share >= target,
        ),
        ("tokens an answer, its end included", "", f"{tokens / len(found):.1f}", None),
        ("answers that did not end", "", str(sum(f.finish_reason == "length" for f in found)), None),
        ("greedy answers in torch", "", f"{1000 * seconds / len(rows):.1f} ms a row", None),
    ]
    if task == "extraction":
        valid = sum(is_json(f.text) for f in found) / len(found)
        table.insert(1, ("valid JSON", "", f"{valid:.2%}", None))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--minutes", type=float, default=25.0, help="limit of training")
    parser.add_argument("--size", type=int, default=MicroPlan().size, help="parameters at most")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--rows", type=int, help="train on so many rows only")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--test", action="store_true", help="score the test file")
    given = parser.parse_args()
    rows = read(given.name, "train.jsonl.gz")
    groups = near_duplicate_groups([request for request, _ in rows])
    train, stop, score = split_groups(groups, (0.9, 0.05, 0.05), seed=0)
    if given.test:
        train, scored = [*train, *score], read(given.name, "test.jsonl.gz")
    else:
        scored = [rows[i] for i in score]
    folder = OUT / f"micro-{given.name}"
    shutil.rmtree(folder, ignore_errors=True)
    plan = MicroPlan(size=given.size, minutes=given.minutes, epochs=given.epochs)
    with TerminalProgress() as progress:
        progress.stage(f"training on {given.name}")
        result = train_micro(
            [rows[i] for i in train][: given.rows],
            [rows[i] for i in stop],
            folder,
            plan,
            threads=given.threads,
            checkpoint=folder.with_name(folder.name + ".state"),
            progress=progress.step,
        )
    student = MicroStudent.load(folder)
    started = time.perf_counter()
    found = student.generate([request for request, _ in scored])
    table = measured(given.name, scored, found, time.perf_counter() - started)
    used = f"{result.steps:,} steps, {result.seconds / 60:.1f} min"
    table.append(("training", f"<= {given.minutes:g} min", used, result.seconds <= 60 * given.minutes + 15))
    options = "".join(
        f" --{k} {getattr(given, k)}"
        for k in ("minutes", "size", "epochs", "rows", "threads")
        if getattr(given, k) != parser.get_default(k)
    )
    losses = ", ".join(f"{x:.3f}" for x in result.losses)
    write_result(
        f"micro-{given.name}" + ("" if given.test else "-held-out"),
        f"python benchmarks/micro.py {given.name}{options}{' --test' if given.test else ''}",
        table,
        "\n".join([f"{result.shape}.", f"Held-out loss at each look: {losses}.", *result.warnings]),
    )


if __name__ == "__main__":
    main()
