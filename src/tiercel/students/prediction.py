"""What a student says of a batch of requests, and the protocol that all students of classification follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prediction", "Student"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A student's view of n requests.

    Attributes:
        probabilities: shape (n, k); rows sum to 1, or with several labels each entry is a probability by itself.
        embedding: shape (n, d), or None for a rung that has no embedding space.
        familiarity: shape (n,), in (-1, 1]; how much of the request the rung knows (n-grams). Below 0 where it did not
            read all of the request: less the share that was cut off.
    """

    probabilities: Floats
    embedding: Floats | None
    familiarity: Floats


class Student(Protocol):
    """A trained classifier that is ready to serve."""

    rung: str

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Predictions for `texts`, in their order."""
        ...

    def single_threaded(self) -> Student:
        """The same student on one thread, to measure what one request costs."""
        ...

    def save(self, folder: Path) -> None:
        """Write the student into `folder` as JSON, safetensors and ONNX; nothing that runs code when it is read."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that `save` writes."""
        ...
