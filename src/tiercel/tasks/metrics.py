"""Precision, recall and F1 of labels and of fields, and the confusions that cost most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.tasks.losses import answer_fields
from tiercel.types import Answer

__all__ = [
    "Confusion",
    "LabelMetrics",
    "MacroMetrics",
    "confusions",
    "field_metrics",
    "label_metrics",
    "macro_metrics",
    "micro_f1",
]


class LabelMetrics(Struct, frozen=True, kw_only=True):
    """How well one label is predicted, or one field filled."""

    label: str
    precision: float | None
    """None when the label was never predicted."""
    recall: float | None
    """None when no row has the label."""
    f1: float
    rows: int
    """Rows that have the label; for fields, how often the field occurs."""
    hits: int = 0
    """How often it was predicted rightly."""
    said: int = 0
    """How often it was predicted."""


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
    return [_metrics(name, *map(int, counts)) for name, *counts in zip(labels, hits, said, true, strict=True)]


def field_metrics(task: str, answers: Sequence[Answer], references: Sequence[Answer]) -> list[LabelMetrics]:
    """Metrics of each field of JSON answers, or of each argument of function calls; most frequent first.

    A field counts as right when its value is; a list's items share their list's name.
    """
    hits, said, true = Counter[str](), Counter[str](), Counter[str]()
    for answer, reference in zip(answers, references, strict=True):
        ours, theirs = answer_fields(task, answer), answer_fields(task, reference)
        for found, total in ((ours & theirs, hits), (ours, said), (theirs, true)):
            for (path, _), count in found.items():
                total[".".join(str(p) for p in path if not isinstance(p, int)) or "value"] += count
    return [_metrics(name, hits[name], said[name], true[name]) for name, _ in (true + said).most_common()]


def _metrics(name: str, hits: int, said: int, true: int) -> LabelMetrics:
    return LabelMetrics(
        label=name,
        precision=hits / said if said else None,
        recall=hits / true if true else None,
        f1=2 * hits / (said + true) if said + true else 0.0,
        rows=true,
        hits=hits,
        said=said,
    )


def micro_f1(metrics: list[LabelMetrics]) -> float:
    """F1 over all labels or fields together."""
    total = sum(m.said + m.rows for m in metrics)
    return 2 * sum(m.hits for m in metrics) / total if total else 0.0


class MacroMetrics(Struct, frozen=True, kw_only=True):
    """Means over the labels or fields that occur, in the rows or among the predictions; one never met counts as 0."""

    precision: float
    recall: float
    f1: float


def macro_metrics(metrics: list[LabelMetrics]) -> MacroMetrics:
    """Each label or field counts alike, however rare."""
    present = [m for m in metrics if m.rows or m.precision is not None]
    n = max(1, len(present))
    return MacroMetrics(
        precision=sum(m.precision or 0.0 for m in present) / n,
        recall=sum(m.recall or 0.0 for m in present) / n,
        f1=sum(m.f1 for m in present) / n,
    )


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
