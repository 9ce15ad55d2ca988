"""A larger decoder made here teaches a smaller one: how much of the gap between them it closes.

python benchmarks/distillation.py [headlines|snips] [--ways NAME ...] [--test]

The teacher is the decoder that `benchmarks/micro.py NAME --test` left. Students of one size and seed learn in equal
steps, with the teacher's tokenizer, from a part of its training rows: from the recorded answers alone, and in several
ways from the teacher too. Each is scored on held-out training rows, where the best way is chosen. With --test that one,
the student of answers alone and the teacher are scored on the test file. Trained students are kept under out/ and taken
from there by a later run with the same settings.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from _record import DATA, OUT, need, write_result
from micro import TASKS, Rows, read
from tiercel.cli.terminal import TerminalProgress
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import split_groups
from tiercel.students.distillation import Divergence, forward_kl, jensen_shannon, reverse_kl
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_teaching import answer_logprobs, taught_loss
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.tasks.losses import compare
from tiercel.types import Answer

RESAMPLES = 4_000
TARGET = 0.3


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What students of a workload are given.

    Attributes:
        size: parameters.
        labelled: rows whose recorded answers they see.
        steps: about.
    """

    size: int
    labelled: int
    steps: int


SETTINGS = {
    "headlines": Setting(size=150_000, labelled=1_900, steps=600),
    "snips": Setting(size=400_000, labelled=6_000, steps=4_000),
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a student learns.

    Attributes:
        weight: of the teacher against the answers; 0 for the answers alone.
        temperature: of the divergence.
        divergence: from the teacher.
        unlabelled: the teacher also answers the training requests whose recorded answers the student is not given.
    """

    weight: float = 0.8
    temperature: float = 1.0
    divergence: Divergence = forward_kl
    unlabelled: bool = False

    def __str__(self) -> str:
        if not self.weight:
            return "recorded answers alone"
        name = self.divergence.__name__.replace("_", " ")
        also = ", and its answers to the other requests" if self.unlabelled else ""
        return (
            f"the teacher's 8 likeliest tokens ({name}, weight {self.weight}, temperature {self.temperature:g}){also}"
        )


WAYS = {
    "answers": Way(weight=0.0),
    "logits": Way(),
    "hot": Way(weight=0.9, temperature=2.0),
    "jensen-shannon": Way(divergence=jensen_shannon),
    "reverse": Way(weight=0.5, divergence=reverse_kl),
    "unlabelled": Way(unlabelled=True),
}
USUAL = ("answers", "logits", "hot", "jensen-shannon", "unlabelled")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of the training file: what students are given, what the teacher knows beside it, and two held-out parts."""

    labelled: Rows
    others: Rows
    stop: Rows
    choose: Rows


def split(name: str, labelled: int) -> Split:
    """The teacher saw all but the rows that tell when to stop; a fifth of what it saw is kept from the students."""
    rows = read(name, "train.jsonl.gz")
    groups = near_duplicate_groups([request for request, _ in rows])
    train, stop, score = split_groups(groups, (0.9, 0.05, 0.05), seed=0)
    seen = np.array([*train, *score])
    learn, choose = split_groups(np.asarray(groups)[seen], (0.8, 0.2), seed=1)
    # Rows may come sorted by kind, so that a part of them is drawn.
    order = seen[np.random.default_rng(0).permutation(learn)].tolist()
    parts = {"labelled": order[:labelled], "others": order[labelled:], "stop": stop, "choose": seen[choose].tolist()}
    return Split(**{name: [rows[i] for i in numbers] for name, numbers in parts.items()})


def right(name: str, student: MicroStudent, rows: Rows) -> NDArray[np.bool_]:
    """Which rows are answered right, shape (n,)."""
    found = student.generate([request for request, _ in rows])
    pairs = zip(found, rows, strict=True)
    return np.array([compare(TASKS[name], Answer(content=f.text), Answer(content=a)).loss == 0 for f, (_, a) in pairs])


def taught(
    teacher: MicroStudent, given: Split, way: Way, plan: MicroPlan, steps: int, progress: TerminalProgress
) -> tuple[MicroStudent, float]:
    """A student that learnt in one way, and its training's seconds; taken from an earlier run where there was one."""
    rows = given.labelled
    said = repr((str(way), plan, steps, len(rows), [w.sum().item() for w in teacher.decoder.state_dict().values()]))
    folder = OUT / "distillation" / hashlib.sha256(said.encode()).hexdigest()[:12]
    if (folder / "seconds").exists():
        return MicroStudent.load(folder), float((folder / "seconds").read_text())
    clock = time.process_time()
    if way.unlabelled:
        progress.stage(f"the teacher answers {len(given.others):,} requests")
        requests = [request for request, _ in given.others]
        answered = zip(requests, teacher.generate(requests), strict=True)
        rows = rows + [(request, g.text) for request, g in answered if g.finish_reason == "stop"]
    loss = None
    if way.weight:
        progress.stage(f"recording the teacher on {len(rows):,} answers")
        told = answer_logprobs(teacher, rows)
        loss = taught_loss(told, weight=way.weight, temperature=way.temperature, divergence=way.divergence)
    progress.stage(f"training a student: {way}")
    shutil.rmtree(folder, ignore_errors=True)
    train_micro(
        rows,
        given.stop,
        folder,
        replace(plan, epochs=max(1, steps * plan.batch // len(rows))),
        loss=loss,
        # The teacher's tokens are what it speaks of.
        tokenizer=teacher.tokenizer,
        checkpoint=folder.with_suffix(".state"),
        progress=progress.step,
    )
    seconds = time.process_time() - clock
    (folder / "seconds").write_text(f"{seconds:.1f}")
    return MicroStudent.load(folder), seconds


def closed(scores: dict[str, NDArray[np.bool_]], name: str) -> tuple[str, float]:
    """Share of the gap that a way closed, with its interval, and the share itself."""
    rng = np.random.default_rng(0)

    def share(rows: NDArray[np.int64] | slice) -> float:
        teacher, plain, student = (scores[n][rows].mean() for n in ("teacher", "answers", name))
        return float((student - plain) / (teacher - plain)) if teacher > plain else float("nan")

    n = len(scores["teacher"])
    # A resample in which the teacher is no better than the student leaves no gap to close.
    low, high = np.nanquantile([share(rng.integers(0, n, n)) for _ in range(RESAMPLES)], [0.025, 0.975])
    whole = share(slice(None))
    return f"{whole:.0%} [{low:.0%}, {high:.0%}]", whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=sorted(SETTINGS), default="headlines")
    parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=list(USUAL))
    parser.add_argument("--test", action="store_true", help="score the best way on the test file: look once")
    given = parser.parse_args()
    name, setting = given.name, SETTINGS[given.name]
    need(DATA / name)
    if not (OUT / f"micro-{name}" / "model.safetensors").exists():
        raise SystemExit(f"run first: make bench-micro-{name}")
    torch.set_num_threads(1)
    teacher = MicroStudent.load(OUT / f"micro-{name}")
    parts = split(name, setting.labelled)
    plan = MicroPlan(size=setting.size, swap=0.0, patience=100)
    students = dict[str, MicroStudent]()
    table = list[tuple[str, str, str, bool | None]]()
    held, spent = dict[str, float](), 0.0
    with TerminalProgress() as progress:
        for way in given.ways:
            students[way], seconds = taught(teacher, parts, WAYS[way], plan, setting.steps, progress)
            held[way] = float(right(name, students[way], parts.choose).mean())
            spent += seconds
            told = f"{held[way]:.2%}, {seconds:.0f} s"
            table.append((f"held-out training rows, {len(parts.choose)}: {WAYS[way]}", "", told, None))
        best = max((way for way in given.ways if way != "answers"), key=lambda way: held[way], default=None)
        if given.test and best and "answers" in students:
            progress.stage("scoring the test file")
            test = read(name, "test.jsonl.gz")
            scored = {"teacher": teacher, "answers": students["answers"], best: students[best]}
            scores = {way: right(name, student, test) for way, student in scored.items()}
            table += on_test(scores, best, students[best].decoder.shape.parameters)
    notes = (
        f"The teacher has {teacher.decoder.shape.parameters:,} parameters. Students see {len(parts.labelled):,} of its "
        f"rows with their recorded answers; {len(parts.others):,} more are known by their requests. All students: "
        f"{spent / 60:.1f} minutes of the processor."
    )
    write_result("distillation", f"python benchmarks/distillation.py {name} --test", table, notes, keep=given.test)


def on_test(scores: dict[str, NDArray[np.bool_]], best: str, size: int) -> list[tuple[str, str, str, bool | None]]:
    """What the test file says of the way that was chosen."""
    gain = scores[best].astype(float) - scores["answers"]
    error = float(gain.std() / np.sqrt(len(gain)))
    said, share = closed(scores, best)
    return [
        (f"teacher, right of {len(gain)} test rows", "", f"{scores['teacher'].mean():.2%}", None),
        (f"student of {size:,} parameters, recorded answers alone", "", f"{scores['answers'].mean():.2%}", None),
        (f"the same, {WAYS[best]}", "", f"{scores[best].mean():.2%}", None),
        ("gain, paired", "", f"{gain.mean():+.2%} ± {1.96 * error:.2%}", None),
        ("share of the gap closed, paired bootstrap", f">= {TARGET:.0%}", said, share >= TARGET),
    ]


if __name__ == "__main__":
    main()
