"""A larger decoder made here teaches a smaller one on SNIPS: how much of the gap between them it closes.

python benchmarks/distillation.py [--smoke] [--size N] [--epochs E] [--weight W] [--swap S] [--threads N]

The teacher is the decoder that benchmarks/micro.py snips --test left. Two students of one size and seed, with equal
steps, learn the same rows: one from answers alone, one from answers and the teacher's 8 likeliest tokens. Scored on the
test file. --smoke trains a small teacher of its own on 1,500 rows and two smaller students, some minutes in all: it
shows that the benchmark works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from _record import DATA, OUT, need, write_result
from micro import read
from tiercel.cli.terminal import TerminalProgress
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import split_groups
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_teaching import answer_logprobs, taught_loss
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.tasks.losses import compare
from tiercel.types import Answer

RESAMPLES = 4_000
SMOKE_ROWS, SMOKE_TESTS = 1_500, 200
SMOKE_TEACHER = MicroPlan(size=500_000, minutes=1.2, swap=0.0, patience=100)
SMOKE_STUDENT = MicroPlan(size=100_000, epochs=6, swap=0.0, patience=100)


def right(student: MicroStudent, rows: list[tuple[str, str]]) -> np.ndarray:
    found = student.generate([request for request, _ in rows])
    pairs = zip(found, rows, strict=True)
    return np.array([compare("extraction", Answer(content=f.text), Answer(content=a)).loss == 0 for f, (_, a) in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=400_000, help="parameters of a student")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weight", type=float, default=0.8, help="of the teacher against the answers")
    parser.add_argument("--swap", type=float, default=0.0, help="share of rows whose values are swapped, in both")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--smoke", action="store_true", help="a small setting that shows that it works")
    given = parser.parse_args()
    need(DATA / "snips")
    rows, test = read("snips", "train.jsonl.gz"), read("snips", "test.jsonl.gz")
    train, stop, score = split_groups(near_duplicate_groups([r for r, _ in rows]), (0.9, 0.05, 0.05), seed=0)
    taught_rows, held = [rows[i] for i in [*train, *score]], [rows[i] for i in stop]
    plan = MicroPlan(size=given.size, epochs=given.epochs, swap=given.swap, patience=100)
    folder = OUT / "micro-snips"
    with TerminalProgress() as progress:
        if given.smoke:
            # The rows come sorted by kind, so that a part of them is drawn.
            order = np.random.default_rng(0).permutation(len(taught_rows))[:SMOKE_ROWS]
            taught_rows, held = [taught_rows[i] for i in order], held[::4]
            test = test[:: max(1, len(test) // SMOKE_TESTS)]
            plan, folder = SMOKE_STUDENT, OUT / "distillation-smoke-teacher"
            progress.stage("training a small teacher")
            shutil.rmtree(folder, ignore_errors=True)
            train_micro(taught_rows, held, folder, SMOKE_TEACHER, threads=given.threads, progress=progress.step)
        elif not (folder / "model.safetensors").exists():
            raise SystemExit("run first: make bench-micro-snips")
        teacher = MicroStudent.load(folder)
        progress.stage("recording the teacher")
        told = answer_logprobs(teacher, taught_rows)
        scores, losses = {"teacher": right(teacher, test)}, dict[str, float]()
        for name, loss in (("answers only", None), ("taught", taught_loss(told, weight=given.weight))):
            progress.stage(f"training a student: {name}")
            out: Path = OUT / f"distilled-{name.split()[0]}"
            shutil.rmtree(out, ignore_errors=True)
            # Both with the teacher's tokenizer: its tokens are what the teacher speaks of.
            trained = train_micro(
                taught_rows,
                held,
                out,
                plan,
                threads=given.threads,
                loss=loss,
                tokenizer=teacher.tokenizer,
                progress=progress.step,
            )
            scores[name] = right(MicroStudent.load(out), test)
            losses[name] = min(trained.losses)
    rng = np.random.default_rng(0)

    def closed(sample: np.ndarray) -> float:
        t, a, s = (scores[n][sample].mean() for n in ("teacher", "answers only", "taught"))
        return float((s - a) / (t - a)) if t > a else float("nan")

    # A resample in which the teacher is no better than the student leaves no gap to close.
    draws = [closed(rng.integers(0, len(test), len(test))) for _ in range(RESAMPLES)]
    whole = closed(np.arange(len(test)))
    share = "no gap: the teacher is no better"
    if not np.isnan(whole):
        low, high = np.nanquantile(draws, [0.025, 0.975])
        share = f"{whole:.0%} [{low:.0%}, {high:.0%}]"
    gain = scores["taught"].astype(float) - scores["answers only"]
    error = gain.std() / np.sqrt(len(gain))
    write_result(
        "distillation",
        "python benchmarks/distillation.py"
        + " --smoke" * given.smoke
        + "".join(
            f" --{k} {getattr(given, k)}"
            for k in ("size", "epochs", "weight", "swap")
            if getattr(given, k) != parser.get_default(k)
        ),
        [
            (f"teacher, exact match on {len(test)} test rows", "", f"{scores['teacher'].mean():.2%}", None),
            (f"student of {plan.size:,} parameters, answers only", "", f"{scores['answers only'].mean():.2%}", None),
            ("the same, taught", "", f"{scores['taught'].mean():.2%}", None),
            *((f"{name}: held-out loss of an answer token", "", f"{x:.3f}", None) for name, x in losses.items()),
            ("gain, paired", "", f"{gain.mean():+.2%} ± {1.96 * error:.2%}", None),
            (
                "share of the gap closed, paired bootstrap",
                ">= 30 %",
                share,
                None if given.smoke else whole >= 0.3,
            ),
        ],
        keep=not given.smoke,
    )


if __name__ == "__main__":
    main()
