"""What tuned encoders that were trained without a row make of it: better informed labels for the one that serves.

Each fold lies in a file of its own in the work folder, so that a pilot that was cut off goes on with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.candidates import LadderSettings
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded

if TYPE_CHECKING:
    from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan

__all__ = ["FOLDS", "tuned_view"]

FOLDS = 3
"""Parts of the training rows; one is left out of each encoder's training. Together they cost one training less."""


def tuned_view(
    trainer: Callable[[int], EncoderTrainer],
    softened: NDArray[np.float32],
    plan: TrainingPlan,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
) -> NDArray[np.float32]:
    """Probabilities of the labels of each training row by an encoder that was tuned without it, shape (n, k).

    Args:
        trainer: makes a pretrained encoder that is ready to be tuned, from a seed.
        softened: labels that the encoders learn, shape (n, k).
        plan: of their training.
        prepared: the rows.
        settings: of the climb.
        progress: is told of each fold.
    """
    texts = prepared.train.texts
    part = np.random.default_rng(settings.seed).permutation(len(texts)) % FOLDS
    found = np.empty_like(softened)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        path = settings.work / f"tuned_view-{fold}.npy"
        if not path.is_file():
            progress.stage(f"fine-tuning a teacher on {len(inside):,} rows, {fold + 1} of {FOLDS}")
            with guarded(path):
                # Seeds of their own: an encoder is not to be taught by its likeness.
                teacher = trainer(settings.seed + 100 + fold)
                checkpoint = path.with_suffix(".checkpoint")
                learnt = [texts[i] for i in inside]
                teacher.fine_tune(learnt, softened[inside], plan, checkpoint=checkpoint, progress=progress.step)
                aside = path.with_name(f"part-{path.name}")
                np.save(aside, _said(teacher, [texts[i] for i in outside]))
                aside.replace(path)
        found[outside] = np.load(path, allow_pickle=False)
    return found


def _said(teacher: EncoderTrainer, texts: list[str]) -> NDArray[np.float32]:
    from tiercel.students.linear import to_probabilities

    weights, bias = teacher.head_arrays()
    return to_probabilities(teacher.embed(texts, quick=True) @ weights + bias, multi=teacher.multi)
