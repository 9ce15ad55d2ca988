"""How well scores rank and how well probabilities are calibrated."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["ReliabilityBin", "auroc", "ks_pvalue", "reliability"]


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: chance that a positive row scores above a negative one, ties counting half.

    Args:
        scores: float array of shape (n,).
        positive: bool array of shape (n,).

    Returns:
        The area, or NaN when one of the classes is absent.
    """
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


class ReliabilityBin(Struct, frozen=True, kw_only=True):
    """Rows of similar confidence: what was said and what came true."""

    confidence: float
    accuracy: float
    rows: int


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> list[ReliabilityBin]:
    """Rows in `bins` groups of equal size by confidence, so that no group is empty or thin.

    Args:
        confidence: float array of shape (n,), in [0, 1].
        right: bool array of shape (n,).
        bins: groups at the most.
    """
    order = np.argsort(confidence, kind="stable")
    return [
        ReliabilityBin(confidence=float(confidence[part].mean()), accuracy=float(right[part].mean()), rows=part.size)
        for part in np.array_split(order, min(bins, max(1, order.size)))
        if part.size
    ]


def ks_pvalue(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Asymptotic p-value of the two-sample Kolmogorov-Smirnov test that `a` and `b` are drawn alike.

    Args:
        a: float array of shape (n,).
        b: float array of shape (m,).
    """
    if not a.size or not b.size:
        return 1.0
    points = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(np.sort(a), points, side="right") / a.size
    below_b = np.searchsorted(np.sort(b), points, side="right") / b.size
    gap = float(np.abs(below_a - below_b).max()) * np.sqrt(a.size * b.size / (a.size + b.size))
    if gap < 0.2:
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (k - 1) * np.exp(-2 * (k * gap) ** 2)).sum(), 0.0, 1.0))
