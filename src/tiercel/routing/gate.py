"""A gate: from signals to the probability that using the answer costs nothing against the frontier."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.logistic import fit_logistic

__all__ = ["LogisticGate", "cross_scores"]

Floats = NDArray[np.float64]

FEWEST_ERRORS = 8
"""Below so many unsafe rows a gate of several weights would fit noise; the first signal alone is used."""
_PENALTIES = (0.3, 0.03, 0.003)
_FOLDS = 5


class _Record(Struct, frozen=True, tag="logistic", tag_field="kind"):
    """A gate as it is stored."""

    choice: str
    centre: list[float]
    scale: list[float]
    weights: list[float]
    bias: float


class LogisticGate:
    """Logistic regression on standardised signals; the penalty, or the first signal alone, is chosen by folds.

    The first signal must rise with safety, as `confidence` does: it is the fallback. Learned values end in `_`.

    Args:
        seed: of the folds.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, signals: Floats, safe: NDArray[np.bool_]) -> LogisticGate:
        """Fit on rows that no student was trained on.

        Args:
            signals: shape (n, s), the first column confidence.
            safe: shape (n,), whether the answer was as good as the frontier's.
        """
        if signals.ndim != 2 or len(signals) != len(safe):
            raise ValueError(f"signals of shape {signals.shape} do not match {len(safe)} rows")
        if not np.isfinite(signals).all():
            raise ValueError("signals hold NaN or infinity")
        self.centre_ = signals.mean(axis=0) if len(signals) else np.zeros(signals.shape[1])
        self.scale_ = signals.std(axis=0) + 1e-6 if len(signals) else np.ones(signals.shape[1])
        z = self._standardise(signals)
        errors = int((~safe).sum())
        if min(errors, len(safe) - errors) < FEWEST_ERRORS:
            self.choice_ = "first signal, rows too few for more"
            self.weights_, self.bias_ = self._first_alone(z, safe)
            return self
        folds = np.random.default_rng(self.seed).permutation(len(safe)) % _FOLDS
        candidates: dict[str, Any] = {"first signal": self._first_alone}
        for penalty in _PENALTIES:
            candidates[f"all signals, penalty {penalty}"] = lambda a, b, p=penalty: fit_logistic(a, b, p)
        scores = {
            name: sum(
                _log_loss(z[folds == f], safe[folds == f], *fit(z[folds != f], safe[folds != f])) for f in range(_FOLDS)
            )
            for name, fit in candidates.items()
        }
        self.choice_ = min(scores, key=lambda name: scores[name])
        self.weights_, self.bias_ = candidates[self.choice_](z, safe)
        return self

    @staticmethod
    def _first_alone(z: Floats, safe: NDArray[np.bool_]) -> tuple[Floats, float]:
        weights = np.zeros(z.shape[1])
        if safe.all() or not safe.any():
            # No contrast to learn from: the order of the signal, at the rate that a uniform prior expects.
            weights[0] = 1.0
            rate = (int(safe.sum()) + 1) / (len(safe) + 2)
            return weights, float(np.log(rate / (1 - rate)))
        first, bias = fit_logistic(z[:, :1], safe, 0.003)
        weights[0] = max(float(first[0]), 1e-3)
        return weights, bias

    def _standardise(self, signals: Floats) -> Floats:
        return np.clip((signals - self.centre_) / self.scale_, -8, 8)

    def score(self, signals: Floats) -> Floats:
        """Probability of safety for each row, shape (n,), in (0, 1)."""
        odds = self._standardise(signals) @ self.weights_ + self.bias_
        return 1 / (1 + np.exp(-np.clip(odds, -40, 40)))

    def to_record(self) -> dict[str, Any]:
        """The learned values as JSON."""
        return {
            "kind": "logistic",
            "choice": self.choice_,
            "centre": self.centre_.tolist(),
            "scale": self.scale_.tolist(),
            "weights": self.weights_.tolist(),
            "bias": float(self.bias_),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LogisticGate:
        """The gate that `to_record` described.

        Raises:
            ValueError: the record describes none.
        """
        try:
            found = msgspec.convert(record, _Record)
        except msgspec.ValidationError as error:
            raise ValueError(f"its gate is none: {error}") from None
        if not len(found.centre) == len(found.scale) == len(found.weights):
            raise ValueError("its gate is none: centre, scale and weights differ in length")
        if min(found.scale, default=1.0) <= 0:
            raise ValueError("its gate is none: a scale is not above 0")
        gate = cls()
        gate.choice_ = found.choice
        gate.centre_, gate.scale_ = np.array(found.centre), np.array(found.scale)
        gate.weights_, gate.bias_ = np.array(found.weights), found.bias
        return gate


def _log_loss(z: Floats, safe: NDArray[np.bool_], weights: Floats, bias: float) -> float:
    odds = np.clip(z @ weights + bias, -40, 40)
    return float(np.logaddexp(0, np.where(safe, -odds, odds)).sum())


def cross_scores(signals: Floats, safe: NDArray[np.bool_], seed: int = 0, folds: int = 5) -> Floats:
    """Scores of each row from a gate that was fitted without it, shape (n,); for choosing between students."""
    part = np.random.default_rng(seed).permutation(len(safe)) % folds
    scores = np.empty(len(safe))
    for fold in range(folds):
        held = part == fold
        scores[held] = LogisticGate(seed).fit(signals[~held], safe[~held]).score(signals[held])
    return scores
