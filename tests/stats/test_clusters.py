"""Clusters: the correlation is what was drawn, and one value a cluster keeps the mean that is tested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.stats.clusters import cluster_losses, cluster_numbers, clustering_of, weighted_size


def _drawn(correlation: float, clusters: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Losses of 0 and 1 with mean 0.2 and this correlation within a cluster (beta-binomial)."""
    total = 1 / correlation - 1 if correlation else 1e9
    rates = rng.beta(0.2 * total, 0.8 * total, clusters)
    numbers = np.repeat(np.arange(clusters), size)
    return (rng.random(numbers.size) < rates[numbers]).astype(float), numbers


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5])
def test_the_correlation_is_that_of_the_draw(correlation: float) -> None:
    rng = np.random.default_rng(1)
    found = clustering_of(*_drawn(correlation, 2_000, 5, rng))
    assert found.correlation == pytest.approx(correlation, abs=0.03)
    assert found.correlation_high is not None
    assert found.correlation < found.correlation_high < found.correlation + 0.05
    assert (found.rows, found.clusters, found.largest) == (10_000, 2_000, 5)


def test_the_high_end_covers_the_correlation_in_nine_of_ten_draws_or_so() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        high = clustering_of(*_drawn(0.2, 120, 4, rng)).correlation_high
        assert high is not None
        covered += high >= 0.2
    assert 0.8 <= covered / 200 <= 0.97


def test_no_correlation_is_told_where_nothing_can_be_compared() -> None:
    alone = clustering_of(np.array([0.0, 1.0, 0.0]), np.arange(3))
    assert (alone.correlation, alone.correlation_high, alone.clusters) == (None, None, 3)
    equal = clustering_of(np.zeros(6), np.array([0, 0, 1, 1, 2, 2]))
    assert equal.correlation is None
    none = clustering_of(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert (none.rows, none.clusters, none.largest, none.correlation) == (0, 0, 0, None)
    assert clustering_of(np.array([0.0, 1.0]), np.array([0, 0])).correlation is None


def test_numbers_count_up_and_rows_without_a_name_stand_alone() -> None:
    assert cluster_numbers(["a", None, "b", "a", None, "b"]).tolist() == [0, 1, 2, 0, 3, 2]
    assert cluster_numbers([]).tolist() == []
    assert weighted_size(np.array([0, 0, 0, 1])) == pytest.approx(10 / 4)
    assert weighted_size(np.zeros(0, dtype=np.int64)) == 0.0


def test_clusters_of_one_row_are_the_rows_themselves_in_their_order() -> None:
    losses = np.array([0.3, -1.0, 0.0, 1.0])
    assert cluster_losses(losses, np.array([5, 2, 9, 0]), 0.1, cap=1).tolist() == losses.tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(1, 6),
    st.floats(0.01, 0.9),
)
def test_the_values_lie_above_the_bound_exactly_where_the_weighted_mean_does(
    rows: list[tuple[float, int]], cap: int, bound: float
) -> None:
    losses, clusters = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    values = cluster_losses(losses, clusters, bound, cap)
    names = list(dict.fromkeys(clusters.tolist()))
    assert len(values) == len(names)
    assert values.min() >= -1 - 1e-12
    assert values.max() <= 1 + 1e-12
    weights = np.array([min(cap, int((clusters == n).sum())) for n in names])
    means = np.array([losses[clusters == n].mean() for n in names])
    assert (values - bound).sum() * cap == pytest.approx(float((weights * (means - bound)).sum()), abs=1e-9)
