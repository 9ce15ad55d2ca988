"""Training of the linear rung with scikit-learn."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiercel.students.linear import LinearStudent, to_probabilities
from tiercel.students.ngrams import ngrams

__all__ = ["cross_fitted", "cross_fitted_head", "fit_head", "fit_linear"]

MOST_FEATURES = 60_000
MOST_WEIGHTS = 4_500_000
"""Features times labels: L-BFGS holds some twenty copies of them in double precision."""


def fit_linear(
    texts: Sequence[str], targets: NDArray[np.float32], *, multi: bool = False, strength: float = 20.0
) -> LinearStudent:
    """Train the linear rung.

    Args:
        texts: n requests.
        targets: 0 or 1, shape (n, k).
        multi: several labels a request.
        strength: inverse of the L2 penalty (scikit-learn's C); small data wants it smaller.

    Returns:
        A student that is ready to serve.
    """
    from scipy import sparse

    counted = [Counter(ngrams(text)) for text in texts]
    frequency: Counter[str] = Counter()
    for counts in counted:
        frequency.update(counts.keys())
    least = 2 if len(texts) >= 500 else 1
    most = min(MOST_FEATURES, MOST_WEIGHTS // targets.shape[1])
    chosen = [f for f, c in frequency.most_common(most) if c >= least] or ["=?"]
    index = {feature: i for i, feature in enumerate(chosen)}
    idf = np.log((1 + len(texts)) / (1 + np.array([frequency[f] for f in chosen]))).astype(np.float32) + 1
    student = LinearStudent(
        np.zeros((len(chosen), 1), np.float32), np.zeros(targets.shape[1], np.float32), chosen, idf, multi=multi
    )
    starts, numbers, values = [0], list[NDArray[np.int64]](), list[NDArray[np.float32]]()
    for counts in counted:
        known = [(index[f], c) for f, c in counts.items() if f in index]
        row = np.array([c for _, c in known], dtype=np.float32)
        columns = np.array([i for i, _ in known], dtype=np.int64)
        row = (1 + np.log(row)) * idf[columns] if known else row
        values.append(row / max(1e-9, float(np.linalg.norm(row))))
        numbers.append(columns)
        starts.append(starts[-1] + len(known))
    matrix = sparse.csr_matrix((np.concatenate(values), np.concatenate(numbers), starts), (len(texts), len(chosen)))
    student.weights, student.bias = fit_head(matrix, targets, multi=multi, strength=strength)
    return student


def cross_fitted(
    texts: Sequence[str], targets: NDArray[np.float32], *, multi: bool = False, folds: int = 4, seed: int = 0
) -> NDArray[np.float32]:
    """What linear rungs that were trained without a row say of it: probabilities of shape (n, k).

    Args:
        texts: n requests.
        targets: 0 or 1, shape (n, k).
        multi: several labels a request.
        folds: parts that are left out in turn.
        seed: of the parts.
    """
    part = np.random.default_rng(seed).permutation(len(texts)) % folds
    found = np.empty_like(targets)
    for fold in range(folds):
        inside, outside = np.flatnonzero(part != fold).tolist(), np.flatnonzero(part == fold).tolist()
        student = fit_linear([texts[i] for i in inside], targets[inside], multi=multi)
        found[outside] = student.predict([texts[i] for i in outside]).probabilities
    return found


def cross_fitted_head(
    embedding: NDArray[np.float32], targets: NDArray[np.float32], *, folds: int = 4, seed: int = 0
) -> NDArray[np.float32]:
    """What heads on a frozen encoder that were trained without a row say of it: probabilities of shape (n, k).

    Args:
        embedding: shape (n, d).
        targets: 0 or 1, shape (n, k).
        folds: parts that are left out in turn.
        seed: of the parts.
    """
    features = (embedding - embedding.mean(axis=0)) / (embedding.std(axis=0) + 1e-6)
    part = np.random.default_rng(seed).permutation(len(features)) % folds
    found = np.empty_like(targets)
    for fold in range(folds):
        weights, bias = fit_head(features[part != fold], targets[part != fold], multi=False, strength=0.05)
        found[part == fold] = to_probabilities(features[part == fold] @ weights + bias, multi=False)
    return found


def fit_head(
    features: object, targets: NDArray[np.float32], *, multi: bool, strength: float, iterations: int = 100
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logistic regression: weights of shape (f, k) and bias of shape (k,).

    Args:
        features: dense or sparse array of shape (n, f).
        targets: 0 or 1, shape (n, k); labels that no row has get a bias that never wins.
        multi: k separate regressions instead of one with a softmax.
        strength: inverse of the L2 penalty.
        iterations: of L-BFGS, at the most.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    def regression(labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        model = LogisticRegression(C=strength, max_iter=iterations, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # Few rows of many labels are no regression by mistake.
            warnings.filterwarnings("ignore", "The number of unique classes")
            model.fit(features, labels)
        return np.asarray(model.coef_, np.float32).T, np.asarray(model.intercept_, np.float32)

    n_features, k = features.shape[1], targets.shape[1]  # pyright: ignore
    weights, bias = np.zeros((n_features, k), np.float32), np.full(k, -30.0, np.float32)
    if multi:
        for label in range(k):
            column = targets[:, label].astype(np.int64)
            if column.min() == column.max():
                bias[label] = 30.0 if column[0] else -30.0
                continue
            w, b = regression(column)
            weights[:, label], bias[label] = w[:, 0], b[0]
        return weights, bias
    labels = targets.argmax(axis=1)
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    w, b = regression(labels)
    if len(present) == 2:
        w, b = np.concatenate([-w / 2, w / 2], axis=1), np.concatenate([-b / 2, b / 2])
    weights[:, present], bias[present] = w, b
    return weights, bias
