"""What tuned encoders that were trained without a row make of it: better informed labels for the one that serves.

Each fold lies in a file of its own in the work folder, so that a pilot that was cut off goes on with the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.candidates import LadderSettings
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded

if TYPE_CHECKING:
    from tiercel.students.encoder_training import TrainingPlan

__all__ = ["FOLDS", "tuned_view"]

FOLDS = 3
"""Parts of the training rows; one is left out of each encoder's training. Together they cost one training less."""


def tuned_view(
    base: Path,
    form: dict[str, Any],
    softened: NDArray[np.float32],
    plan: TrainingPlan,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
) -> NDArray[np.float32]:
    """Probabilities of the labels of each training row by an encoder that was tuned without it, shape (n, k).

    Args:
        base: folder of the pretrained encoder.
        form: how an `EncoderTrainer` reads requests.
        softened: labels that the encoders learn, shape (n, k).
        plan: of their training.
        prepared: the rows.
        settings: of the climb.
        progress: is told of each fold.
    """
    train = prepared.train
    part = np.random.default_rng(settings.seed).permutation(len(train)) % FOLDS
    found = np.empty_like(softened)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        path = settings.work / f"tuned_view-{fold}.npy"
        if not path.is_file():
            progress.stage(f"fine-tuning a teacher on {len(inside):,} rows, {fold + 1} of {FOLDS}")
            told = _one_view(base, form, softened[inside], plan, prepared, settings, progress, (fold, inside, outside))
            aside = path.with_name(f"part-{path.name}")
            with guarded(path):
                np.save(aside, told)
                aside.replace(path)
        found[outside] = np.load(path, allow_pickle=False)
    return found


def _one_view(
    base: Path,
    form: dict[str, Any],
    softened: NDArray[np.float32],
    plan: TrainingPlan,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
    split: tuple[int, NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.float32]:
    """What an encoder tuned on the rows inside a fold says of those outside."""
    from tiercel.students.encoder_training import EncoderTrainer
    from tiercel.students.linear import to_probabilities

    fold, inside, outside = split
    texts = prepared.train.texts
    # Seeds of their own: an encoder is not to be taught by its likeness.
    trainer = EncoderTrainer(base, seed=settings.seed + 100 + fold, **form)
    checkpoint = settings.work / f"tuned_view-{fold}.checkpoint"
    with guarded(checkpoint):
        trainer.fine_tune([texts[i] for i in inside], softened, plan, checkpoint=checkpoint, progress=progress.step)
    weights, bias = trainer.head_arrays()
    embedding = trainer.embed([texts[i] for i in outside], quick=True)
    return to_probabilities(embedding @ weights + bias, multi=form["multi"])
