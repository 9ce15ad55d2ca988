"""What the requests of a workload look like: an embedding, a length, and whether they are in scope.

A bundle keeps it of its calibration rows, so that live requests can be compared with those that the certificate rests
on. Embeddings are the encoder's where the student has one, else hashed words; no text is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.providers.tokens import estimate_tokens
from tiercel.routing.input_drift import FEWEST
from tiercel.students.ngrams import ngrams

__all__ = ["FILE", "Inputs", "embed_inputs", "inputs_of"]

Floats = NDArray[np.float64]

FILE = "inputs.safetensors"
MOST_ROWS = 2_000
"""Of the reference; more tell little and make the file large."""
WIDTH = 128
"""Of the embedding by hashed words."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """n requests.

    Attributes:
        embeddings: shape (n, d), rows of length 1, rounded to half precision.
        tokens: about how many each has, shape (n,).
        out_of_scope: whether the policy takes it for one that is none of the workload's business, shape (n,).
    """

    embeddings: Floats
    tokens: Floats
    out_of_scope: NDArray[np.bool_]

    def save(self, folder: Path) -> None:
        """Write them into `folder`."""
        from safetensors.numpy import save_file

        arrays = {
            "embeddings": self.embeddings.astype(np.float16),
            "tokens": self.tokens.astype(np.float32),
            "out_of_scope": self.out_of_scope.astype(np.uint8),
        }
        save_file(arrays, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Inputs | None:
        """What `save` wrote into `folder`; None where it wrote nothing."""
        from safetensors.numpy import load_file

        if not (folder / FILE).is_file():
            return None
        arrays = load_file(folder / FILE)
        return cls(
            embeddings=arrays["embeddings"].astype(np.float64),
            tokens=arrays["tokens"].astype(np.float64),
            out_of_scope=arrays["out_of_scope"].astype(np.bool_),
        )


def inputs_of(student: Any, texts: Sequence[str], scores: Floats, seed: int) -> Inputs | None:
    """The inputs of calibration rows; None where they are too few to be compared with.

    Args:
        student: of the bundle.
        texts: of n rows, as the student reads them.
        scores: of the gate, shape (n,).
        seed: of the choice, where there are more than are kept.
    """
    if len(texts) < FEWEST:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:MOST_ROWS])
    kept: list[str] = [texts[int(i)] for i in chosen]
    embeddings, tokens = embed_inputs(student, kept)
    return Inputs(embeddings=embeddings, tokens=tokens, out_of_scope=scores[chosen] <= 0)


def embed_inputs(student: Any, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Embeddings, shape (n, d), and lengths in tokens, shape (n,), of n texts, as `Inputs` has them.

    Args:
        student: of the bundle; one that has an encoder embeds with it.
        texts: as the student reads them.
    """
    embed = getattr(student, "embed", None)
    found = embed(texts) if embed is not None else None
    raw = np.stack([_hashed(text) for text in texts]) if found is None else np.asarray(found, np.float64)
    unit = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9)
    # The same rounding on both sides, or a classifier could tell them apart by that alone.
    rounded = unit.astype(np.float16).astype(np.float64)
    return rounded, np.array([float(estimate_tokens(text)) for text in texts], dtype=np.float32).astype(np.float64)


def _hashed(text: str) -> Floats:
    """Counts of n-grams, each added to or taken from one of `WIDTH` places by its hash; shape (WIDTH,)."""
    hashes = np.array([zlib.crc32(gram.encode("utf-8", "replace")) for gram in ngrams(text)], dtype=np.int64)
    signs = np.where(hashes & 1, 1.0, -1.0)
    return np.bincount((hashes >> 1) % WIDTH, weights=signs, minlength=WIDTH).astype(np.float64)
