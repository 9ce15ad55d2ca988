"""Rows in clusters, many from one user: how much less they say, and losses that a test may take as independent.

Rows of one cluster tend to go wrong together. A test that takes them for independent is too sure: its variance is too
small by the *design effect*. What is independent is a cluster as a whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["Clustering", "cluster_losses", "cluster_numbers", "clustering_of", "weighted_size"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Clustering(Struct, frozen=True, kw_only=True):
    """How rows cluster, and how alike the losses of a cluster are."""

    rows: int
    clusters: int
    largest: int
    """Rows of the largest cluster."""
    correlation: float | None
    """Intra-cluster correlation of the losses; None where no cluster has two rows or no loss differs from another."""
    correlation_high: float | None
    """One standard error and a quarter above it, from leaving out one cluster after the other (jackknife)."""


def cluster_numbers(names: Sequence[Hashable | None]) -> Ints:
    """A number for each cluster, counting up in the order of first appearance; shape (n,).

    Args:
        names: of the n rows' clusters; a row without one (None) is a cluster of its own.
    """
    known: dict[Hashable, int] = {}
    found = np.empty(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        found[row] = known.setdefault((row,) if name is None else ("", name), len(known))
    return found


def weighted_size(clusters: Ints) -> float:
    """Rows in the cluster of a row drawn at random, on average; 0 of no rows. `clusters` has shape (n,)."""
    sizes = np.bincount(clusters) if clusters.size else np.zeros(0)
    return float((sizes**2).sum() / sizes.sum()) if sizes.size else 0.0


def clustering_of(losses: Floats, clusters: Ints) -> Clustering:
    """Measure the clusters of n rows.

    Args:
        losses: shape (n,).
        clusters: numbers of the clusters from 0 on, shape (n,).

    Source: Donner, "A review of inference procedures for the intraclass correlation coefficient", 1986: the estimate of
    the one-way analysis of variance, which is valid for losses of 0 and 1 too.
    """
    weigh = clusters.size > 0
    sizes = np.bincount(clusters).astype(np.float64) if weigh else np.zeros(0)
    sums = np.bincount(clusters, losses).astype(np.float64) if weigh else np.zeros(0)
    squares = np.bincount(clusters, losses**2).astype(np.float64) if weigh else np.zeros(0)
    value = _correlation(
        float(sizes.size), sizes.sum(), (sizes**2).sum(), sums.sum(), squares.sum(), _means(sums, sizes)
    )
    high = None
    if value is not None:
        without = [
            _correlation(
                float(sizes.size - 1),
                sizes.sum() - sizes[i],
                (sizes**2).sum() - sizes[i] ** 2,
                sums.sum() - sums[i],
                squares.sum() - squares[i],
                _means(sums, sizes) - sums[i] ** 2 / sizes[i],
            )
            for i in range(sizes.size)
        ]
        kept = np.array([v for v in without if v is not None])
        spread = np.sqrt((kept.size - 1) / kept.size * ((kept - kept.mean()) ** 2).sum()) if kept.size > 1 else 1.0
        high = min(1.0, value + 1.25 * float(spread))
    return Clustering(
        rows=int(sizes.sum()),
        clusters=sizes.size,
        largest=int(sizes.max(initial=0)),
        correlation=value,
        correlation_high=high,
    )


def _means(sums: Floats, sizes: Floats) -> float:
    """Sum over clusters of size times squared mean."""
    return float((sums**2 / np.maximum(sizes, 1)).sum())


def _correlation(k: float, n: float, squared_sizes: float, total: float, squares: float, means: float) -> float | None:
    if k < 2 or n <= k:
        return None
    between = (means - total**2 / n) / (k - 1)
    within = (squares - means) / (n - k)
    size = (n - squared_sizes / n) / (k - 1)
    spread = between + (size - 1) * within
    return float((between - within) / spread) if spread > 1e-12 else None


def cluster_losses(losses: Floats, clusters: Ints, bound: float, cap: int) -> Floats:
    """One value a cluster, whose mean is above `bound` where the rows' mean is; a cluster counts as `cap` rows at most.

    A cluster of m rows with mean loss l counts with the weight w = min(m, cap) / cap and gives w l + (1 - w) bound:
    as much of its own loss as it has rows, and of the bound itself, which speaks for neither side, for the rest. So
    E[value] > bound where E[w l] / E[w] > bound, the mean over rows with each cluster's weight capped.

    Args:
        losses: shape (n,).
        clusters: numbers of the clusters, shape (n,).
        bound: the mean that is to be tested.
        cap: rows that a cluster counts as at most, fixed without looking at these losses.

    Returns:
        One value a cluster in the order of first appearance, within the range of the losses and the bound.
    """
    if not losses.size:
        return losses
    names, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    sizes = np.bincount(inverse, minlength=names.size).astype(np.float64)
    means = np.bincount(inverse, losses, minlength=names.size) / sizes
    weights = np.minimum(sizes, cap) / cap
    return (weights * means + (1 - weights) * bound)[np.argsort(first, kind="stable")]
