"""The ladder of classification: a linear model, a frozen encoder, a tuned one, and several of them together.

Each finished rung lies in a folder of its own under the pilot's work folder; a pilot that was cut off takes it from
there.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

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
from tiercel.flows.doubts import outside_view
from tiercel.flows.encoders import MissingRungError, find_encoder, token_limit
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, replace_folder, write_file
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.students.blend import BlendedPrediction, BlendedStudent, blend, fit_powers
from tiercel.students.linear import LinearStudent
from tiercel.students.prediction import Prediction, Student
from tiercel.students.response import Responses
from tiercel.tasks.labels import LabelSet

__all__ = ["climb_classification"]

SOFTNESS = 0.3
"""Weight of the other rows' opinion in the labels that the encoder is tuned on."""
MOST_TWIN_CHARACTERS = 800_000
"""Characters times epochs up to which a second encoder is tuned with another seed: two minutes on two cores."""
FEWEST_NUMBERED = 0.2
"""Share of requests with numbers from which it is worth asking whether the numbers matter."""
MOST_COMPARED = 3_000
"""Training rows on which that is asked."""
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
    wanted = settings.students
    parts = parts_of(prepared)
    candidates, skipped, rungs = list[Candidate](), list[Skipped](), _Rungs()
    linear, rungs.stages["linear"] = _linear(prepared, settings, progress)
    rungs.students["linear"] = linear
    rungs.predictions["linear"] = {name: linear.predict(rows.texts) for name, rows in parts.items()}

    def train(name: str) -> float:
        student, rungs.stages[name], rungs.nearest[name], seconds = _encoder(name, base, prepared, settings, progress)
        rungs.students[name] = student
        rungs.predictions[name] = _predictions(settings.work / name, student, parts, progress)
        return seconds

    def offer(name: str, members: tuple[str, ...], stage: Stage) -> None:
        candidates.append(_candidate(name, members, stage, rungs, prepared, settings))

    if wanted is None or "linear" in wanted:
        offer("linear", ("linear",), rungs.stages["linear"])
    if wanted is not None and "encoder" not in wanted:
        return candidates, skipped
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        skipped.append(Skipped(name="encoder", rung="encoder", why="the linear rung leaves too little to win"))
        return candidates, skipped
    try:
        base = find_encoder(settings, progress)
    except MissingRungError as error:
        skipped.append(Skipped(name="encoder", rung="encoder", why=str(error)))
        return candidates, skipped
    seconds_a_row = train("encoder-frozen")
    offer("encoder-frozen", ("encoder-frozen", "linear"), rungs.stages["encoder-frozen"])
    estimate = seconds_a_row * len(prepared.train) * 3.5 * _plan(prepared).epochs
    why = ""
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        why = "the frozen encoder leaves too little to win"
    elif wanted is None and estimate > SLOWEST_TRAINING_S:
        why = f"it would train for about {estimate / 60:.0f} minutes; ask for it with --students encoder"
    if why:
        skipped.append(Skipped(name="encoder-tuned", rung="encoder", why=why))
        return candidates, skipped
    train("encoder-tuned")
    offer("encoder-tuned", ("encoder-tuned", "linear"), rungs.stages["encoder-tuned"])
    if candidates[-1].expected_offload < ENOUGH_OFFLOAD:
        # The frozen encoder knows what tuning made the other forget; asking both costs no training, but twice the time.
        members = ("encoder-tuned", "encoder-frozen")
        stage = _joint(rungs.stages, members, 0.0, "tuned and frozen encoder together")
        offer("encoder-pair", (*members, "linear"), stage)
        if sum(map(len, prepared.train.texts)) * _plan(prepared).epochs <= MOST_TWIN_CHARACTERS:
            members = ("encoder-tuned", "encoder-twin")
            train("encoder-twin")
            seconds = rungs.stages["encoder-twin"].train_seconds
            stage = _joint(rungs.stages, members, seconds, "two tuned encoders of other seeds")
            offer("encoder-twins", (*members, "linear"), stage)
    return candidates, skipped


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


def _plan(prepared: Prepared) -> Any:
    """Settings of fine-tuning for this many rows and labels: more labels need more steps, more rows a larger batch."""
    from tiercel.students.encoder_training import TrainingPlan

    n, k = len(prepared.train), len(_labels(prepared).labels)
    batch = 64 if n >= 8_000 else 32
    epochs = round((300 + 8 * k) * batch / n)
    return TrainingPlan(epochs=int(np.clip(epochs, 3, 7)), learning_rate=1e-4 * batch / 32, batch=batch)


