"""How many rows a certificate needs."""

from __future__ import annotations

import math

from tiercel.stats.bounds import binomial_pvalue

__all__ = ["largest_allowed_errors", "rows_needed"]


def largest_allowed_errors(n: int, bound: float, delta: float) -> int:
    """The most errors among `n` rows that still certify `bound` at level `1 - delta`; -1 when even none is too many."""
    if binomial_pvalue(0, n, bound) > delta:
        return -1
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_pvalue(middle, n, bound) <= delta else (low, middle)
    return low


def rows_needed(expected_loss: float, bound: float, delta: float, most: int = 10_000_000) -> int | None:
    """The fewest calibration rows with which a loss of `expected_loss` certifies `bound`.

    Args:
        expected_loss: marginal excess loss that the policy is expected to have, in [0, 1].
        bound: the bound to certify.
        delta: allowed chance that the certificate is wrong.
        most: give up beyond this many rows.

    Returns:
        Rows, or None where no number up to `most` is enough (an expected loss at or above the bound, above all).
    """
    if expected_loss >= bound:
        return None

    def enough(n: int) -> bool:
        return binomial_pvalue(math.ceil(expected_loss * n), n, bound) <= delta

    high = max(1, math.ceil(math.log(delta) / math.log1p(-bound)))
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
