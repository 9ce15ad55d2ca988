"""Logistic regression of few columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_logistic"]

Floats = NDArray[np.float64]


def fit_logistic(z: Floats, positive: NDArray[np.bool_], penalty: float) -> tuple[Floats, float]:
    """Ridge logistic regression by Newton's method.

    Args:
        z: signals, shape (n, s), standardised, or one penalty could not be fair to all.
        positive: shape (n,).
        penalty: of the squared weights, for each row.

    Returns:
        Weights of shape (s,) and bias.
    """
    x = np.column_stack([z, np.ones(len(z))])
    y = positive.astype(np.float64)
    ridge = np.full(x.shape[1], penalty * len(z))
    ridge[-1] = 1e-6
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -40, 40)))
        gradient = x.T @ (p - y) + ridge * w
        curvature = (x * np.maximum(p * (1 - p), 1e-9)[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        w = w - np.clip(step, -3, 3)
        if np.abs(step).max() < 1e-8:
            break
    return w[:-1], float(w[-1])
