"""Whether what is served answers as well as what was trained, and ranks its answers as well for a gate.

`tiercel.compress.serving_parity` looks at tokens and finds faults of a conversion in a few rows. What it lets pass,
such as fewer bits, may still cost answers: here both sides are compared on many rows by what their answers lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import ParityError
from tiercel.stats.paired import auroc_fall_pvalue, loss_rise_pvalue
from tiercel.stats.ranking import auroc

__all__ = ["Judged", "QualityParity", "compare_quality", "require_quality"]

LEVEL = 0.01
"""Share of right conversions that may be refused; the two tests have a half of it each."""
LEAST_FALL = 0.01
"""A smaller fall of the AUROC is none to a gate, however sure it is."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Answers of one side to n rows.

    Attributes:
        losses: shape (n,), in [0, 1].
        right: which answers a gate would want to accept, shape (n,).
        logprobs: of each whole answer, in nats, shape (n,).
    """

    losses: NDArray[np.float64]
    right: NDArray[np.bool_]
    logprobs: NDArray[np.float64]


class QualityParity(Struct, frozen=True, kw_only=True):
    """What serving costs in quality."""

    rows: int
    served_loss: float
    """Mean loss of what is served."""
    trained_loss: float
    loss_pvalue: float
    """One-sided, paired: small where the served answers lose more."""
    served_auroc: float | None
    """Of the answers' log probability for right ones; None where all are right or all are wrong."""
    trained_auroc: float | None
    auroc_pvalue: float
    """One-sided, paired: small where the served model's probability ranks its answers worse."""

    def __str__(self) -> str:
        said = f"loss {self.served_loss:.3f} served, {self.trained_loss:.3f} trained"
        if self.served_auroc is not None and self.trained_auroc is not None:
            said += f"; AUROC of the log probability {self.served_auroc:.3f} and {self.trained_auroc:.3f}"
        return f"{said} on {self.rows} rows of the gate"


def compare_quality(served: Judged, trained: Judged, *, seed: int = 0) -> QualityParity:
    """Compare the two sides' answers to the same rows.

    Args:
        served: answers of the engine, free as the trained model's.
        trained: answers of the trained model.
        seed: of the tests' draws.
    """
    areas = [auroc(side.logprobs, side.right) for side in (served, trained)]
    return QualityParity(
        rows=served.losses.size,
        served_loss=float(served.losses.mean()) if served.losses.size else 0.0,
        trained_loss=float(trained.losses.mean()) if trained.losses.size else 0.0,
        loss_pvalue=loss_rise_pvalue(served.losses, trained.losses, seed=seed),
        served_auroc=None if math.isnan(areas[0]) else areas[0],
        trained_auroc=None if math.isnan(areas[1]) else areas[1],
        auroc_pvalue=auroc_fall_pvalue((served.logprobs, served.right), (trained.logprobs, trained.right), seed=seed),
    )


def require_quality(found: QualityParity) -> None:
    """Let nothing be served that is shown to be worse.

    Raises:
        ParityError: it loses more, or its probability ranks its answers worse.
    """
    fall = (found.trained_auroc or 0.0) - (found.served_auroc or 0.0)
    if found.loss_pvalue <= LEVEL / 2:
        test = f"it loses more (paired test, p = {found.loss_pvalue:.2g})"
    elif found.auroc_pvalue <= LEVEL / 2 and fall >= LEAST_FALL:
        test = f"its probability tells right answers less well (paired test, p = {found.auroc_pvalue:.2g})"
    else:
        return
    raise ParityError(f"what would be served is worse than what was trained: {found}; {test}")
