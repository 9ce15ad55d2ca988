"""One form of the encoder, frozen or tuned, from training rows to what serves; it lies in a folder of its own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.flows.candidates import LadderSettings, Stage, finished
from tiercel.flows.doubts import outside_view
from tiercel.flows.encoders import token_limit
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, replace_folder, write_file
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.students.prediction import Student
from tiercel.tasks.labels import LabelSet

if TYPE_CHECKING:
    from tiercel.students.encoder_training import TrainingPlan

__all__ = ["take_verdict", "train_encoder", "training_plan", "tuning_is_short"]

SOFTNESS = 0.3
"""Weight of the linear rungs' opinion in the labels that an encoder is tuned on."""
MOST_SHORT_CHARACTERS = 800_000
"""Characters times epochs of a tuning that is done several times over: a minute on two cores."""
FEWEST_NUMBERED = 0.2
"""Share of requests with numbers from which it is worth asking whether the numbers matter."""
MOST_COMPARED = 3_000
"""Training rows on which that is asked."""
VERDICT = "plain_numbers"
"""File of the work folder that keeps the answer."""


def _labels(prepared: Prepared) -> LabelSet:
    """The labels of a workload of classification."""
    assert prepared.labels is not None
    return prepared.labels


def training_plan(prepared: Prepared) -> TrainingPlan:
    """Settings of fine-tuning for this many rows and labels: more labels need more steps, more rows a larger batch."""
    from tiercel.students.encoder_training import TrainingPlan

    n, k = len(prepared.train), len(_labels(prepared).labels)
    batch = 64 if n >= 8_000 else 32
    epochs = round((300 + 8 * k) * batch / n)
    return TrainingPlan(epochs=int(np.clip(epochs, 3, 7)), learning_rate=1e-4 * batch / 32, batch=batch)


def tuning_is_short(prepared: Prepared) -> bool:
    """Whether an encoder is tuned so quickly on these rows that several can be."""
    return sum(map(len, prepared.train.texts)) * training_plan(prepared).epochs <= MOST_SHORT_CHARACTERS


def train_encoder(
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
    trainer = EncoderTrainer(
        base,
        max_tokens=longest,
        multi=multi,
        seed=settings.seed + (name == "encoder-twin"),
        threads=settings.threads,
        plain_numbers=_numbers_say_little(base, longest, prepared, settings, progress),
    )
    if name != "encoder-frozen":
        plan = training_plan(prepared)
        softened = _softened(prepared, settings)
        progress.stage(f"fine-tuning the encoder on {len(train):,} rows, {plan.epochs} epochs")
        checkpoint = settings.work / f"{name}.checkpoint"
        with guarded(checkpoint):
            trainer.fine_tune(train.texts, softened, plan, checkpoint=checkpoint, progress=progress.step)
    progress.stage(f"embedding {len(train):,} training rows")
    clock = time.perf_counter()
    embedding = trainer.embed(train.texts, progress.step, quick=True)
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

    verdict = settings.work / VERDICT
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
            embedding = trainer.embed(rows.texts, progress.step, quick=True)
            likelihood = cross_fitted_head(embedding, rows.targets, seed=settings.seed)
            log_losses.append(-np.log(np.maximum((likelihood * rows.targets).sum(axis=1), 1e-9)))
        gain = log_losses[0] - log_losses[1]
        found = bool(gain.mean() > gain.std() / np.sqrt(len(gain)))
    write_file(verdict, b"yes" if found else b"no")
    return found


def take_verdict(work: Path, other: Path) -> None:
    """Take over into another work folder whether numbers matter, where that was asked."""
    if (work / VERDICT).is_file():
        write_file(other / VERDICT, (work / VERDICT).read_bytes())


def _softened(prepared: Prepared, settings: LadderSettings) -> NDArray[np.float32]:
    """Training labels, mixed with what linear rungs that did not see a row make of it; shape (n, k).

    A label that contradicts similar rows (the frontier erred, or is of two minds) is then learnt with less conviction,
    which costs no accuracy and ranks answers better for the gate.

    Source: Reed et al., "Training deep neural networks on noisy labels with bootstrapping", 2015 (soft targets), here
    cross-fitted so that no row vouches for its own label.
    """
    others = outside_view(prepared, settings.work, settings.seed)
    return ((1 - SOFTNESS) * prepared.train.targets + SOFTNESS * others).astype(np.float32)


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
