"""What a student answers, with what a gate may know of it, and the protocol of students that serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tiercel.types import Answer

__all__ = ["Closing", "Responder", "Responses"]


@dataclass(frozen=True, kw_only=True)
class Responses:
    """A student's answers to n requests.

    Attributes:
        answers: one a request.
        signals: what tells how safe each answer is, shape (n, s); the columns are named by the responder.
    """

    answers: list[Answer]
    signals: NDArray[np.float64]


@runtime_checkable
class Closing(Protocol):
    """A responder that holds what has to be let go."""

    def close(self) -> None:
        """Cancel all work; no answers are given after it."""
        ...


class Responder(Protocol):
    """A trained student that is ready to serve: texts in, answers and signals out."""

    kind: str
    """Name under which a bundle knows how to load it."""

    @property
    def rung(self) -> str:
        """The rung of the ladder that it stands on."""
        ...

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the s signals."""
        ...

    def respond(self, texts: Sequence[str]) -> Responses:
        """Answers for `texts`, in their order; what one gets does not depend on the others."""
        ...

    def single_threaded(self) -> Self:
        """The same student on one thread, to measure what one request costs."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything into `folder` as JSON, safetensors and ONNX; nothing that runs code when it is read."""
        ...
