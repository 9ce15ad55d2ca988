"""Curation of the training rows: what is in doubt is left out where that helps on rows that were not trained on.

Gate rows judge and stay as they are; calibration and test rows are not looked at. To curate those that are measured on
would make the certificate speak of cleaner traffic than the one that comes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.datasets.curation import Curation, Reason, curate
from tiercel.errors import DataError, MissingExtraError
from tiercel.flows.generating import text_of
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, write_file
from tiercel.stats.intervals import Interval, mean_interval

__all__ = ["CurationOutcome", "curated", "quality_of", "record_of"]

FILE = "curation.json"
LEAST_QUALITY = 0.5
PROBE_SIZE = 400_000
"""Parameters of the small decoder that tells whether curation helps, where answers are no labels."""
PROBE_MINUTES = 1.5
"""Of its training, each time."""
STOPPING = 0.05
"""Share of the rows that tells it when to stop."""
_MEANT = frozenset({Reason.MISLABEL, Reason.CONTRADICTION})
"""Doubts about an answer, which a verified answer is above."""


class CurationOutcome(Struct, frozen=True, kw_only=True):
    """What curation found, and whether it was put to use."""

    rows: int
    """Training rows that were looked at."""
    doubted: int
    """Rows with at least one doubt."""
    dropped: int
    """Rows that are left out of training; 0 where leaving them out did not help."""
    would_drop: int
    """Rows whose quality is too low."""
    reasons: dict[str, int]
    """Doubted rows by reason; a row may have several."""
    examples: dict[str, list[str]]
    """Ids of some rows for each reason, the most doubtful first."""
    label_noise: float | None
    """Estimated share of wrong labels; None where answers are no single labels."""
    helps: bool
    gain: Interval | None
    """Loss of a small student on gate rows without curation minus that with it; None where none was trained."""
    judged_on: int
    """Gate rows that were compared."""
    judge: str
    """Which small student was trained both ways, or why none was."""
    kept: list[int] = []
    """Numbers of the training rows that are of good quality, where that is put to use."""


def curated(
    prepared: Prepared, work: Path, progress: Progress, *, seed: int, threads: int, examples: int
) -> tuple[Prepared, CurationOutcome]:
    """`prepared` with its training rows curated, if that helps.

    It helps if a small student that is trained without the doubted rows loses less on the gate's rows than one that is
    trained on all, by a paired 95 % interval that lies above 0.

    Args:
        prepared: rows in their parts.
        work: folder that keeps the decision for a pilot that is taken up again.
        progress: is told.
        seed: of the probes.
        threads: of the probes.
        examples: ids of rows to name for each reason.
    """
    path = work / FILE
    if path.is_file():
        outcome = msgspec.json.decode(path.read_bytes(), type=CurationOutcome)
    else:
        progress.stage(f"looking for doubts about {len(prepared.train):,} training rows")
        found = _found(prepared, seed)
        outcome = _decide(prepared, found, work, progress, seed=seed, threads=threads, examples=examples)
        write_file(path, msgspec.json.encode(outcome))
    if not outcome.helps:
        return prepared, outcome
    return replace(prepared, train=prepared.train.take(np.array(outcome.kept, dtype=np.int64))), outcome


def record_of(outcome: CurationOutcome) -> dict[str, Any]:
    """What the report keeps of it: all but the numbers of rows."""
    return {name: value for name, value in msgspec.to_builtins(outcome).items() if name != "kept"}


def quality_of(prepared: Prepared, seed: int) -> NDArray[np.float64]:
    """The quality of each training row in [0, 1], shape (n,)."""
    return _found(prepared, seed).quality


def _found(prepared: Prepared, seed: int) -> Curation:
    """Doubts about the training rows; a verified answer is not doubted."""
    train, labels = prepared.train, prepared.labels
    answers = [text_of(prepared.task, a) for a in train.reference]
    probabilities, given = None, None
    if labels is not None and not labels.multi and prepared.task == "classification":
        from tiercel.students.linear_training import cross_fitted

        view = cross_fitted(train.texts, train.targets, seed=seed).astype(np.float64)
        probabilities = view / view.sum(axis=1, keepdims=True)
        given = train.targets.argmax(axis=1).astype(np.int64)
    found = curate(train.texts, answers, probabilities=probabilities, labels=given, key=_same_answer)
    findings = tuple(f for f in found.findings if not (train.verified[f.row] and f.reason in _MEANT))
    quality = np.ones(len(train))
    for finding in findings:
        quality[finding.row] *= 1 - finding.doubt
    return Curation(quality=quality, findings=findings, label_noise=found.label_noise)


def _same_answer(answer: str) -> str:
    """One text for answers that mean the same: JSON whatever the order of its fields, else the text without case."""
    try:
        return json.dumps(json.loads(answer), sort_keys=True)
    except (ValueError, RecursionError):
        return " ".join(answer.casefold().split())


def _decide(
    prepared: Prepared,
    found: Curation,
    work: Path,
    progress: Progress,
    *,
    seed: int,
    threads: int,
    examples: int,
) -> CurationOutcome:
    kept = _kept(prepared.train, found)
    report = found.report(LEAST_QUALITY, examples)
    would_drop = len(prepared.train) - len(kept)
    gain, judge = None, "no row is in such doubt that it would be left out"
    if would_drop:
        gain, judge = _gain(prepared, kept, work, progress, seed=seed, threads=threads)
    helps = gain is not None and gain.low > 0
    return CurationOutcome(
        rows=report.rows,
        doubted=report.doubted,
        dropped=would_drop if helps else 0,
        would_drop=would_drop,
        reasons={c.reason.value: c.rows for c in report.reasons},
        examples={c.reason.value: [prepared.train.ids[i] for i in c.examples] for c in report.reasons if c.examples},
        label_noise=report.label_noise,
        helps=helps,
        gain=gain,
        judged_on=int(prepared.gate.parsed.sum()) if gain is not None else 0,
        judge=judge,
        kept=kept.tolist() if helps else [],
    )


def _kept(train: Rows, found: Curation) -> NDArray[np.int64]:
    """Rows of good quality; no label loses all of its rows."""
    good = found.quality >= LEAST_QUALITY
    if train.targets.shape[1]:
        lost = (train.targets.sum(axis=0) > 0) & (train.targets[good].sum(axis=0) == 0)
        good |= train.targets[:, lost].any(axis=1)
    return np.flatnonzero(good)


def _gain(
    prepared: Prepared, kept: NDArray[np.int64], work: Path, progress: Progress, *, seed: int, threads: int
) -> tuple[Interval | None, str]:
    """What a small student gains on the gate's rows when it is trained on `kept` alone, and which student."""
    rows = prepared.gate.take(np.flatnonzero(prepared.gate.parsed))
    if not len(rows):
        return None, "no gate row can judge"
    try:
        if prepared.task == "classification" and prepared.labels is not None:
            judge = "a linear student"
            progress.stage("training a linear student with and without the doubted rows")
            losses = [_linear_losses(prepared, part, rows) for part in (prepared.train, prepared.train.take(kept))]
        else:
            judge = f"a decoder of {PROBE_SIZE:,} parameters"
            losses = list[NDArray[np.float64]]()
            for number, part in enumerate((prepared.train, prepared.train.take(kept))):
                progress.stage(f"training {judge} {'without' if number else 'with'} the doubted rows")
                folder = make_folder(work / f"curation.{number}")
                losses.append(_decoder_losses(prepared.task, part, rows, folder, progress, seed, threads))
    except (DataError, MissingExtraError, ImportError) as error:
        return None, f"no student could be trained to judge: {error}"
    return mean_interval(losses[0] - losses[1], -1.0, 1.0, seed=seed), judge