def _encoder(
    name: str, base: Path, prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[Student, Stage, Neighbourhood, float]:
    """Train or take up one form of the encoder; also seconds that one row takes to embed (0 when taken up)."""
    from tiercel.students.encoder import EncoderStudent
    from tiercel.students.encoder_training import EncoderTrainer, fold_standardisation
    from tiercel.students.linear_training import fit_head

    folder = settings.work / name
    if (stage := finished(folder)) is not None:
        near = Neighbourhood.load(folder)
        return EncoderStudent.load(folder, threads=settings.threads), stage, near, 0.0
    train, multi = prepared.train, _labels(prepared).multi
    started = time.perf_counter()
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    longest = token_limit(base, train.texts)
    seed = settings.seed + (name == "encoder-twin")
    trainer = EncoderTrainer(
        base,
        max_tokens=longest,
        multi=multi,
        seed=seed,
        threads=settings.threads,
        plain_numbers=_numbers_say_little(base, longest, prepared, settings, progress),
    )
    if name != "encoder-frozen":
        plan = _plan(prepared)
        progress.stage(f"fine-tuning the encoder on {len(train):,} rows, {plan.epochs} epochs")
        checkpoint = settings.work / f"{name}.checkpoint"
        with guarded(checkpoint):
            softened = _softened(prepared, settings)
            trainer.fine_tune(train.texts, softened, plan, checkpoint=checkpoint, progress=progress.step)
    progress.stage(f"embedding {len(train):,} training rows")
    clock = time.perf_counter()
    embedding = trainer.embed(train.texts, progress.step)
    seconds = (time.perf_counter() - clock) / len(train)
    if name != "encoder-frozen":
        weights, bias = trainer.head_arrays()
    else:
        centre, scale = fold_standardisation(embedding)
        weights, bias = fit_head((embedding - centre) / scale, train.targets, multi=multi, strength=0.1)
        bias = (bias - (centre / scale) @ weights).astype(np.float32)
        weights = weights / scale[:, None]
    near = Neighbourhood.fit(embedding, train.targets, settings.seed)
    train_seconds = time.perf_counter() - started
    progress.stage("exporting to int8 and checking parity")
    student, precision, parity, note = _export(trainer, aside, weights, bias, longest, prepared, settings, base)
    stage = Stage(train_seconds=train_seconds, precision=precision, parity=parity, note=note)
    with guarded(folder):
        student.save(aside)
        near.save(aside)
        (aside / "stage.json").write_bytes(msgspec.json.encode(stage))
    replace_folder(aside, folder)
    return EncoderStudent.load(folder, threads=settings.threads), stage, near, seconds


def _numbers_say_little(
    base: Path, longest: int, prepared: Prepared, settings: LadderSettings, progress: Progress
) -> bool:
    """Whether a frozen encoder's head learns the labels better when every number reads as 0.

    Told by cross-fitted log loss on the training rows, and only where many have numbers; ties leave numbers alone.
    """
    from tiercel.students.encoder_training import EncoderTrainer
    from tiercel.students.linear_training import cross_fitted_head
    from tiercel.students.reading import merge_numbers

    verdict = settings.work / "plain_numbers"
    if verdict.is_file():
        return verdict.read_text() == "yes"
    train, multi = prepared.train, _labels(prepared).multi
    affected = np.mean([merge_numbers(t) != t for t in train.texts])
    found = False
    if affected >= FEWEST_NUMBERED and not multi:
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(train))[:MOST_COMPARED])
        rows = train.take(chosen)
        log_losses = list[NDArray[np.float64]]()
        for plain in (False, True):
            progress.stage(f"reading {len(rows):,} rows {'without' if plain else 'with'} their numbers")
            trainer = EncoderTrainer(base, max_tokens=longest, threads=settings.threads, plain_numbers=plain)
            likelihood = cross_fitted_head(trainer.embed(rows.texts, progress.step), rows.targets, seed=settings.seed)
            log_losses.append(-np.log(np.maximum((likelihood * rows.targets).sum(axis=1), 1e-9)))
        gain = log_losses[0] - log_losses[1]
        found = bool(gain.mean() > gain.std() / np.sqrt(len(gain)))
    write_file(verdict, b"yes" if found else b"no")
    return found


def _softened(prepared: Prepared, settings: LadderSettings) -> NDArray[np.float32]:
    """Training labels, mixed with what linear rungs that did not see a row make of it; shape (n, k).

    A label that contradicts similar rows (the frontier erred, or is of two minds) is then learnt with less conviction,
    which costs no accuracy and ranks answers better for the gate.

    Source: Reed et al., "Training deep neural networks on noisy labels with bootstrapping", 2015 (soft targets), here
    cross-fitted so that no row vouches for its own label.
    """
    train = prepared.train
    others = outside_view(prepared, settings.work, settings.seed)
    return ((1 - SOFTNESS) * train.targets + SOFTNESS * others).astype(np.float32)


def _export(
    trainer: Any,
    folder: Path,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    longest: int,
    prepared: Prepared,
    settings: LadderSettings,
    base: Path,
) -> tuple[Any, str, float, str]:
    """The served encoder: int8 where it decides as the trained one on at least 99.5 % of rows, else full precision."""
    from tiercel.compress.onnx_export import export_encoder, smallest_precision
    from tiercel.students.encoder import EncoderStudent
    from tiercel.students.linear import to_probabilities

    labels = _labels(prepared)
    multi = labels.multi
    full = folder / "full.onnx"
    export_encoder(trainer, full)
    shutil.copyfile(base / "tokenizer.json", folder / EncoderStudent.files[1])
    # The gate's rows and some of training's: the check may not look at calibration or test.
    texts = prepared.gate.texts + prepared.train.texts[:500]
    trained = to_probabilities(trainer.embed(texts) @ weights + bias, multi=multi)
    decided = labels.decide(trained)

    def build(precision: str) -> EncoderStudent:
        return EncoderStudent(
            folder,
            weights,
            bias,
            multi=multi,
            max_tokens=longest,
            precision=precision,
            threads=settings.threads,
            plain_numbers=trainer.plain_numbers,
        )

    def agreement(student: EncoderStudent) -> float:
        return float((labels.decide(student.predict(texts).probabilities) == decided).all(axis=1).mean())

    return smallest_precision(full, folder / EncoderStudent.files[0], build, agreement)


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
