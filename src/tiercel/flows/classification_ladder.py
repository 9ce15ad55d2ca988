"""The ladder of classification: a linear model, a frozen encoder, a tuned one, and several of them together.

Each finished rung lies in a folder of its own under the pilot's work folder; a pilot that was cut off takes it from
there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
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
from tiercel.flows.encoder_rung import take_verdict, train_encoder, training_plan, tuning_is_short
from tiercel.flows.encoders import MissingRungError, find_encoder
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.rungs import Attempt, attempt
from tiercel.flows.storage import guarded, make_folder
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.students.blend import BlendedPrediction, BlendedStudent, blend, fit_powers
from tiercel.students.linear import LinearStudent
from tiercel.students.prediction import Prediction, Student
from tiercel.students.response import Responses
from tiercel.tasks.labels import LabelSet

__all__ = ["climb_classification"]

SLOWEST_TRAINING_S = 3_600.0
"""`auto` leaves out a rung that would train longer than this."""
WORTH_REFITTING = 0.1
"""The gate's rows over the training rows, from which the chosen rungs are trained once more with both."""


@dataclass(kw_only=True)
class _Rungs:
    """Finished rungs of one climb.

    Attributes:
        prepared: rows that they are trained on, and those that they are not.
        settings: of the climb.
        progress: is told what is trained.
        parts: rows that they answer, by name.
        going: is told the name of what is trained.
        base: folder of the pretrained encoder, once it is needed.
        students: by name.
        stages: what is known of each.
        predictions: of each, by part.
        nearest: where a request lies among the training rows, for encoders.
    """

    prepared: Prepared
    settings: LadderSettings
    progress: Progress
    parts: dict[str, Rows]
    going: Attempt
    base: Path | None = None
    students: dict[str, Student] = field(default_factory=dict[str, Student])
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    predictions: dict[str, dict[str, Prediction]] = field(default_factory=dict[str, dict[str, Prediction]])
    nearest: dict[str, Neighbourhood] = field(default_factory=dict[str, Neighbourhood])

    def train(self, name: str) -> float:
        """Train a rung and have it answer; the seconds that an encoder takes to embed a row (0 when taken up)."""
        self.going.name = name
        if name == "linear":
            student, self.stages[name] = _linear(self.prepared, self.settings, self.progress)
            self.students[name] = student
            self.predictions[name] = {part: student.predict(rows.texts) for part, rows in self.parts.items()}
            return 0.0
        assert self.base is not None
        student, self.stages[name], self.nearest[name], seconds = train_encoder(
            name, self.base, self.prepared, self.settings, self.progress
        )
        self.students[name] = student
        self.predictions[name] = _predictions(self.settings.work / name, student, self.parts, self.progress)
        return seconds

    def answering(self, members: tuple[str, ...], powers: tuple[float, ...]) -> tuple[Classifier, dict[str, Responses]]:
        """Rungs that answer together, and their responses to each part's rows."""
        labels = _labels(self.prepared)
        student = BlendedStudent([self.students[m] for m in members], powers, multi=labels.multi)
        base_rates = self.prepared.train.targets.mean(axis=0)
        responder = Classifier(student, labels, base_rates, self.nearest.get(members[0]))
        responses: dict[str, Responses] = {}
        for part, rows in self.parts.items():
            seen = [self.predictions[m][part] for m in members]
            together = blend([p.probabilities for p in seen], powers, multi=labels.multi)
            responses[part] = responder.respond_from(BlendedPrediction(together, seen), rows.texts)
        return responder, responses

    def size(self, members: tuple[str, ...]) -> int:
        """Bytes of the files of these rungs."""
        return sum(folder_size(self.settings.work / m) for m in members)


