"""Precision, recall and F1 of labels, and the confusions that cost most."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["Confusion", "LabelMetrics", "confusions", "label_metrics", "macro_f1"]


class LabelMetrics(Struct, frozen=True, kw_only=True):
    """How well one label is predicted."""

    label: str
    precision: float | None
    """None when the label was never predicted."""
    recall: float | None
    """None when no row has the label."""
    f1: float
    rows: int
    """Rows that have the label."""


def label_metrics(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], labels: tuple[str, ...]
) -> list[LabelMetrics]:
    """Metrics of each label.

    Args:
        predicted: bool array of shape (n, k).
        actual: bool array of shape (n, k).
        labels: names of the k labels.
    """
    hits = (predicted & actual).sum(axis=0)
    said, true = predicted.sum(axis=0), actual.sum(axis=0)
    return [
        LabelMetrics(
            label=name,
            precision=float(h / s) if s else None,
            recall=float(h / t) if t else None,
            f1=float(2 * h / (s + t)) if s + t else 0.0,
            rows=int(t),
        )
        for name, h, s, t in zip(labels, hits, said, true, strict=True)
    ]


def macro_f1(metrics: list[LabelMetrics]) -> float:
    """Mean F1 of the labels that occur, in the rows or among the predictions."""
    present = [m.f1 for m in metrics if m.rows or m.precision is not None]
    return float(np.mean(present)) if present else 0.0


class Confusion(Struct, frozen=True, kw_only=True):
    """Rows of one label that were taken for another."""

    actual: str
    predicted: str
    rows: int


def confusions(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], labels: tuple[str, ...], most: int = 12
) -> list[Confusion]:
    """The most frequent pairs of a missed label and a wrong one, from bool arrays of shape (n, k)."""
    missed, wrong = actual & ~predicted, predicted & ~actual
    counts = missed.astype(np.int64).T @ wrong.astype(np.int64)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    found = [divmod(int(i), len(labels)) for i in order]
    return [Confusion(actual=labels[a], predicted=labels[p], rows=int(counts[a, p])) for a, p in found if counts[a, p]]
