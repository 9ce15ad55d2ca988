"""Requests that none of a workload's labels fits, where a label of its own stands for them."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tiercel.tasks.labels import LabelSet

__all__ = ["in_scope_scores", "out_of_scope_label"]

_NAMES = (
    "oos",
    "outofscope",
    "ood",
    "outofdomain",
    "offtopic",
    "noneoftheabove",
    "noneofthese",
    "none",
    "unknown",
    "unsupported",
    "notsupported",
    "irrelevant",
    "other",
    "others",
)
"""Of labels for what fits no other, the plainest first, without blanks and signs."""
_SIGNS = re.compile(r"[\W_]+")


def out_of_scope_label(labels: LabelSet) -> int | None:
    """The number of the label that stands for all that fits no other, told by its name; None without one.

    Where answers may carry several labels, none of them is the opposite of all others, and it is None.
    """
    if labels.multi:
        return None
    names = [_SIGNS.sub("", label).casefold() for label in labels.labels]
    return next((names.index(name) for name in _NAMES if name in names), None)


def in_scope_scores(probabilities: NDArray[np.floating], label: int) -> NDArray[np.float64]:
    """How much likelier the best other label is than the one for what is out of scope, as a log ratio, shape (n,).

    Args:
        probabilities: float array of shape (n, k), each row sums to 1; k is at least 2.
        label: number of the label for requests that are out of scope.
    """
    log_p = np.log(probabilities.astype(np.float64) + 1e-9)
    return np.delete(log_p, label, axis=1).max(axis=1) - log_p[:, label]
