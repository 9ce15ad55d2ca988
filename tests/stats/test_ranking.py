from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from tiercel.stats.ranking import auroc, ks_pvalue, reliability


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_auroc_is_sklearns_with_ties_and_without(levels: int) -> None:
    rng = np.random.default_rng(41)
    for _ in range(20):
        positive = rng.random(80) < rng.uniform(0.1, 0.9)
        scores = np.round((rng.random(80) + 0.3 * positive) * levels) / levels
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_auroc_of_one_class_is_nan() -> None:
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))
    assert np.isnan(auroc(np.array([]), np.array([], dtype=bool)))


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("sizes", [(400, 300), (900, 50)])
def test_ks_is_the_limit_law_and_near_scipys_exact_one(shift: float, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(42)
    a, b = rng.normal(size=sizes[0]), rng.normal(shift, size=sizes[1])
    reference = stats.ks_2samp(a, b, method="exact")
    gap = reference.statistic * np.sqrt(sizes[0] * sizes[1] / sum(sizes))
    assert ks_pvalue(a, b) == pytest.approx(special.kolmogorov(gap), rel=1e-6)
    assert ks_pvalue(a, b) == pytest.approx(reference.pvalue, rel=0.35, abs=0.02)


def test_ks_of_equal_or_empty_samples_is_one() -> None:
    a = np.linspace(0, 1, 50)
    assert ks_pvalue(a, a) == 1.0
    assert ks_pvalue(a, np.array([])) == 1.0


def test_ks_counts_ties_as_scipy_does() -> None:
    rng = np.random.default_rng(43)
    a, b = rng.integers(0, 5, 300).astype(float), rng.integers(1, 6, 300).astype(float)
    gap = stats.ks_2samp(a, b).statistic * np.sqrt(150)
    assert ks_pvalue(a, b) == pytest.approx(special.kolmogorov(gap), rel=1e-6)


def test_reliability_puts_every_row_into_groups_of_equal_size_by_confidence() -> None:
    rng = np.random.default_rng(44)
    confidence = rng.random(1_003)
    right = rng.random(1_003) < confidence
    bins = reliability(confidence, right)
    assert len(bins) == 10
    assert sum(b.rows for b in bins) == 1_003
    assert max(b.rows for b in bins) - min(b.rows for b in bins) <= 1
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert sum(b.rows * b.accuracy for b in bins) == pytest.approx(right.sum())
    assert sum(b.rows * b.confidence for b in bins) == pytest.approx(confidence.sum())
    assert max(abs(b.confidence - b.accuracy) for b in bins) < 0.15


def test_reliability_of_fewer_rows_than_bins_and_of_none() -> None:
    bins = reliability(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
    assert [(b.confidence, b.accuracy, b.rows) for b in bins] == [(0.2, 0.0, 1), (0.4, 1.0, 1), (0.9, 1.0, 1)]
    assert reliability(np.array([]), np.array([], dtype=bool)) == []
