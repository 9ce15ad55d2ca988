from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from tiercel.tasks.metrics import confusions, label_metrics, macro_metrics


def _rows(multi: bool, seed: int, n: int = 200, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if multi:
        return rng.random((n, k)) < 0.3, rng.random((n, k)) < 0.25
    actual = rng.integers(0, k, n)
    predicted = np.where(rng.random(n) < 0.6, actual, rng.integers(0, k, n))
    return np.eye(k, dtype=bool)[predicted], np.eye(k, dtype=bool)[actual]


@pytest.mark.parametrize("multi", [False, True])
def test_metrics_of_each_label_are_sklearns(multi: bool) -> None:
    predicted, actual = _rows(multi, 1)
    names = tuple("abcdef")
    found = label_metrics(predicted, actual, names)
    precision, recall, f1, rows = precision_recall_fscore_support(actual, predicted, zero_division=0)
    assert [m.label for m in found] == list(names)
    assert [m.precision for m in found] == pytest.approx(precision.tolist())
    assert [m.recall for m in found] == pytest.approx(recall.tolist())
    assert [m.f1 for m in found] == pytest.approx(f1.tolist())
    assert [m.rows for m in found] == rows.tolist()
    macro = precision_recall_fscore_support(actual, predicted, average="macro", zero_division=0)[:3]
    mean = macro_metrics(found)
    assert (mean.precision, mean.recall, mean.f1) == pytest.approx(macro)


def test_what_never_occurred_is_none_and_does_not_count_in_the_mean() -> None:
    actual = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    predicted = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    a, b, c, d = label_metrics(predicted, actual, ("a", "b", "c", "d"))
    assert (a.precision, a.recall, a.f1) == (0.5, 0.5, 0.5)
    assert (b.precision, b.recall, b.f1) == (None, 0.0, 0.0)
    assert (c.precision, c.recall, c.f1) == (0.0, None, 0.0)
    assert (d.precision, d.recall, d.rows) == (None, None, 0)
    assert macro_metrics([a, b, c, d]).f1 == pytest.approx(0.5 / 3)
    assert macro_metrics([]).f1 == 0


@pytest.mark.parametrize("multi", [False, True])
def test_confusions_are_the_most_frequent_pairs_of_a_missed_and_a_wrong_label(multi: bool) -> None:
    predicted, actual = _rows(multi, 2)
    names = "abcdef"
    counted: Counter[tuple[str, str]] = Counter()
    for p, a in zip(predicted, actual, strict=True):
        missed, wrong = np.flatnonzero(a & ~p), np.flatnonzero(p & ~a)
        counted.update((names[i], names[j]) for i in missed for j in wrong)
    found = confusions(predicted, actual, tuple(names), most=5)
    assert len(found) == 5
    assert [c.rows for c in found] == sorted(counted.values(), reverse=True)[:5]
    assert all(counted[c.actual, c.predicted] == c.rows for c in found)
    everything = confusions(predicted, actual, tuple(names), most=100)
    assert {(c.actual, c.predicted): c.rows for c in everything} == dict(counted)


def test_without_mistakes_there_are_no_confusions() -> None:
    _, actual = _rows(False, 3)
    assert confusions(actual, actual, tuple("abcdef")) == []
