"""The rung `micro`: train a decoder on the workload, convert it for llama.cpp, prove that it is served as trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.flows.candidates import (
    Candidate,
    LadderSettings,
    Skipped,
    Stage,
    answered_candidate,
    finished,
    folder_size,
)
from tiercel.flows.doubts import outside_view
from tiercel.flows.explaining import rationales_of, said_of_rationales
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.held_form import form_of, schema_of, taught_answers
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.rungs import attempt
from tiercel.flows.served_model import convert_and_check
from tiercel.flows.staged_training import choose_way, difficulties, said_of
from tiercel.flows.storage import guarded, make_folder, replace_folder
from tiercel.students.known_words import KnownWords
from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.flows.teaching import MicroTeaching
    from tiercel.students.micro_sql import SqlLesson

__all__ = ["climb_micro"]

PLAN: dict[str, Any] = {"minutes": 25.0}
"""Settings of training that are not `MicroPlan`'s own."""
HELD_OUT = 0.05
"""Share of the training rows that tell when to stop."""


def climb_micro(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """Train the decoder, or say why not; see `tiercel.flows.ladder.climb`.

    Raises:
        TiercelError: it is all that was asked for and can't be trained here.
    """
    candidates, skipped = list[Candidate](), list[Skipped]()
    with attempt("micro", candidates, skipped, settings, progress):
        student, stage = _trained(prepared, settings, progress)
        size = folder_size(settings.work / "micro")
        candidates.append(answered_candidate("micro", student, stage, size, prepared, settings, progress))
    return candidates, skipped


def _trained(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[Generator, Stage]:
    """The served student, trained here or taken up from finished work.

    Raises:
        DataError: too few rows can be trained on.
        ParityError: what would be served is not what was trained.
        MissingExtraError: a library is not installed.
    """
    from tiercel.flows.teaching import teach_micro
    from tiercel.students.micro_labels import label_plan
    from tiercel.students.micro_training import MicroPlan, MicroTraining, train_micro

    folder = settings.work / "micro"
    if (stage := finished(folder)) is not None:
        return Generator.load(folder, threads=settings.threads), stage
    train = prepared.train
    rows = list(zip(train.texts, taught_answers(prepared, train), strict=True))
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    held = max(8, round(HELD_OUT * len(rows)))
    if len(rows) < 5 * held:
        raise DataError(f"{len(rows)} training rows are too few for a decoder; collect more traffic")
    plan = MicroPlan(**PLAN)
    sized = {"size": settings.micro_size} if settings.micro_size else {}
    limit = f", {plan.minutes:.0f} minutes at the most" if plan.minutes else ""
    progress.stage(f"training a decoder on {len(rows) - held:,} rows{limit}")
    taught, stopping = [rows[i] for i in order[held:]], [rows[i] for i in order[:held]]
    lesson = _sql_lesson(prepared, taught, stopping)
    if lesson is not None:
        taught, stopping, plan = lesson.rows, lesson.held_out, replace(plan, keep="right")
    rationales = rationales_of([train.metadata[i] for i in order[held:]])
    teaching = teach_micro(settings, taught, progress)
    if prepared.task == "classification":
        teaching = _labels_taught(prepared, settings, order[held:], taught, rationales, teaching)
        assert teaching.tokenizer is not None
        plan = label_plan(teaching.tokenizer, len(taught), plan.minutes)
    plan = replace(plan, **sized)

    def train_once(name: str, difficulty: Sequence[float] | None) -> MicroTraining:
        folder = settings.work / name
        with guarded(folder):
            return train_micro(
                taught,
                stopping,
                make_folder(folder),
                plan,
                seed=settings.seed,
                threads=settings.threads,
                checkpoint=folder.with_suffix(".checkpoint"),
                progress=progress.step,
                difficulty=difficulty,
                loss=teaching.loss,
                further=teaching.further,
                tokenizer=teaching.tokenizer,
                variation=lesson.variation if lesson else None,
                rationales=rationales,
            )

    difficulty = None
    if settings.curriculum:
        by_row = difficulties(prepared, [a for _, a in rows], settings.seed)
        difficulty = [by_row[i] for i in order[held:]]
    told, name, verdict = choose_way(
        "micro-trained",
        train_once,
        MicroTraining,
        difficulty,
        [a for _, a in stopping],
        settings.work,
        progress,
        seed=settings.seed,
    )
    trained = settings.work / name
    for warning in told.warnings:
        progress.warn(warning)
    schema, grammar = form_of(prepared, progress)
    record = GeneratorRecord(
        task=prepared.task,
        rung="micro",
        context=told.shape.context,
        max_tokens=told.shape.answer,
        precision="q8_0",
        schema=schema,
        grammar=grammar,
        values=lesson.placeholders.values if lesson and lesson.placeholders else None,
        texts=lesson.texts if lesson else None,
        one_token=_one_token(prepared, trained),
    )
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside / "generator")
    known = KnownWords.of(text for text, _ in (*taught, *stopping))
    note = f"{told.shape}; held-out loss {min(told.losses):.3f} after {told.steps:,} steps"
    note += teaching.said + said_of_rationales(rationales) + said_of(verdict)
    record, parity, more = convert_and_check(
        trained,
        aside,
        record,
        known,
        prepared,
        settings,
        progress,
        taught=[((Message(role="user", content=text),), answer) for text, answer in taught],
    )
    stage = Stage(train_seconds=told.seconds, precision=record.precision, parity=parity, note=note + more)
    with guarded(folder):
        (aside / "stage.json").write_bytes(msgspec.json.encode(stage))
    replace_folder(aside, folder)
    for left in ("micro-trained", "micro-trained-staged", "micro-tokenizer"):
        shutil.rmtree(settings.work / left, ignore_errors=True)
    return Generator.load(folder, threads=settings.threads), stage


def _sql_lesson(
    prepared: Prepared, rows: Sequence[tuple[str, str]], held_out: Sequence[tuple[str, str]]
) -> SqlLesson | None:
    """How rows of SQL are learnt; None for another task."""
    from tiercel.students.micro_sql import sql_lesson

    if prepared.task != "sql":
        return None
    return sql_lesson(rows, held_out, database=prepared.database, schema=schema_of(prepared))


def _labels_taught(
    prepared: Prepared,
    settings: LadderSettings,
    numbers: NDArray[np.int64],
    taught: Sequence[tuple[str, str]],
    rationales: Sequence[str] | None,
    teaching: MicroTeaching,
) -> MicroTeaching:
    """The teaching with a tokenizer; without a teacher single labels are softened, as for the encoder.

    Args:
        prepared: the workload.
        settings: of the ladder.
        numbers: of the training rows that are taught, shape (n,).
        taught: their requests and answers.
        rationales: of them.
        teaching: by the user's teacher, if there is one.
    """
    from tiercel.students.micro_labels import are_one_token, softened_loss
    from tiercel.students.micro_vocabulary import train_tokenizer

    labels = prepared.labels
    if teaching.tokenizer is not None:
        return teaching
    with guarded(settings.work):
        tokenizer = train_tokenizer(taught, settings.work / "micro-tokenizer", beside=rationales or ())
    teaching = replace(teaching, tokenizer=tokenizer)
    if labels is None or labels.multi or not are_one_token(tokenizer, labels.labels):
        return teaching
    view = outside_view(prepared, settings.work, settings.seed)[numbers]
    return replace(teaching, loss=softened_loss(tokenizer, labels.labels, view))


def _one_token(prepared: Prepared, trained: Path) -> tuple[str, ...]:
    """The labels, where an answer is one of them and each is one token of the trained vocabulary; else nothing."""
    from tiercel.students.micro_labels import are_one_token
    from tiercel.students.micro_tokenizer import MicroTokenizer

    labels = prepared.labels
    if prepared.task != "classification" or labels is None or labels.multi:
        return ()
    return labels.labels if are_one_token(MicroTokenizer(trained), labels.labels) else ()
