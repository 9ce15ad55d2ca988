"""How many rows a certificate needs, and how likely it is to be had from so many; exact for losses of 0 and 1."""

from __future__ import annotations

import math

from tiercel.stats.bounds import binomial_cdf, binomial_pvalue

__all__ = ["chance_of_certificate", "largest_allowed_errors", "rows_for_chance", "rows_needed"]

MOST_ERRORS = 500
"""Errors up to which the fewest rows are found exactly; beyond, to within 2 %."""
_SURE = 25
"""Numbers of errors in a row that must leave the chance wanted."""


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


def chance_of_certificate(n: int, expected_loss: float, bound: float, delta: float) -> float:
    """Probability that `n` rows certify `bound` at level `1 - delta` where each loses 1 with chance `expected_loss`."""
    return binomial_cdf(largest_allowed_errors(n, bound, delta), n, expected_loss)


def rows_for_chance(
    chance: float, expected_loss: float, bound: float, delta: float, most: int = 2_000_000
) -> int | None:
    """The fewest rows from which on every number of rows certifies `bound` with probability `chance` or more.

    The chance rises with rows as a saw does: it falls row by row until the rows allow one more error. Each number of
    errors has its tooth, and the worst of a tooth is its last row.

    Args:
        chance: that the certificate is had, in (0, 1).
        expected_loss: chance that a row loses 1, in [0, 1].
        bound: the bound to certify, in (0, 1).
        delta: allowed chance that the certificate is wrong.
        most: give up beyond this many rows.

    Returns:
        Rows, or None where no number up to `most` is enough (an expected loss at or above the bound, above all).
    """
    if expected_loss >= bound:
        return None

    def first(errors: int) -> int:
        return _rows_for(errors, bound, delta, math.floor(errors / bound))

    def holds(errors: int) -> bool:
        return binomial_cdf(errors, first(errors + 1) - 1, expected_loss) >= chance

    high = 1
    while not holds(high):
        high *= 2
        if high / bound > most:
            return None
    low = -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    # Rounding lets single teeth dip again, where the bound is large: each is looked at until a run of them holds.
    tooth = high
    while tooth < high + _SURE:
        tooth += 1
        if not holds(tooth):
            high = tooth + 1
    rows = first(high)
    return rows if rows <= most else None


def _rows_for(errors: int, bound: float, delta: float, least: int) -> int:
    """The fewest rows, at least `least`, that certify `bound` in spite of `errors`."""
    low, high = max(least - 1, errors), max(least, errors + 1)
    while binomial_pvalue(errors, high, bound) > delta:
        low, high = high, high + max(1, math.ceil(2 / bound))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_pvalue(errors, middle, bound) <= delta else (middle, high)
    return high
