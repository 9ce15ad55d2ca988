"""Labels as the micro rung writes them: one token each, learnt also from what others make of the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tiercel.students.micro_teaching import taught_loss
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_training import MicroPlan, TokenLoss
from tiercel.students.teacher_logprobs import pack_top_k

__all__ = ["are_one_token", "label_plan", "softened_loss"]

WEIGHT = 0.6
"""Of the others' view against the row's own label."""
STEPS = 900
"""About so many teach a few thousand rows; more of them are learnt by heart."""
_LEAST = 1e-4
"""Smallest probability of a label that is recorded."""


def label_plan(tokenizer: MicroTokenizer, rows: int, minutes: float | None) -> MicroPlan:
    """Settings for answers that are labels: a small decoder, few passes, and requests learnt beside their labels.

    Args:
        tokenizer: of the workload; its embeddings come on top of about five layers of width 64.
        rows: that are trained on.
        minutes: limit of training.
    """
    plan = MicroPlan(size=250_000 + 64 * len(tokenizer), minutes=minutes, request=0.3)
    return replace(plan, epochs=int(np.clip(round(STEPS * plan.batch / rows), 6, 40)))


def are_one_token(tokenizer: MicroTokenizer, labels: Sequence[str]) -> bool:
    """Whether each label is one token of the vocabulary."""
    return all(len(ids) == 1 for ids in tokenizer.encode(labels))


def softened_loss(tokenizer: MicroTokenizer, labels: Sequence[str], view: NDArray[np.floating]) -> TokenLoss:
    """The loss of labels that are mixed with a view from outside, for `train_micro`.

    A decoder from scratch has only the labels to learn words from; models that did not see a row, such as cross-fitted
    linear rungs, tell it more of what the row's words mean than its own label does, and contradict a wrong one.

    Args:
        tokenizer: whose tokens the labels are, one each.
        labels: k of them.
        view: probabilities of the labels of the n training rows, shape (n, k).
    """
    tokens = np.array([ids[0] for ids in tokenizer.encode(labels)])[None]
    sure = np.maximum(view.astype(np.float64), _LEAST)
    logprobs = np.log(sure / sure.sum(axis=1, keepdims=True))
    told = pack_top_k([tokens] * len(logprobs), [row[None] for row in logprobs], len(tokenizer))
    return taught_loss(told, weight=WEIGHT)
