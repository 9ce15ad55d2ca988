"""Mislabels found by confident learning, and whether training without them helps the linear rung.

CLINC150 with 5 % and HEADLINES with 20 % of the training labels flipped at random: precision and recall of what is
flagged. HEADLINES also as it is, with the noise of its annotators, which its held-out rows have too. Rows of the
training files are parted into fifths that share no near-duplicates; the linear rung is trained on the rest with and
without the flagged rows, and asked about the fifth. Test files are not read.

    python benchmarks/curation.py headlines|clinc150
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from _record import DATA, need, write_result
from tiercel.datasets.curation import Curation, Reason, curate
from tiercel.datasets.mislabels import Mislabels, Pruning, find_mislabels
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import split_groups
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.stats.intervals import mean_interval
from tiercel.students.linear_training import cross_fitted, fit_linear

FIFTHS, SEED = 5, 11

Row = tuple[str, str, str, bool | None]


@dataclass(frozen=True, kw_only=True)
class Data:
    """n training rows and m held-out rows of one workload; `given` may be flipped, `true` never is."""

    name: str
    texts: list[str]
    labels: list[str]
    true: np.ndarray
    given: np.ndarray
    held_texts: list[str]
    held: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return np.eye(len(self.labels), dtype=np.float32)[self.given]


def read(name: str, flipped: float) -> Iterator[Data]:
    """The data with each fifth held out in turn."""
    examples = read_workload([need(DATA / name / "train.jsonl.gz")], Silent()).examples
    texts = [e.messages[-1].text for e in examples]
    answers = [(e.reference or e.answer).text for e in examples if e.answer]
    labels = sorted(set(answers))
    true = np.array([labels.index(a) for a in answers])
    rng = np.random.default_rng(SEED)
    given = np.where(
        rng.random(true.size) < flipped, (true + rng.integers(1, len(labels), true.size)) % len(labels), true
    )
    for held in split_groups(near_duplicate_groups(texts), [1 / FIFTHS] * FIFTHS, SEED):
        train = np.setdiff1d(np.arange(true.size), held)
        yield Data(
            name=f"{name}, {flipped:.0%} flipped" if flipped else name,
            texts=[texts[i] for i in train],
            labels=labels,
            true=true[train],
            given=given[train],
            held_texts=[texts[i] for i in held],
            held=true[held],
        )


def held_out_right(data: Data, rows: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Which held-out rows the linear rung gets right when it is trained on `rows`; 0 or 1."""
    given = data.given if labels is None else labels
    targets = np.eye(len(data.labels), dtype=np.float32)[given[rows]]
    student = fit_linear([data.texts[i] for i in rows], targets)
    return (student.predict(data.held_texts).probabilities.argmax(1) == data.held).astype(float)


def change(name: str, right: np.ndarray, before: np.ndarray) -> Row:
    """A row of the table: accuracy, and how it differs from `before` on the same rows."""
    gain = mean_interval(right - before, -1.0, 1.0)
    return (name, "", f"{right.mean():.2%}, {gain.value:+.2%} [{gain.low:+.2%}, {gain.high:+.2%}]", None)


def found_rows(data: Data, found: Mislabels, pruning: Pruning) -> list[Row]:
    flipped = data.given != data.true
    what = f"{data.name}, pruned by {pruning}"
    table: list[Row] = [(f"{what}: rows flagged of {len(data.texts)}", "", f"{found.rows.size}", None)]
    if flipped.any():
        hit = flipped[found.rows]
        right = found.suggested[hit] == data.true[found.rows[hit]]
        table += [
            (f"{what}: precision", "", f"{hit.mean():.1%}", None),
            (f"{what}: recall of {flipped.sum()} flipped labels", "", f"{hit.sum() / flipped.sum():.1%}", None),
            (f"{what}: the suggested label is the true one, of flipped rows found", "", f"{right.mean():.1%}", None),
        ]
    return table


