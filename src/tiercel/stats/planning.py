"""How many rows a certificate needs."""

from __future__ import annotations

import math

from tiercel.stats.bounds import binomial_pvalue

__all__ = ["largest_allowed_errors", "rows_needed"]

MOST_ERRORS = 500
"""Errors up to which the fewest rows are found exactly; beyond, to within 2 %."""


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

    # Each number of errors needs its own fewest rows; the first that leaves room for the expected errors is the answer.
    rows = 0
    for errors in range(MOST_ERRORS):
        rows = _rows_for(errors, bound, delta, rows)
        if math.ceil(expected_loss * rows - 1e-9) <= errors:
            return rows if rows <= most else None
    while binomial_pvalue(math.ceil(expected_loss * rows), rows, bound) > delta:
        rows = round(rows * 1.02)
        if rows > most:
            return None
    return rows


def _rows_for(errors: int, bound: float, delta: float, least: int) -> int:
    """The fewest rows, at least `least`, that certify `bound` in spite of `errors`."""
    low, high = max(least - 1, errors), max(least, errors + 1)
    while binomial_pvalue(errors, high, bound) > delta:
        low, high = high, high + max(1, math.ceil(2 / bound))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_pvalue(errors, middle, bound) <= delta else (middle, high)
    return high
