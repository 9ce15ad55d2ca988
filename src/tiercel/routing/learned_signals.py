"""Signals that learn from outcomes: readers of words and of embeddings, and what befell similar requests.

Each gives two columns: the delegation value and the cheaper tier's loss that it expects.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.ridge import RidgeFit, fit_ridge
from tiercel.routing.signal import Cost, Signal, SignalState, Stage

__all__ = ["AnswerReader", "AnswerWords", "Neighbours", "RequestReader", "RequestWords"]

Floats = NDArray[np.float64]

LONGEST = 8_000
"""Characters of a text whose words are read."""
MOST_WORDS = 8_000
"""Words and pairs that are told apart."""
_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_DIGITS = re.compile(r"\d+")


def _terms(text: str) -> list[str]:
    words = _WORD.findall(_DIGITS.sub("0", text[:LONGEST].lower()))
    return words + [f"{a} {b}" for a, b in pairwise(words)]


class _Words(Signal):
    """Ridge regression on tf-idf of words and pairs of words, every number read as 0."""

    learned = True
    least: ClassVar[int] = 2

    def columns(self) -> tuple[str, ...]:
        """Expected delegation value and loss."""
        return ("value", "weak_loss")

    def _text(self, exchange: Exchange) -> str:
        raise NotImplementedError

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> _Words:
        """Learn vocabulary and weights."""
        from scipy import sparse

        counted = [Counter(_terms(self._text(e))) for e in exchanges.items]
        frequency: Counter[str] = Counter()
        for counts in counted:
            frequency.update(counts.keys())
        kept = [t for t, c in frequency.most_common(MOST_WORDS) if c >= self.least]
        self.index_ = {term: i for i, term in enumerate(kept)}
        documents = np.array([frequency[t] for t in kept], dtype=np.float64)
        self.idf_ = np.log((1 + len(counted)) / (1 + documents)) + 1
        rows = [self._row(counts) for counts in counted]
        starts = np.concatenate([[0], np.cumsum([len(numbers) for numbers, _ in rows])])
        numbers = np.concatenate([n for n, _ in rows]) if rows else np.empty(0, np.int64)
        values = np.concatenate([v for _, v in rows]) if rows else np.empty(0)
        matrix = sparse.csr_matrix((values, numbers, starts), (len(rows), len(kept)))
        self.fit_ = _ridge_or_mean(matrix, outcomes.targets)
        return self

    def _row(self, counts: Counter[str]) -> tuple[NDArray[np.int64], Floats]:
        """Numbers of the known terms and their tf-idf, of unit length."""
        known = [(self.index_[t], c) for t, c in counts.items() if t in self.index_]
        numbers = np.array([i for i, _ in known], dtype=np.int64)
        values = (1 + np.log(np.array([c for _, c in known], dtype=np.float64))) * self.idf_[numbers]
        return numbers, values / max(float(np.linalg.norm(values)), 1e-12)

    def transform(self, exchanges: Exchanges) -> Floats:
        """Expected delegation value and loss, shape (n, 2)."""
        found = np.empty((len(exchanges), 2))
        for i, e in enumerate(exchanges.items):
            numbers, values = self._row(Counter(_terms(self._text(e))))
            found[i] = values @ self.fit_.weights[numbers] + self.fit_.bias
        return found

    def state(self) -> SignalState:
        """Vocabulary, weights."""
        arrays = {"idf": self.idf_, "weights": self.fit_.weights, "bias": self.fit_.bias}
        return SignalState(values={"terms": list(self.index_), "penalty": self.fit_.penalty}, arrays=arrays)

    def restore(self, state: SignalState) -> _Words:
        """From `state`."""
        self.index_ = {str(t): i for i, t in enumerate(state.values["terms"])}
        self.idf_ = state.arrays["idf"]
        self.fit_ = _restored(state)
        return self


class RequestWords(_Words):
    """Reads the request's words."""

    name = "request_words"
    stage = Stage.PRE

    def _text(self, exchange: Exchange) -> str:
        return exchange.request


class AnswerWords(_Words):
    """Reads the answer's words."""

    name = "answer_words"
    stage = Stage.POST

    def _text(self, exchange: Exchange) -> str:
        return exchange.answer or ""


