"""How many chosen labels of CLINC150 teach a student as much as 1,000 random ones.

The pool is the training file, accuracy is on the validation file (3,000 rows in scope, 100 out of scope); the test file
is not read. The student is logistic regression on the embeddings of the frozen default encoder, the same for all rules.
The pool's own answers play the teacher.

    python benchmarks/active.py
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import cache

import numpy as np

from _record import DATA, OUT, need, write_result
from tiercel.flows.preparation import reader_for, rows_of, task_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.students.acquisition import choose, density, k_center, margin, softmax, unit_rows
from tiercel.students.linear_training import fit_head

RANDOM, MOST, START, STEP, SEEDS = 1_000, 500, 250, 50, 5
"""Start and step are those of `tiercel label --choose 500`."""
TOTALS = range(300, MOST + 1, STEP)
NAME = "clinc150"
Numbers = np.ndarray
Rule = Callable[[int, Numbers, np.ndarray | None, int], Numbers]


def embedded(texts: list[str]) -> np.ndarray:
    """Embeddings of all texts; made once and kept."""
    path, key = OUT / f"{NAME}-embeddings.npz", hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if path.exists() and str((kept := np.load(path))["key"]) == key:
        return kept["embeddings"]
    from tiercel.students.base_models import locate_encoder
    from tiercel.students.encoder_training import EncoderTrainer

    def told(done: int, total: int) -> None:
        print(f"\rembedding {done:,} of {total:,}", end="", file=sys.stderr)

    found = EncoderTrainer(locate_encoder(), max_tokens=64).embed(texts, told)
    OUT.mkdir(exist_ok=True)
    np.savez(path, embeddings=found, key=np.array(key))
    return found


class Workload:
    """Pool and held-out rows as unit vectors with their labels."""

    def __init__(self) -> None:
        folder = need(DATA / NAME)
        pool = read_workload([folder / "train.jsonl.gz"], Silent())
        _, labels, _ = task_of(pool.examples, None, Silent())
        assert labels is not None
        reader = reader_for(pool.key, pool.examples)
        held = read_workload([folder / "val.jsonl.gz"], Silent()).examples
        parts = [rows_of(examples, reader, labels)[0] for examples in (pool.examples, held)]
        rows = unit_rows(embedded([t for part in parts for t in part.texts]))
        self.pool, self.held = np.split(rows, [len(parts[0])])
        self.targets, wanted = (part.targets for part in parts)
        self.wanted = wanted.argmax(axis=1)
        self.dense = density(self.pool)

    def student(self, chosen: Numbers) -> tuple[float, np.ndarray]:
        """Accuracy on the held-out rows, and how unsure the student is of each row of the pool."""
        weights, bias = fit_head(self.pool[chosen], self.targets[chosen], multi=False, strength=20.0)
        right = (self.held @ weights + bias).argmax(axis=1) == self.wanted
        return float(right.mean()), margin(softmax(self.pool @ weights + bias))


def rules(data: Workload) -> dict[str, tuple[Rule, int]]:
    """Each rule and the labels that it starts with; the rules by margin start with the same typical rows."""

    @cache
    def first(count: int, seed: int) -> Numbers:
        return choose(data.pool, count, seed=seed)

    def typical(count: int, _: Numbers, __: np.ndarray | None, seed: int) -> Numbers:
        return first(count, seed)

    def kept(count: int, labelled: Numbers, unsure: np.ndarray | None, seed: int) -> Numbers:
        if unsure is None:
            return first(count, seed)
        return choose(data.pool, count, labelled=labelled, uncertainty=unsure, seed=seed)

    def top(score: Callable[[np.ndarray], np.ndarray]) -> Rule:
        def rule(count: int, labelled: Numbers, unsure: np.ndarray | None, seed: int) -> Numbers:
            if unsure is None:
                return first(count, seed)
            worth = score(unsure)
            worth[labelled] = -np.inf
            return np.argsort(-worth)[:count]

        return rule

    def far(count: int, labelled: Numbers, _: np.ndarray | None, seed: int) -> Numbers:
        return k_center(data.pool, count, labelled=labelled, seed=seed)

    return {
        "random": (lambda count, _, __, seed: np.random.default_rng(seed).permutation(len(data.pool))[:count], 0),
        "typicality, all in one go": (typical, 0),
        "k-center (core-set)": (far, START),
        "margin": (top(np.copy), START),
        "margin x density": (top(lambda unsure: unsure * data.dense), START),
        "margin, clustered (kept)": (kept, START),
    }


def curve(data: Workload, rule: Rule, start: int, seed: int) -> dict[int, float]:
    """Accuracy by number of labels; a rule without a start chooses all anew for each number."""
    found, chosen = dict[int, float](), np.empty(0, dtype=np.int64)
    unsure: np.ndarray | None = None
    for total in range(START, MOST + 1, STEP) if start else (400, MOST):
        if start:
            chosen = np.concatenate([chosen, rule(total - len(chosen), chosen, unsure, seed)])
        else:
            chosen = rule(total, np.empty(0, dtype=np.int64), None, seed)
        assert len(np.unique(chosen)) == total
        found[total], unsure = data.student(chosen)
    return found


def main() -> None:
    data = Workload()
    chance = np.random.default_rng
    aims = [data.student(chance(s).permutation(len(data.pool))[:RANDOM])[0] for s in range(SEEDS)]
    aim = float(np.mean(aims))
    table: list[tuple[str, str, str, bool | None]] = [
        (f"accuracy with {RANDOM:,} random labels, mean of {SEEDS} seeds", "", f"{aim:.4f}", None)
    ]
    notes = ["| rule | " + " | ".join(map(str, TOTALS)) + " | reached with |"]
    notes.append("|---|" + "---|" * 6)
    for name, (rule, start) in rules(data).items():
        curves = [curve(data, rule, start, seed) for seed in range(SEEDS)]
        mean = {n: float(np.mean([c[n] for c in curves])) for n in curves[0]}
        reached = next((n for n, accuracy in mean.items() if accuracy >= aim), None)
        each = [next((n for n, a in c.items() if a >= own), None) for c, own in zip(curves, aims, strict=True)]
        shown = " | ".join(f"{mean[n]:.4f}" if n in mean else "" for n in TOTALS)
        notes.append(f"| {name} | {shown} | {reached or 'more'} |")
        if name.endswith("(kept)"):
            good = reached is not None and reached <= MOST
            table.append(("chosen labels that reach it, mean curve", "<= 500", str(reached), good))
            table.append(("the same, each seed against its own random draw", "", ", ".join(map(str, each)), None))
    chosen_with = f"Rules of choice were tried on seeds 10 to 12 of the same files. Steps of {STEP} labels."
    write_result("active", "make bench-active", table, "\n".join([*notes, "", chosen_with]))


if __name__ == "__main__":
    main()
