"""Two ways of training compared on rows that neither was trained on: how likely each holds the given answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["known_nll", "word_losses"]


def known_nll(nll: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Negative log likelihoods as they are written down: None where an answer does not fit."""
    return tuple(None if np.isnan(x) else float(x) for x in nll)


def word_losses(nll: Sequence[float | None], answers: Sequence[str]) -> NDArray[np.float64]:
    """1 minus the geometric mean probability of a word of each answer; shape (n,), in [0, 1].

    By words and not by tokens, so that students with other tokenizers can be compared; 1 where an answer does not fit.

    Args:
        nll: shape (n,), of whole answers, in nats; None or NaN where one does not fit.
        answers: n texts.
    """
    values = np.array([np.nan if x is None else x for x in nll], dtype=np.float64)
    words = np.array([max(1, len(a.split())) for a in answers], dtype=np.float64)
    return np.where(np.isnan(values), 1.0, 1 - np.exp(-np.maximum(values, 0.0) / words))
