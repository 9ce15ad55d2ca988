"""Several rungs read the same request and their probabilities are multiplied, each to a power of its own.

With one rung the power is a temperature; with two it also says how far the cheaper one is to be heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiercel.students.prediction import Prediction, Student

__all__ = ["BlendedPrediction", "BlendedStudent", "blend", "fit_powers"]

Floats = NDArray[np.float32]

_TINY = 1e-7


class BlendedPrediction:
    """What each rung says and what they say together.

    Attributes:
        probabilities: blended, shape (n, k).
        parts: the prediction of each rung, in the order of the students.
    """

    def __init__(self, probabilities: Floats, parts: Sequence[Prediction]) -> None:
        self.probabilities = probabilities
        self.parts = tuple(parts)

    @property
    def embedding(self) -> Floats | None:
        """Embeddings of the rung that has them, shape (n, d); None when none has."""
        return next((p.embedding for p in self.parts if p.embedding is not None), None)


def blend(probabilities: Sequence[Floats], powers: Sequence[float], *, multi: bool) -> Floats:
    """Blended probabilities of shape (n, k); see the module for what the powers do."""
    return _blend(_evidence(probabilities, multi=multi), np.asarray(powers), multi=multi).astype(np.float32)


def _evidence(probabilities: Sequence[Floats], *, multi: bool) -> NDArray[np.float64]:
    """Log probabilities of each rung, or log odds with several labels; shape (m, n, k) for m rungs."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p) if multi else np.log(p)


def _blend(evidence: NDArray[np.float64], powers: NDArray[np.float64], *, multi: bool) -> NDArray[np.float64]:
    scores = np.tensordot(powers, evidence, axes=1)
    if multi:
        return 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def fit_powers(probabilities: Sequence[Floats], targets: Floats, *, multi: bool) -> tuple[float, ...]:
    """The powers with the smallest log loss on rows that no rung was trained on; a rung that does not help gets 0.

    Args:
        probabilities: of each rung, shape (n, k).
        targets: 0 or 1, shape (n, k).
        multi: several labels a request.
    """
    from scipy.optimize import minimize

    evidence = _evidence(probabilities, multi=multi)

    def loss(powers: NDArray[np.float64]) -> float:
        p = np.clip(_blend(evidence, powers, multi=multi), _TINY, 1 - _TINY)
        likelihood = targets * np.log(p)
        if multi:
            likelihood = likelihood + (1 - targets) * np.log(1 - p)
        # A weak pull towards the average of the rungs keeps a hundred rows from deciding everything.
        return float(-likelihood.sum() / len(targets)) + 0.02 * float(np.square(powers - 1 / len(powers)).mean())

    start = np.full(len(probabilities), 1 / len(probabilities))
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(0.0, 4.0)] * len(start))
    powers = np.round(found.x, 4)
    return tuple(float(w) for w in powers) if powers.sum() > 0 else tuple(float(s) for s in start)


class BlendedStudent:
    """One or more students that answer as one.

    Args:
        parts: the rungs, the one that decides most first.
        powers: of each part.
        multi: several labels a request.
    """

    def __init__(self, parts: Sequence[Student], powers: Sequence[float], *, multi: bool) -> None:
        self.parts = tuple(parts)
        self.powers = tuple(powers)
        self.multi = multi

    @property
    def rung(self) -> str:
        """The rung of the first part."""
        return self.parts[0].rung

    def predict(self, texts: Sequence[str]) -> BlendedPrediction:
        """Predictions of all parts and of the blend."""
        parts = [part.predict(texts) for part in self.parts]
        return BlendedPrediction(blend([p.probabilities for p in parts], self.powers, multi=self.multi), parts)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each part: its rung, with a number from the second of a rung on."""
        rungs = [part.rung for part in self.parts]
        earlier = [rungs[:i].count(rung) for i, rung in enumerate(rungs)]
        return tuple(f"{rung}-{n + 1}" if n else rung for rung, n in zip(rungs, earlier, strict=True))

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its own, by its name."""
        for name, part in zip(self.names, self.parts, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            part.save(folder / name)
