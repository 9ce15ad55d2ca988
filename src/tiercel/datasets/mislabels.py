"""Labels that are probably wrong, found by confident learning.

A model that was trained without a row is asked what it says of that row. Where it is surer of another label than it
usually is of rows that truly have it, the given label is in doubt; how many such rows there are for each pair of labels
says how many to name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import DataError

__all__ = ["Mislabels", "Pruning", "find_mislabels"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDING = 1e-9


class Pruning(StrEnum):
    """How the estimated noise is turned into rows; both never name a row whose given label is the likelier one."""

    CLASS = "class"
    """For each given label as many rows as are expected to be wrong, those in which it is least likely."""
    NOISE_RATE = "noise rate"
    """For each pair of labels as many rows as are expected, those with the largest margin. With many labels most pairs
    expect less than half a row, which is rounded to none, and wrong labels are missed."""


@dataclass(frozen=True, kw_only=True)
class Mislabels:
    """Rows whose label is in doubt, of n rows with k labels.

    Attributes:
        rows: int array of shape (m,), the rows in doubt, the most doubtful first.
        suggested: int array of shape (m,), the label that the model holds likelier for each.
        margin: float array of shape (m,), probability of the suggested label minus that of the given one, in (0, 1].
        thresholds: shape (k,), how sure the model is on average of rows that were given a label; infinite for a label
            that no row has.
        confident_joint: int array of shape (k, k), rows of a given label (first axis) that the model confidently counts
            to a label (second axis).
        joint: shape (k, k), sums to 1: estimated share of rows with a given and a true label.
    """

    rows: Integers
    suggested: Integers
    margin: Floats
    thresholds: Floats
    confident_joint: Integers
    joint: Floats

    @property
    def noise(self) -> float:
        """Estimated share of rows whose label is wrong."""
        return max(0.0, 1.0 - float(np.trace(self.joint)))


def find_mislabels(
    probabilities: NDArray[np.floating], labels: Integers, *, pruning: Pruning = Pruning.CLASS
) -> Mislabels:
    """Rows whose label to look at again, as many as the estimated noise.

    Unlike in the paper a row is never named whose given label is the likelier one: on labels that nearly all agree the
    estimated rates else outnumber the rows in doubt.

    Args:
        probabilities: shape (n, k), each row sums to 1; from models that did not see the row (out of fold). A model
            that saw it defends the label it was given.
        labels: int array of shape (n,), in [0, k); -1 for a row without a label, which is left out.
        pruning: which rows are named.

    Raises:
        DataError: shapes differ, a label is out of range, probabilities are no distribution, or no row has a label.

    Source: Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", 2021:
    confident joint, equations 1 and 2; its calibration, equation 3; pruning, section 3.2.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    _check(p, labels)
    known = np.flatnonzero(labels >= 0)
    p, given = p[known], labels[known]
    n, k = p.shape
    counts = np.bincount(given, minlength=k)
    own = p[np.arange(n), given]
    with np.errstate(invalid="ignore", divide="ignore"):
        thresholds = np.where(counts > 0, np.bincount(given, weights=own, minlength=k) / counts, np.inf)
    confident_joint = _confident_joint(p, given, thresholds)
    joint = _calibrated(confident_joint, counts)
    prune = _pruned_by_class if pruning == Pruning.CLASS else _pruned_by_noise_rate
    suggested, margin = prune(p, given, joint * n)
    doubted = np.flatnonzero(suggested >= 0)
    doubted = doubted[np.argsort(-margin[doubted], kind="stable")]
    return Mislabels(
        rows=known[doubted],
        suggested=suggested[doubted],
        margin=margin[doubted],
        thresholds=thresholds,
        confident_joint=confident_joint,
        joint=joint,
    )


def _check(p: Floats, labels: Integers) -> None:
    if p.ndim != 2 or labels.shape != p.shape[:1]:
        raise DataError(f"probabilities of shape {p.shape} do not fit {labels.shape} labels: give one row a label")
    if labels.size and not (int(labels.min()) >= -1 and int(labels.max()) < p.shape[1]):
        raise DataError(f"labels must lie in [0, {p.shape[1]}), or be -1 for none; these reach {int(labels.max())}")
    # Also refuses the independent probabilities of rows with several labels, for which the method is not made.
    wrong = ~(np.isfinite(p).all(axis=1) & (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        raise DataError(f"row {int(np.argmax(wrong))} is no distribution over labels: give probabilities that sum to 1")
    if not (labels >= 0).any():
        raise DataError("no row has a label: mislabels can't be looked for")


def _confident_joint(p: Floats, given: Integers, thresholds: Floats) -> Integers:
    """Rows by given label and by the likeliest label among those that reach their threshold; shape (k, k)."""
    k = p.shape[1]
    # Equal probabilities have a mean that rounding may lift above them.
    reached = np.where(p >= thresholds - _ROUNDING, p, -1.0)
    best = reached.argmax(axis=1)
    sure = reached.max(axis=1) >= 0
    return np.bincount(given[sure] * k + best[sure], minlength=k * k).reshape(k, k)


def _calibrated(confident_joint: Integers, counts: Integers) -> Floats:
    """The joint distribution of given and true labels: rows are scaled to the labels' counts; shape (k, k)."""
    scaled = confident_joint.astype(np.float64)
    # A label of which no row is counted confidently is taken as it is.
    silent = np.flatnonzero(scaled.sum(axis=1) == 0)
    scaled[silent, silent] = 1.0
    scaled *= (counts / scaled.sum(axis=1))[:, None]
    return scaled / scaled.sum()


def _whole(rows: Floats) -> Integers:
    """Rows to the nearest whole number; one half, give or take rounding, is no row."""
    return np.floor(rows + 0.5 - _ROUNDING).astype(np.int64)


def _pruned_by_class(p: Floats, given: Integers, expected: Floats) -> tuple[Integers, Floats]:
    """For each row the label that it more likely has, or -1, and the margin over the given one; both of shape (n,).

    Args:
        p: shape (n, k).
        given: shape (n,).
        expected: shape (k, k), rows of each given and true label.
    """
    rows = np.arange(len(given))
    own, best = p[rows, given], p.argmax(axis=1)
    named = np.zeros(len(given), dtype=bool)
    wrong = _whole(expected.sum(axis=1) - np.diag(expected))
    for label in np.flatnonzero(wrong):
        of_label = np.flatnonzero(given == label)
        named[of_label[np.argsort(own[of_label], kind="stable")[: wrong[label]]]] = True
    margin = p[rows, best] - own
    named &= margin > 0
    return np.where(named, best, -1), np.where(named, margin, 0.0)


def _pruned_by_noise_rate(p: Floats, given: Integers, expected: Floats) -> tuple[Integers, Floats]:
    """The same for each pair of labels; a row that several pairs name is given the label of the largest margin."""
    suggested, margin = np.full(len(given), -1), np.zeros(len(given))
    wanted = _whole(expected)
    np.fill_diagonal(wanted, 0)
    for label in np.flatnonzero(wanted.sum(axis=1)):
        rows = np.flatnonzero(given == label)
        for other in np.flatnonzero(wanted[label]):
            gap = p[rows, other] - p[rows, label]
            top = np.argsort(-gap, kind="stable")[: wanted[label, other]]
            better = top[gap[top] > margin[rows[top]]]
            suggested[rows[better]], margin[rows[better]] = other, gap[better]
    return suggested, margin
