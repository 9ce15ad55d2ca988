"""The linear rung: logistic regression on n-grams, read and served without scikit-learn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.students.ngrams import LONGEST, ngrams
from tiercel.students.prediction import Prediction

__all__ = ["LinearStudent"]

Floats = NDArray[np.float32]


class LinearStudent:
    """Logistic regression on tf-idf of n-grams; 0.1 ms a request.

    Args:
        weights: shape (f, k), one row a feature.
        bias: shape (k,).
        vocabulary: the f features.
        idf: shape (f,), weight of each feature's count.
        multi: several labels a request: k independent probabilities instead of one distribution.
    """

    rung = "linear"
    files = ("linear.safetensors", "linear.json")

    def __init__(
        self, weights: Floats, bias: Floats, vocabulary: Sequence[str], idf: Floats, *, multi: bool = False
    ) -> None:
        self.weights = np.ascontiguousarray(weights, dtype=np.float32)
        self.bias = bias.astype(np.float32)
        self.vocabulary = list(vocabulary)
        self.idf = idf.astype(np.float32)
        self.multi = multi
        self._index = {feature: i for i, feature in enumerate(self.vocabulary)}

    def features(self, text: str) -> tuple[NDArray[np.int64], Floats, float]:
        """Feature numbers, their tf-idf values (unit length) and the share of n-grams that are known."""
        found = ngrams(text)
        index = self._index
        counts = Counter([i for i in map(index.get, found) if i is not None])
        if not counts:
            return np.empty(0, np.int64), np.empty(0, np.float32), 0.0
        numbers = np.fromiter(counts.keys(), np.int64, len(counts))
        values = np.fromiter(counts.values(), np.float32, len(counts))
        values = (1.0 + np.log(values)) * self.idf[numbers]
        unit = (values / math.sqrt(float(values @ values))).astype(np.float32)
        return numbers, unit, counts.total() / len(found)

    def logits(self, text: str) -> tuple[Floats, float]:
        """Scores of the k labels and the share of n-grams that are known."""
        numbers, values, known = self.features(text)
        return values @ self.weights[numbers] + self.bias, known

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Predictions for `texts`, one at a time."""
        logits = np.empty((len(texts), self.bias.size), dtype=np.float32)
        known = np.empty(len(texts), dtype=np.float32)
        for i, text in enumerate(texts):
            logits[i], known[i] = self.logits(text)
            if len(text) > LONGEST:
                known[i] = LONGEST / len(text) - 1
        return Prediction(probabilities=to_probabilities(logits, multi=self.multi), embedding=None, familiarity=known)

    def single_threaded(self) -> LinearStudent:
        """Itself."""
        return self

    def save(self, folder: Path) -> None:
        """Write weights (half precision) and vocabulary into `folder`."""
        from safetensors.numpy import save_file

        # `predict` must not change by saving: the weights are rounded here, in memory too.
        half = self.weights.astype(np.float16)
        self.weights = half.astype(np.float32)
        save_file({"weights": half, "bias": self.bias, "idf": self.idf}, folder / self.files[0])
        record = {"rung": self.rung, "multi": self.multi, "vocabulary": self.vocabulary}
        (folder / self.files[1]).write_bytes(msgspec.json.encode(record))

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> LinearStudent:
        """The student that `save` wrote into `folder`; it runs on one thread whatever `threads` says."""
        from safetensors.numpy import load_file

        arrays = load_file(folder / cls.files[0])
        record = msgspec.json.decode((folder / cls.files[1]).read_bytes())
        return cls(arrays["weights"], arrays["bias"], record["vocabulary"], arrays["idf"], multi=record["multi"])


def to_probabilities(logits: Floats, *, multi: bool) -> Floats:
    """Softmax over the k labels of each row, or with `multi` a sigmoid of each entry; shape (n, k) either way."""
    if multi:
        return (1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
