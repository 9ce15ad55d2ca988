"""The ladder of classification: a linear model, a frozen encoder, a tuned one, and several of them together.

Each finished rung lies in a folder of its own under the pilot's work folder; a pilot that was cut off takes it from
there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiercel.flows.candidates import (
    ENOUGH_OFFLOAD,
    Candidate,
    LadderSettings,
    Skipped,
    Stage,
    finish,
    finished,
    folder_size,
    make_candidate,
    parts_of,
)
from tiercel.flows.classifier import Classifier
from tiercel.flows.encoder_rung import train_encoder, training_plan, tuning_is_short
from tiercel.flows.encoders import MissingRungError, find_encoder
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.rungs import Attempt, attempt
from tiercel.flows.storage import guarded
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.students.blend import BlendedPrediction, BlendedStudent, blend, fit_powers
from tiercel.students.linear import LinearStudent
from tiercel.students.prediction import Prediction, Student
from tiercel.students.response import Responses
from tiercel.tasks.labels import LabelSet

__all__ = ["climb_classification"]

SLOWEST_TRAINING_S = 3_600.0
"""`auto` leaves out a rung that would train longer than this."""


@dataclass(kw_only=True)
class _Rungs:
    """Finished rungs of one climb.

    Attributes:
        students: by name.
        stages: what is known of each.
        predictions: of each, by part.
        nearest: where a request lies among the training rows, for encoders.
    """

    students: dict[str, Student] = field(default_factory=dict[str, Student])
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    predictions: dict[str, dict[str, Prediction]] = field(default_factory=dict[str, dict[str, Prediction]])
    nearest: dict[str, Neighbourhood] = field(default_factory=dict[str, Neighbourhood])


def climb_classification(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """Train the rungs of classification that are worth training; see `tiercel.flows.ladder.climb`."""
    candidates, skipped = list[Candidate](), list[Skipped]()
    with attempt("linear", candidates, skipped, settings, progress) as going:
        _climb(prepared, settings, progress, candidates, skipped, going)
    return candidates, skipped


def _climb(
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
    candidates: list[Candidate],
    skipped: list[Skipped],
    going: Attempt,
) -> None:
    """Add candidates and what is skipped to the lists; `going` is told which form is being trained."""
    wanted = settings.students
    parts = parts_of(prepared)
    rungs = _Rungs()
    linear, rungs.stages["linear"] = _linear(prepared, settings, progress)
    rungs.students["linear"] = linear
    rungs.predictions["linear"] = {name: linear.predict(rows.texts) for name, rows in parts.items()}

    def train(name: str) -> float:
        going.name = name
        student, rungs.stages[name], rungs.nearest[name], seconds = train_encoder(
            name, base, prepared, settings, progress
        )
        rungs.students[name] = student
        rungs.predictions[name] = _predictions(settings.work / name, student, parts, progress)
        return seconds

    def offer(name: str, members: tuple[str, ...], stage: Stage) -> None:
        candidates.append(_candidate(name, members, stage, rungs, prepared, settings))

    if wanted is None or "linear" in wanted:
        offer("linear", ("linear",), rungs.stages["linear"])
    if wanted is not None and "encoder" not in wanted:
        return
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        skipped.append(Skipped(name="encoder", rung="encoder", why="the linear rung leaves too little to win"))
        return
    try:
        base = find_encoder(settings, progress)
    except MissingRungError as error:
        skipped.append(Skipped(name="encoder", rung="encoder", why=str(error)))
        return
    seconds_a_row = train("encoder-frozen")
    offer("encoder-frozen", ("encoder-frozen", "linear"), rungs.stages["encoder-frozen"])
    estimate = seconds_a_row * len(prepared.train) * 3.5 * training_plan(prepared).epochs
    why = ""
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        why = "the frozen encoder leaves too little to win"
    elif wanted is None and estimate > SLOWEST_TRAINING_S:
        why = f"it would train for about {estimate / 60:.0f} minutes; ask for it with --students encoder"
    if why:
        skipped.append(Skipped(name="encoder-tuned", rung="encoder", why=why))
        return
    train("encoder-tuned")
    offer("encoder-tuned", ("encoder-tuned", "linear"), rungs.stages["encoder-tuned"])
    if candidates[-1].expected_offload < ENOUGH_OFFLOAD:
        # The frozen encoder knows what tuning made the other forget; asking both costs no training, but twice the time.
        members = ("encoder-tuned", "encoder-frozen")
        stage = _joint(rungs.stages, members, 0.0, "tuned and frozen encoder together")
        offer("encoder-pair", (*members, "linear"), stage)
        if tuning_is_short(prepared):
            members = ("encoder-tuned", "encoder-twin")
            train("encoder-twin")
            seconds = rungs.stages["encoder-twin"].train_seconds
            stage = _joint(rungs.stages, members, seconds, "two tuned encoders of other seeds")
            offer("encoder-twins", (*members, "linear"), stage)


def _labels(prepared: Prepared) -> LabelSet:
    """The labels of a workload of classification."""
    assert prepared.labels is not None
    return prepared.labels


def _joint(stages: dict[str, Stage], members: tuple[str, ...], train_seconds: float, note: str) -> Stage:
    """What is known of encoders that answer together; training that they share with other candidates is not counted."""
    found = [stages[m] for m in members]
    precision = " + ".join(s.precision for s in found)
    parity = min(s.parity for s in found if s.parity is not None)
    return Stage(train_seconds=train_seconds, precision=precision, parity=parity, note=note)


def _candidate(
    name: str,
    members: tuple[str, ...],
    stage: Stage,
    rungs: _Rungs,
    prepared: Prepared,
    settings: LadderSettings,
) -> Candidate:
    """Rungs that answer together, blended by powers fitted on the gate's rows."""
    labels = _labels(prepared)
    views = [rungs.predictions[m] for m in members]
    known = prepared.gate.parsed
    powers = fit_powers(
        [v["gate"].probabilities[known] for v in views], prepared.gate.targets[known], multi=labels.multi
    )
    student = BlendedStudent([rungs.students[m] for m in members], powers, multi=labels.multi)
    responder = Classifier(student, labels, prepared.train.targets.mean(axis=0), rungs.nearest.get(members[0]))
    responses: dict[str, Responses] = {}
    for part, rows in parts_of(prepared).items():
        seen = [v[part] for v in views]
        together = blend([p.probabilities for p in seen], powers, multi=labels.multi)
        responses[part] = responder.respond_from(BlendedPrediction(together, seen), rows.texts)
    size = sum(folder_size(settings.work / m) for m in members)
    return make_candidate(name, responder, stage, responses, size, prepared, settings)


