"""A closed set of labels: from the text of an answer to labels and back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["LabelSet", "label_key"]

_TRIM = " \t\r\n\"'`*.:;!"
_SPACE = re.compile(r"\s+")


def label_key(text: str) -> str:
    """What is left of an answer when case, quotes, emphasis and closing punctuation are set aside."""
    return _SPACE.sub(" ", text.strip().strip(_TRIM).strip()).casefold()


class LabelSet(Struct, frozen=True, kw_only=True):
    """The labels of a classification workload, as the frontier writes them."""

    labels: tuple[str, ...]
    """k labels, most frequent first."""
    multi: bool = False
    """Whether an answer may carry several labels (or none)."""
    separator: str = ", "
    """Text between labels of one answer; "json" where the answer is a JSON list."""

    def parse(self, text: str) -> tuple[int, ...] | None:
        """Numbers of the labels that an answer carries, ascending; None when it names anything else."""
        index = _index(self.labels)
        if not self.multi:
            number = index.get(label_key(text))
            return None if number is None else (number,)
        parts = split_labels(text, self.separator)
        numbers = [index.get(label_key(p)) for p in parts if p.strip()]
        if any(n is None for n in numbers):
            return None
        return tuple(sorted({n for n in numbers if n is not None}))

    def render(self, numbers: Sequence[int]) -> str:
        """The text of an answer that carries the labels `numbers`."""
        names = [self.labels[i] for i in numbers]
        if self.multi and self.separator == "json":
            return json.dumps(names, ensure_ascii=False)
        return self.separator.join(names) if self.multi else names[0]

    def targets(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text of 0 and 1, shape (n, k); a text that does not parse gives a row of NaN."""
        matrix = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for row, text in zip(matrix, texts, strict=True):
            numbers = self.parse(text)
            if numbers is None:
                row[:] = np.nan
            else:
                row[list(numbers)] = 1.0
        return matrix

    def decide(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which labels each row gets, shape (n, k): the likeliest one, or with `multi` all at one half and above."""
        if self.multi:
            return probabilities >= 0.5
        chosen = np.zeros(probabilities.shape, dtype=np.bool_)
        chosen[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
        return chosen


_indexes: dict[tuple[str, ...], dict[str, int]] = {}


def _index(labels: tuple[str, ...]) -> dict[str, int]:
    if labels not in _indexes:
        _indexes[labels] = {label_key(label): i for i, label in enumerate(labels)}
    return _indexes[labels]


def split_labels(text: str, separator: str) -> list[str]:
    """The parts of an answer that lists labels; one part when it is no list."""
    if separator == "json":
        try:
            parts = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return [str(p) for p in parts] if isinstance(parts, list) else [text]
    return text.split(separator.strip(" ") or separator)
