"""The one of several answers to a request that the others agree with most."""

from __future__ import annotations

from collections.abc import Sequence

from tiercel.tasks.labels import LabelSet
from tiercel.tasks.losses import compare
from tiercel.types import Answer

__all__ = ["most_agreed"]


def most_agreed(
    task: str, answers: Sequence[Answer], labels: LabelSet | None = None, *, asked: int | None = None
) -> tuple[int, float]:
    """The medoid of `answers` under the task's loss: the majority where answers are equal or not.

    Args:
        task: a name of `TASKS`. Free text is compared by token F1, the others by canonical equality.
        answers: usable ones, at least one.
        labels: the closed set; needed for classification.
        asked: samples that were asked for, the unusable ones included; as many as `answers` when None.

    Returns:
        The number of the answer (the earliest of equals), and the agreement in [0, 1]: its mean similarity to all that
        were asked, itself counted as 1 and an unusable one as 0. For equality that is the majority's share.
    """

    def similarity(a: Answer, b: Answer) -> float:
        loss = compare(task, a, b, labels).loss
        return 1 - loss if task == "generation" else float(loss == 0)

    best, most = 0, -1.0
    for i, answer in enumerate(answers):
        total = sum(1.0 if i == j else similarity(answer, other) for j, other in enumerate(answers))
        if total > most + 1e-12:
            best, most = i, total
    return best, most / (asked or len(answers))