def trained_ways(data: Data, curation: Curation, by: dict[Pruning, Mislabels]) -> dict[str, np.ndarray]:
    """Held-out rows right, for each way to use what was flagged; the first is to ignore it."""
    everything = np.arange(len(data.texts))
    mended = data.given.copy()
    mended[by[Pruning.CLASS].rows] = by[Pruning.CLASS].suggested
    found = {"all rows train": held_out_right(data, everything)}
    for pruning, flagged in by.items():
        kept = np.setdiff1d(everything, flagged.rows)
        found[f"mislabels dropped (pruned by {pruning})"] = held_out_right(data, kept)
    found["mislabels relabelled as suggested"] = held_out_right(data, everything, mended)
    found["rows of quality >= .5 alone"] = held_out_right(data, curation.keep())
    flipped = data.given != data.true
    if flipped.any():
        found["flipped rows dropped (which is known here alone)"] = held_out_right(data, np.flatnonzero(~flipped))
    return found


def compare(name: str, flipped: float, fifths: int) -> tuple[list[Row], list[str]]:
    """Rows of the table, and notes on the first fifth's training rows."""
    table, notes, right = list[Row](), list[str](), dict[str, list[np.ndarray]]()
    title = name
    for number, data in enumerate(islice(read(name, flipped), fifths)):
        told = cross_fitted(data.texts, data.targets)
        by = {pruning: find_mislabels(told, data.given, pruning=pruning) for pruning in Pruning}
        answers = [data.labels[i] for i in data.given]
        curation = curate(data.texts, answers, probabilities=told, labels=data.given)
        title = data.name
        for way, rows in trained_ways(data, curation, by).items():
            right.setdefault(way, []).append(rows)
        if number == 0:
            table.append((f"{title}: estimated label noise", "", f"{by[Pruning.CLASS].noise:.1%}", None))
            table += plain_disagreement(data, told)
            for pruning, found in by.items():
                table += found_rows(data, found, pruning)
            notes = examples_of(data, curation)
    ways = {way: np.concatenate(rows) for way, rows in right.items()}
    before = next(iter(ways.values()))
    table.append(
        (f"{title}: accuracy on {before.size} held-out rows, all rows train", "", f"{before.mean():.2%}", None)
    )
    table += [change(f"{title}: {way}", rows, before) for way, rows in islice(ways.items(), 1, None)]
    return table, notes


def plain_disagreement(data: Data, told: np.ndarray) -> list[Row]:
    """What the simplest rule would find: every row that the rung would label otherwise."""
    flipped, disagrees = data.given != data.true, told.argmax(1) != data.given
    if not flipped.any():
        return []
    hit = (disagrees & flipped).sum()
    reached = f"{hit / disagrees.sum():.1%}, {hit / flipped.sum():.1%}"
    return [(f"{data.name}, every row the rung labels otherwise: precision, recall", "", reached, None)]


def examples_of(data: Data, curation: Curation) -> list[str]:
    lines = [f"{data.name}: what curation doubts", "", "| reason | rows | first example |", "|---|---|---|"]
    for count in curation.report().reasons:
        row = count.examples[0]
        told = f"{data.texts[row]} → {data.labels[data.given[row]]}"
        if count.reason == Reason.MISLABEL:
            finding = next(f for f in curation.findings if f.row == row and f.reason == Reason.MISLABEL)
            told += f" (suggested: {data.labels[finding.suggested or 0]})"
        lines.append(f"| {count.reason} | {count.rows} | {told.replace('|', '/')} |")
    return [*lines, ""]


def main(name: str) -> None:
    table, notes = list[Row](), list[str]()
    # One fifth of CLINC150 takes as long as all of HEADLINES: its 151 labels make training slow.
    for flipped, fifths in {"headlines": ((0.0, FIFTHS), (0.2, FIFTHS)), "clinc150": ((0.05, 1),)}[name]:
        rows, lines = compare(name, flipped, fifths)
        table += rows
        notes += lines
    notes.append("Changes of accuracy are paired, row by row, with 95 % intervals from betting.")
    write_result(f"curation-{name}", f"make bench-curation-{name}", table, "\n".join(notes))


if __name__ == "__main__":
    main(sys.argv[1])
