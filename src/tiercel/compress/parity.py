"""Whether what is served answers as what was trained."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["Parity", "compare_predictions"]

REQUIRED_AGREEMENT = 0.995


class Parity(Struct, frozen=True, kw_only=True):
    """How a served student compares with the trained one, on the same rows."""

    rows: int
    agreement: float
    """Share of rows on which both decide the same labels."""
    largest_difference: float
    """Largest difference of a probability."""
    first_difference: int | None = None
    """Number of the first row on which they decide differently; None when there is none."""

    @property
    def holds(self) -> bool:
        """Whether the served student may stand for the trained one."""
        return self.agreement >= REQUIRED_AGREEMENT


def compare_predictions(
    served: NDArray[np.float32], trained: NDArray[np.float32], decided: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> Parity:
    """Compare probabilities of shape (n, k) and the decisions (served, trained) of shape (n, k) made from them."""
    same = (decided[0] == decided[1]).all(axis=1)
    differing = np.flatnonzero(~same)
    return Parity(
        rows=len(same),
        agreement=float(same.mean()) if len(same) else 1.0,
        largest_difference=float(np.abs(served - trained).max()) if len(same) else 0.0,
        first_difference=int(differing[0]) if differing.size else None,
    )
