"""The rung `micro`: train a decoder on the workload, convert it for llama.cpp, prove that it is served as trained."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np

from tiercel.errors import DataError, ParityError
from tiercel.flows.candidates import (
    Candidate,
    LadderSettings,
    Skipped,
    Stage,
    answered_candidate,
    finished,
    folder_size,
)
from tiercel.flows.generating import Generator, GeneratorRecord, text_of
from tiercel.flows.held_form import form_of
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.served_model import convert_and_check
from tiercel.flows.storage import guarded, make_folder, replace_folder
from tiercel.students.known_words import KnownWords

__all__ = ["climb_micro"]

SIZE = 2_500_000
"""Parameters at most."""
MINUTES = 25.0
"""Limit of training."""
HELD_OUT = 0.05
"""Share of the training rows that tell when to stop."""


def climb_micro(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """Train the decoder, or say why not; see `tiercel.flows.ladder.climb`.

    Raises:
        ConfigurationError: it was asked for and can't be trained here.
    """
    try:
        student, stage = _trained(prepared, settings, progress)
    except (ImportError, DataError, ParityError) as error:
        if settings.students is not None:
            raise
        progress.warn(f"the micro rung was left out: {error}")
        return [], [Skipped(name="micro", rung="micro", why=str(error))]
    size = folder_size(settings.work / "micro")
    return [answered_candidate("micro", student, stage, size, prepared, settings, progress)], []


def _trained(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[Generator, Stage]:
    """The served student, trained here or taken up from finished work.

    Raises:
        DataError: too few rows can be trained on.
        ParityError: what would be served is not what was trained.
        MissingExtraError: a library is not installed.
    """
    from tiercel.students.micro_training import MicroPlan, train_micro

    folder = settings.work / "micro"
    if (stage := finished(folder)) is not None:
        return Generator.load(folder, threads=settings.threads), stage
    train = prepared.train
    rows = [(t, text_of(prepared.task, a)) for t, a in zip(train.texts, train.reference, strict=True)]
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    held = max(8, round(HELD_OUT * len(rows)))
    if len(rows) < 5 * held:
        raise DataError(f"{len(rows)} training rows are too few for a decoder; collect more traffic")
    progress.stage(f"training a decoder on {len(rows) - held:,} rows, {MINUTES:.0f} minutes at the most")
    trained = settings.work / "micro.trained"
    checkpoint = settings.work / "micro.checkpoint"
    with guarded(trained):
        told = train_micro(
            [rows[i] for i in order[held:]],
            [rows[i] for i in order[:held]],
            make_folder(trained),
            MicroPlan(size=SIZE, minutes=MINUTES),
            seed=settings.seed,
            threads=settings.threads,
            checkpoint=checkpoint,
            progress=progress.step,
        )
    for warning in told.warnings:
        progress.warn(warning)
    schema, grammar = form_of(prepared)
    record = GeneratorRecord(
        task=prepared.task,
        rung="micro",
        context=told.shape.context,
        max_tokens=told.shape.answer,
        precision="q8_0",
        schema=schema,
        grammar=grammar,
    )
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside / "generator")
    known = KnownWords.of(train.texts)
    note = f"{told.shape}; held-out loss {min(told.losses):.3f} after {told.steps:,} steps"
    record, parity, more = convert_and_check(trained, aside, record, known, prepared, settings, progress)
    stage = Stage(train_seconds=told.seconds, precision=record.precision, parity=parity, note=note + more)
    with guarded(folder):
        (aside / "stage.json").write_bytes(msgspec.json.encode(stage))
    replace_folder(aside, folder)
    shutil.rmtree(trained, ignore_errors=True)
    return Generator.load(folder, threads=settings.threads), stage
