"""Choosing which requests of a pool to label, in rounds: a student of what is labelled so far says what is hard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.progress import Progress
from tiercel.students.acquisition import choose, margin, softmax, unit_rows
from tiercel.students.ngrams import ngrams
from tiercel.tasks.labels import label_key
from tiercel.types import Example

__all__ = ["Chooser", "next_round", "text_of"]

FEWEST = 20
"""Labelled requests from which a student is worth listening to."""
COLUMNS = 1_024
"""Width of hashed n-grams, where no encoder is installed."""


def text_of(example: Example) -> str:
    """What is told apart: all that is said after the system prompt."""
    return "\n".join(m.text for m in example.messages if m.role not in ("system", "developer"))


def next_round(labelled: int, done: int, total: int) -> int:
    """How many to choose now: half at the start, where no student can say what is hard, then a tenth at a time.

    Args:
        labelled: requests whose answer is known.
        done: of those that are to be chosen, how many are.
        total: how many are to be chosen.
    """
    if labelled < FEWEST:
        return min(total - done, max(-(-total // 2) - done, FEWEST) if total >= 2 * FEWEST else total)
    return min(total - done, max(10, -(-total // 10)))


class Chooser:
    """Embeds a pool once, then chooses from it.

    Args:
        texts: n requests.
        seed: the same seed gives the same choice.
        progress: is told how far the embedding is.
    """

    def __init__(self, texts: Sequence[str], seed: int, progress: Progress) -> None:
        self.seed = seed
        self.rows = _embedded(texts, progress)

    def choose(self, count: int, labelled: Mapping[int, str | None], *, classes: bool) -> list[int]:
        """Numbers of the requests to label next.

        Args:
            count: wanted.
            labelled: the answer of each request that is labelled, by its number; None where it has none that can be
                used, so that it is not chosen again.
            classes: the answers are labels, so that a student of them can say what is hard.
        """
        known = np.array(sorted(labelled), dtype=np.int64)
        unsure = self._uncertainty(labelled) if classes else None
        return choose(self.rows, count, labelled=known, uncertainty=unsure, seed=self.seed).tolist()

    def _uncertainty(self, labelled: Mapping[int, str | None]) -> NDArray[np.float32] | None:
        """How unsure a student of the labelled requests is of each, shape (n,); None where none can be trained."""
        taught = {i: label_key(text) for i, text in labelled.items() if text is not None}
        names = sorted(set(taught.values()))
        if len(taught) < FEWEST or len(names) < 2 or importlib.util.find_spec("sklearn") is None:
            return None
        from tiercel.students.linear_training import fit_head

        number = {name: i for i, name in enumerate(names)}
        targets = np.zeros((len(taught), len(names)), dtype=np.float32)
        targets[np.arange(len(taught)), [number[name] for name in taught.values()]] = 1.0
        weights, bias = fit_head(self.rows[list(taught)], targets, multi=False, strength=20.0)
        return margin(softmax(self.rows @ weights + bias))


def _embedded(texts: Sequence[str], progress: Progress) -> NDArray[np.float32]:
    """Unit vectors of shape (n, d): of the default encoder where it is installed, else of hashed n-grams."""
    from tiercel.students.base_models import installed_encoder

    folder = installed_encoder()
    if folder is None or any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        progress.stage("reading the pool")
        return unit_rows(_hashed(texts))
    from tiercel.students.encoder_training import EncoderTrainer

    progress.stage("embedding the pool")
    return unit_rows(EncoderTrainer(folder, max_tokens=256).embed(texts, progress.step))


def _hashed(texts: Sequence[str]) -> NDArray[np.float32]:
    """TF-IDF of n-grams, each added to one of `COLUMNS` columns with a sign of its own; shape (n, COLUMNS)."""
    rows = np.zeros((len(texts), COLUMNS), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        codes = np.fromiter((crc32(f.encode("utf-8", "replace")) for f in ngrams(text)), dtype=np.int64)
        np.add.at(row, codes % COLUMNS, np.where(codes & 0x8000_0000, -1.0, 1.0).astype(np.float32))
    found = np.sign(rows) * np.log1p(np.abs(rows))
    frequency = (np.abs(rows) > 0).sum(axis=0)
    return found * (1 + np.log((1 + len(texts)) / (1 + frequency))).astype(np.float32)
