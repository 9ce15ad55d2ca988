"""Ridge regression whose penalty is chosen by leaving each row out, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["PENALTIES", "RidgeFit", "fit_ridge"]

Floats = NDArray[np.float64]

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""In hundredths of the squared length of all rows together, so that one scale serves all features."""
MOST_ROWS = 2_500
"""Rows on which a penalty is chosen: the decomposition takes their number cubed."""


class RidgeFit(Struct, frozen=True, kw_only=True):
    """A fitted regression: `features @ weights + bias`."""

    weights: Floats
    """Shape (f, c), one column a target."""
    bias: Floats
    """Shape (c,)."""
    penalty: float

    def predict(self, features: Any) -> Floats:
        """Predictions for features of shape (n, f), dense or sparse: shape (n, c)."""
        return np.asarray(features @ self.weights) + self.bias


def fit_ridge(features: Any, targets: Floats, penalties: tuple[float, ...] = PENALTIES, seed: int = 0) -> RidgeFit:
    """Fit with the penalty that predicts left-out rows best, summed over all targets.

    Args:
        features: shape (n, f), a dense array or a sparse matrix.
        targets: shape (n, c).
        penalties: to choose from, in hundredths of the squared length of all rows together.
        seed: of the sample of rows on which the penalty is chosen where there are more than `MOST_ROWS`.

    Source: Hastie, Tibshirani, Friedman, "The elements of statistical learning", section 7.10 (leave-one-out residuals
    of a linear smoother).
    """
    n = features.shape[0]
    if n <= MOST_ROWS:
        return _fit(features, targets, penalties)
    sample = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_ROWS])
    penalty = _fit(features[sample], targets[sample], penalties).penalty
    return _solve(features, targets, penalty)


def _mean(features: Any) -> Floats:
    return np.asarray(features.mean(axis=0), dtype=np.float64).reshape(-1)


def _gram(features: Any, mean: Floats) -> Floats:
    """Inner products of the centred rows, shape (n, n), without making sparse features dense."""
    raw = features @ features.T
    gram = np.asarray(raw.todense() if hasattr(raw, "todense") else raw, dtype=np.float64)
    along = np.asarray(features @ mean).reshape(-1)
    return gram - along[:, None] - along[None, :] + mean @ mean


def _fit(features: Any, targets: Floats, penalties: tuple[float, ...]) -> RidgeFit:
    mean = _mean(features)
    middle = targets.mean(axis=0)
    gram = _gram(features, mean)
    n = len(gram)
    scale = max(float(np.trace(gram)) / n, 1e-12)
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ (targets - middle)
    best: tuple[float, float, Floats] | None = None
    for penalty in penalties:
        shrunk = 1.0 / (values + penalty * scale * n / 100)
        dual: Floats = vectors @ (shrunk[:, None] * rotated)
        # The diagonal of (K + lambda I)^-1 turns a residual into that of the row left out.
        diagonal = (vectors**2) @ shrunk
        left_out = dual / diagonal[:, None]
        error = float((left_out**2).mean())
        if best is None or error < best[0]:
            best = (error, penalty, dual)
    assert best is not None
    _, penalty, dual = best
    weights = np.asarray(features.T @ dual, dtype=np.float64)
    weights -= mean[:, None] * dual.sum(axis=0)
    return RidgeFit(weights=weights, bias=middle - mean @ weights, penalty=penalty)


def _solve(features: Any, targets: Floats, penalty: float) -> RidgeFit:
    """The same regression with a fixed penalty, by conjugate gradients on the features."""
    from scipy.sparse.linalg import LinearOperator, cg

    mean = _mean(features)
    n, f = features.shape
    middle = targets.mean(axis=0)
    lengths = features.multiply(features).sum() if hasattr(features, "multiply") else (features**2).sum()
    scale = max(float(lengths) / n - float(mean @ mean), 1e-12)

    def product(w: Floats) -> Floats:
        along = np.asarray(features @ w).reshape(-1) - mean @ w
        back = np.asarray(features.T @ along).reshape(-1) - mean * along.sum()
        return back + penalty * scale * n / 100 * w

    operator: Any = LinearOperator  # its stubs know the class that it makes, not the call that makes it
    system = operator((f, f), matvec=product, dtype=np.float64)
    weights = np.empty((f, targets.shape[1]))
    for column in range(targets.shape[1]):
        y = targets[:, column] - middle[column]
        right = np.asarray(features.T @ y).reshape(-1) - mean * y.sum()
        weights[:, column], _ = cg(system, right, rtol=1e-6, maxiter=400)
    return RidgeFit(weights=weights, bias=middle - mean @ weights, penalty=penalty)