class _Reader(Signal):
    """Ridge regression on standardised embeddings."""

    learned = True
    cost = Cost.EMBEDDING

    def columns(self) -> tuple[str, ...]:
        """Expected delegation value and loss."""
        return ("value", "weak_loss")

    def _embeddings(self, exchanges: Exchanges) -> Floats:
        raise NotImplementedError

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> _Reader:
        """Learn weights."""
        rows = self._embeddings(exchanges)
        scale = rows.std(axis=0) + 1e-6
        fitted = _ridge_or_mean(rows / scale, outcomes.targets)
        self.fit_ = RidgeFit(weights=fitted.weights / scale[:, None], bias=fitted.bias, penalty=fitted.penalty)
        return self

    def transform(self, exchanges: Exchanges) -> Floats:
        """Expected delegation value and loss, shape (n, 2)."""
        return self.fit_.predict(self._embeddings(exchanges))

    def state(self) -> SignalState:
        """Weights."""
        arrays = {"weights": self.fit_.weights, "bias": self.fit_.bias}
        return SignalState(values={"penalty": self.fit_.penalty}, arrays=arrays)

    def restore(self, state: SignalState) -> _Reader:
        """From `state`."""
        self.fit_ = _restored(state)
        return self


class RequestReader(_Reader):
    """Reads the request's embedding."""

    name = "request_reader"
    stage = Stage.PRE

    def _embeddings(self, exchanges: Exchanges) -> Floats:
        return exchanges.request_embeddings


class AnswerReader(_Reader):
    """Reads the embeddings of request and answer, and where they differ."""

    name = "answer_reader"
    stage = Stage.POST

    def _embeddings(self, exchanges: Exchanges) -> Floats:
        asked, answered = exchanges.request_embeddings, exchanges.answer_embeddings
        return np.hstack([asked, answered, asked * answered])


class Neighbours(Signal):
    """What befell the most similar requests among labelled traffic."""

    name = "neighbours"
    stage = Stage.PRE
    cost = Cost.EMBEDDING
    learned = True

    few: ClassVar[int] = 15
    many: ClassVar[int] = 60
    most_rows: ClassVar[int] = 5_000

    def columns(self) -> tuple[str, ...]:
        """Means over few and over many neighbours, and how near the nearest is."""
        return ("value_few", "value_many", "weak_loss_few", "weak_loss_many", "nearest")

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> Neighbours:
        """Keep the rows, a sample where there are very many."""
        rows = _unit(exchanges.request_embeddings)
        kept = np.sort(np.random.default_rng(0).permutation(len(rows))[: self.most_rows])
        # Half precision as on disk, so that a stored gate scores as the one that was fitted.
        self.rows_ = rows[kept].astype(np.float16).astype(np.float32)
        self.targets_ = outcomes.targets[kept]
        return self

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, 5)."""
        unit = _unit(exchanges.request_embeddings).astype(np.float32)
        # Rounded, and ties by the rows' order: the last digits of a product depend on the batch.
        cosine = (unit @ self.rows_.T).round(5).astype(np.float64) - 1e-10 * np.arange(len(self.rows_))
        many = min(self.many, cosine.shape[1])
        near = np.argpartition(-cosine, many - 1, axis=1)[:, :many]
        closeness = np.take_along_axis(cosine, near, axis=1)
        order = np.argsort(-closeness, axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        closeness = np.take_along_axis(closeness, order, axis=1)
        weight = np.exp(8 * (closeness - closeness[:, :1]))
        columns = list[Floats]()
        for target in self.targets_.T:
            for k in (min(self.few, many), many):
                share = weight[:, :k] / weight[:, :k].sum(axis=1, keepdims=True)
                columns.append((share * target[near[:, :k]]).sum(axis=1))
        return np.column_stack([*columns, closeness[:, 0]])

    def state(self) -> SignalState:
        """The rows that are kept."""
        return SignalState(arrays={"rows": self.rows_.astype(np.float16), "targets": self.targets_})

    def restore(self, state: SignalState) -> Neighbours:
        """From `state`."""
        self.rows_ = state.arrays["rows"].astype(np.float32)
        self.targets_ = state.arrays["targets"]
        return self


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _ridge_or_mean(features: Any, targets: Floats) -> RidgeFit:
    """A ridge regression; the mean alone where no feature varies or too few rows are there."""
    if features.shape[1] == 0 or features.shape[0] < 3:
        mean = targets.mean(axis=0) if len(targets) else np.zeros(targets.shape[1])
        return RidgeFit(weights=np.zeros((features.shape[1], targets.shape[1])), bias=mean, penalty=0.0)
    return fit_ridge(features, targets)


def _restored(state: SignalState) -> RidgeFit:
    return RidgeFit(weights=state.arrays["weights"], bias=state.arrays["bias"], penalty=float(state.values["penalty"]))