def _linear_losses(prepared: Prepared, train: Rows, rows: Rows) -> NDArray[np.float64]:
    from tiercel.students.linear_training import fit_linear

    labels = prepared.labels
    assert labels is not None
    student = fit_linear(train.texts, train.targets, multi=labels.multi)
    decided = labels.decide(student.predict(rows.texts).probabilities)
    return (decided.astype(np.bool_) != rows.targets.astype(np.bool_)).any(axis=1).astype(np.float64)


def _decoder_losses(
    task: str, train: Rows, rows: Rows, folder: Path, progress: Progress, seed: int, threads: int
) -> NDArray[np.float64]:
    """By words, since tokenizers of other rows are others."""
    from tiercel.students.held_out import word_losses
    from tiercel.students.micro import MicroStudent
    from tiercel.students.micro_scoring import answer_nll
    from tiercel.students.micro_training import MicroPlan, train_micro

    pairs = _pairs(task, train)
    # Whether a row stops or trains hangs on its request alone, so that both students are stopped by the same rows.
    order = np.argsort([_draw(t, seed) for t in train.texts])
    held = max(8, round(STOPPING * len(pairs)))
    plan = MicroPlan(size=PROBE_SIZE, minutes=PROBE_MINUTES)
    with guarded(folder):
        train_micro(
            [pairs[i] for i in order[held:]],
            [pairs[i] for i in order[:held]],
            folder,
            plan,
            seed=seed,
            threads=threads,
            progress=progress.step,
        )
        student = MicroStudent.load(folder)
    asked = _pairs(task, rows)
    found = word_losses(answer_nll(student.decoder, student.tokenizer, asked).tolist(), [a for _, a in asked])
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _pairs(task: str, rows: Rows) -> list[tuple[str, str]]:
    return [(t, text_of(task, a)) for t, a in zip(rows.texts, rows.reference, strict=True)]


def _draw(text: str, seed: int) -> int:
    """A number that hangs on text and seed alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{text}".encode("utf-8", "replace"), digest_size=8).digest())