def climb_classification(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """Train the rungs of classification that are worth training; see `tiercel.flows.ladder.climb`."""
    candidates, skipped = list[Candidate](), list[Skipped]()
    with attempt("linear", candidates, skipped, settings, progress) as going:
        rungs = _Rungs(prepared=prepared, settings=settings, progress=progress, parts=parts_of(prepared), going=going)
        _climb(rungs, candidates, skipped)
    return candidates, skipped


def _climb(rungs: _Rungs, candidates: list[Candidate], skipped: list[Skipped]) -> None:
    """Train rung after rung and add to the lists, which keep what was found should one fail."""
    prepared, settings = rungs.prepared, rungs.settings
    wanted = settings.students

    def offer(name: str, members: tuple[str, ...], stage: Stage) -> None:
        candidates.append(_candidate(name, members, stage, rungs))

    rungs.train("linear")
    if wanted is None or "linear" in wanted:
        offer("linear", ("linear",), rungs.stages["linear"])
    if wanted is not None and "encoder" not in wanted:
        return
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        skipped.append(Skipped(name="encoder", rung="encoder", why="the linear rung leaves too little to win"))
        return
    rungs.going.name = "encoder"
    try:
        rungs.base = find_encoder(settings, rungs.progress)
    except MissingRungError as error:
        skipped.append(Skipped(name="encoder", rung="encoder", why=str(error)))
        return
    seconds_a_row = rungs.train("encoder-frozen")
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
    rungs.train("encoder-tuned")
    offer("encoder-tuned", ("encoder-tuned", "linear"), rungs.stages["encoder-tuned"])
    if candidates[-1].expected_offload < ENOUGH_OFFLOAD:
        # The frozen encoder knows what tuning made the other forget; asking both costs no training, but twice the time.
        members = ("encoder-tuned", "encoder-frozen")
        stage = _joint(rungs.stages, members, 0.0, "tuned and frozen encoder together")
        offer("encoder-pair", (*members, "linear"), stage)
        if tuning_is_short(prepared):
            members = ("encoder-tuned", "encoder-twin")
            rungs.train("encoder-twin")
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


def _candidate(name: str, members: tuple[str, ...], stage: Stage, rungs: _Rungs) -> Candidate:
    """Rungs that answer together, blended by powers fitted on the gate's rows."""
    gate, multi = rungs.prepared.gate, _labels(rungs.prepared).multi
    views = [rungs.predictions[m]["gate"].probabilities[gate.parsed] for m in members]
    powers = fit_powers(views, gate.targets[gate.parsed], multi=multi)
    responder, responses = rungs.answering(members, powers)
    found = make_candidate(name, responder, stage, responses, rungs.size(members), rungs.prepared, rungs.settings)
    tuned = any(m in members for m in ("encoder-tuned", "encoder-twin"))
    if len(gate) < WORTH_REFITTING * len(rungs.prepared.train) or (tuned and not tuning_is_short(rungs.prepared)):
        return found
    return replace(found, refit=lambda: _refitted(found, members, powers, rungs))


def _refitted(found: Candidate, members: tuple[str, ...], powers: tuple[float, ...], rungs: _Rungs) -> Candidate:
    """The same rungs trained once more, on the gate's rows too.

    Powers, and the signals and losses that the gate learns from, stay those of the rungs that had not seen the gate's
    rows. Calibration and test rows are answered by what will serve.
    """
    first, progress = rungs.prepared, rungs.progress
    progress.stage(f"once more with the gate's rows: {found.name}")
    known = first.gate.take(np.flatnonzero(first.gate.parsed))
    work = make_folder(rungs.settings.work / "refit")
    take_verdict(rungs.settings.work, work)
    again = _Rungs(
        prepared=replace(first, train=first.train + known),
        settings=replace(rungs.settings, work=work),
        progress=progress,
        parts={part: rows for part, rows in rungs.parts.items() if part != "gate"},
        going=Attempt(found.name),
        base=rungs.base,
    )
    for member in members:
        again.train(member)
    responder, responses = again.answering(members, powers)
    encoders = tuple(m for m in members if m != "linear") or members
    stage = again.stages[encoders[0]]
    if len(encoders) > 1:
        stage = _joint(again.stages, encoders, 0.0, found.stage.note)
    more = sum(again.stages[m].train_seconds for m in members)
    note = f"{stage.note}; " * bool(stage.note) + f"trained once more with the gate's {len(known):,} rows"
    return make_candidate(
        found.name,
        responder,
        msgspec.structs.replace(stage, train_seconds=found.stage.train_seconds + more, note=note),
        {"gate": found.responses["gate"], **responses},
        again.size(members),
        first,
        rungs.settings,
    )


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