def _linear(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[LinearStudent, Stage]:
    from tiercel.students.linear_training import fit_linear

    folder = settings.work / "linear"
    if (stage := finished(folder)) is not None:
        return LinearStudent.load(folder), stage
    progress.stage(f"training linear on {len(prepared.train):,} rows")
    started = time.perf_counter()
    train = prepared.train
    student = fit_linear(train.texts, train.targets, multi=_labels(prepared).multi)
    stage = Stage(train_seconds=time.perf_counter() - started)
    finish(folder, stage, student.save)
    return student, stage


def _predictions(folder: Path, student: Student, parts: dict[str, Rows], progress: Progress) -> dict[str, Prediction]:
    """Predictions of each part's rows by the served student, kept beside it for a pilot that is taken up again."""
    cache = folder / "predictions.npz"
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            return {
                name: Prediction(
                    probabilities=stored[f"{name}_p"], embedding=stored[f"{name}_e"], familiarity=stored[f"{name}_f"]
                )
                for name in parts
            }
    progress.stage("answering the rows set aside")
    result: dict[str, Prediction] = {}
    total, done = sum(map(len, parts.values())), 0
    arrays: dict[str, Any] = {}
    for name, rows in parts.items():
        pieces = list[Prediction]()
        for start in range(0, len(rows), 512):
            pieces.append(student.predict(rows.texts[start : start + 512]))
            done += len(rows.texts[start : start + 512])
            progress.step(done, total)
        result[name] = Prediction(
            probabilities=np.concatenate([p.probabilities for p in pieces]),
            embedding=np.concatenate([p.embedding for p in pieces if p.embedding is not None]),
            familiarity=np.concatenate([p.familiarity for p in pieces]),
        )
        arrays |= {
            f"{name}_p": result[name].probabilities,
            f"{name}_e": result[name].embedding,
            f"{name}_f": result[name].familiarity,
        }
    aside = cache.with_name("predictions.part.npz")
    with guarded(cache):
        np.savez(aside, **arrays)
        aside.replace(cache)
    return result
