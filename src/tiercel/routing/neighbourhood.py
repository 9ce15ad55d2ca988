"""Where a request lies among the training rows in embedding space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["Neighbourhood", "Surroundings"]

Floats = NDArray[np.float32]

NEIGHBOURS = 10
MOST_ROWS = 3_000


class Surroundings(Struct, frozen=True):
    """What lies around n requests."""

    agreement: Floats
    """Shape (n,): share of the nearest training rows that carry the label predicted, weighted by similarity."""
    similarity: Floats
    """Shape (n,): cosine of the nearest training row."""
    distance: Floats
    """Shape (n,): Mahalanobis distance to the nearest label's mean, in standard deviations per dimension."""
    excess_distance: Floats
    """Shape (n,): how much farther the predicted label's mean lies than the nearest one."""


class Neighbourhood:
    """A sample of training rows, the mean of each label, and the whitening that makes distances comparable.

    Args:
        rows: embeddings of unit length, shape (m, d).
        labels: number of each row's label set, shape (m,).
        whitening: shape (d, d).
        means: whitened mean of each label set, shape (s, d).
        sets: which of the k labels each label set holds, shape (s, k).
    """

    file = "neighbourhood.safetensors"

    def __init__(
        self,
        rows: Floats,
        labels: NDArray[np.int64],
        whitening: Floats,
        means: Floats,
        sets: NDArray[np.bool_],
    ) -> None:
        self.rows, self.labels, self.whitening, self.means, self.sets = rows, labels, whitening, means, sets
        self._index = {s.tobytes(): i for i, s in enumerate(sets)}

    @classmethod
    def fit(cls, embedding: Floats, targets: Floats, seed: int) -> Neighbourhood:
        """Build from training rows.

        Args:
            embedding: shape (n, d).
            targets: 0 or 1, shape (n, k).
            seed: of the sample that is kept.

        Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples", 2018.
        """
        unit = _unit(embedding)
        sets, labels = np.unique(targets > 0.5, axis=0, return_inverse=True)
        labels = labels.reshape(-1)
        means = np.stack([unit[labels == s].mean(axis=0) for s in range(len(sets))])
        centred = (unit - means[labels]).astype(np.float64)
        freedom = max(1, len(unit) - len(sets))
        covariance = centred.T @ centred / freedom
        # Shrunk towards its mean variance, or few rows would make a direction look impossibly tight.
        scale = float(np.trace(covariance)) / len(covariance)
        covariance = 0.9 * covariance + 0.1 * scale * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        whitening = (vectors / np.sqrt(np.maximum(values, 1e-12))).astype(np.float32)
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.permutation(len(unit))[:MOST_ROWS])
        # Half precision on disk and the same in memory, so that a saved neighbourhood gives the same signals.
        rows = unit[kept].astype(np.float16).astype(np.float32)
        return cls(rows, labels[kept].astype(np.int64), whitening, (means @ whitening).astype(np.float32), sets)

    def look(self, embedding: Floats, decided: NDArray[np.bool_]) -> Surroundings:
        """What lies around requests of `embedding`, shape (n, d), that were given labels `decided`, shape (n, k)."""
        unit = _unit(embedding)
        chosen = np.array([self._index.get(row.tobytes(), -1) for row in decided])
        cosine = unit @ self.rows.T
        k = min(NEIGHBOURS, cosine.shape[1])
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        closeness = np.take_along_axis(cosine, nearest, axis=1)
        weight = np.exp(10 * (closeness - 1))
        same = self.labels[nearest] == chosen[:, None]
        white = unit @ self.whitening
        squared = (white**2).sum(1)[:, None] - 2 * white @ self.means.T + (self.means**2).sum(1)[None, :]
        distances = np.sqrt(np.maximum(squared, 0) / unit.shape[1])
        least = distances.min(axis=1)
        own = np.where(chosen >= 0, distances[np.arange(len(chosen)), chosen], distances.max(axis=1))
        return Surroundings(
            ((weight * same).sum(1) / weight.sum(1)).astype(np.float32),
            closeness.max(axis=1).astype(np.float32),
            least.astype(np.float32),
            (own - least).astype(np.float32),
        )

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`."""
        from safetensors.numpy import save_file

        arrays = {
            "rows": self.rows.astype(np.float16),
            "labels": self.labels,
            "whitening": self.whitening,
            "means": self.means,
            "sets": self.sets.astype(np.uint8),
        }
        save_file(arrays, folder / self.file)

    @classmethod
    def load(cls, folder: Path) -> Neighbourhood:
        """The neighbourhood that `save` wrote into `folder`."""
        from safetensors.numpy import load_file

        a = load_file(folder / cls.file)
        return cls(a["rows"].astype(np.float32), a["labels"], a["whitening"], a["means"], a["sets"].astype(np.bool_))


def _unit(embedding: Floats) -> Floats:
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-9)
