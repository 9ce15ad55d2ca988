"""Whether two queries gave the same result, as execution accuracy asks for it.

Rows are a multiset: their order counts only where the reference query orders its result. Columns are compared in the
order in which they stand, and their names do not count; Spider's own evaluation would also accept permuted columns, but
a program that reads the second column for the first is wrong. NULL equals NULL, whole numbers equal the floating-point
numbers of the same value, and floating-point numbers equal within a tolerance. A text is never a number.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

__all__ = ["TOLERANCE", "same_rows"]

TOLERANCE = 1e-6
"""Relative; also absolute for numbers below 1."""
MOST_TRIES = 2_000
"""Rows of one group up to which near-equal numbers are matched row by row."""

Row = Sequence[Any]


def same_rows(got: Sequence[Row], wanted: Sequence[Row], *, ordered: bool, tolerance: float = TOLERANCE) -> bool:
    """Whether two results are the same.

    Args:
        got: n rows of the answer, each of the same number of columns.
        wanted: n rows of the reference.
        ordered: whether the order of the rows counts.
        tolerance: of floating-point numbers, relative (absolute below 1).
    """
    if len(got) != len(wanted):
        return False
    if not got:
        return True
    if len(got[0]) != len(wanted[0]):
        return False
    ours, theirs = [_split(row) for row in got], [_split(row) for row in wanted]
    if ordered:
        return all(a[0] == b[0] and _close(a[1], b[1], tolerance) for a, b in zip(ours, theirs, strict=True))
    if Counter(ours) == Counter(theirs):
        return True
    if Counter(key for key, _ in ours) != Counter(key for key, _ in theirs):
        return False
    groups, expected = _grouped(ours), _grouped(theirs)
    return all(_match(groups[key], expected[key], tolerance) for key in groups)


Numbers = tuple[float | int, ...]
Split = tuple[tuple[Any, ...], Numbers]


def _split(row: Row) -> Split:
    """The cells that must be equal, and the numbers among them, which must be close."""
    exact: list[Any] = []
    numbers: list[float | int] = []
    for cell in row:
        if isinstance(cell, int | float | Decimal):
            numbers.append(_number(cell))
            exact.append(float)
        else:
            exact.append(_hashable(cell))
    return tuple(exact), tuple(numbers)


def _number(cell: float | int | Decimal) -> float | int:
    """A whole number as an int, exact at any size; all NaN are one object, so that they are equal in a tuple."""
    if not math.isfinite(cell):
        return math.nan if math.isnan(cell) else float(cell)
    return int(cell) if cell == int(cell) else float(cell)


def _hashable(cell: Any) -> Any:
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    return json.dumps(cell, sort_keys=True, default=str) if isinstance(cell, list | dict) else cell


def _close(ours: Numbers, theirs: Numbers, tolerance: float) -> bool:
    return all(_same_number(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))


def _same_number(ours: float | int, theirs: float | int, tolerance: float) -> bool:
    if isinstance(ours, int) and isinstance(theirs, int):
        return ours == theirs
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance)


def _grouped(rows: list[Split]) -> dict[tuple[Any, ...], list[Numbers]]:
    groups: dict[tuple[Any, ...], list[Numbers]] = {}
    for key, numbers in rows:
        groups.setdefault(key, []).append(numbers)
    return groups


def _match(ours: list[Numbers], theirs: list[Numbers], tolerance: float) -> bool:
    """Whether rows of numbers pair up; in sorted order first, which rounding can upset where numbers nearly tie."""
    ours, theirs = (sorted(rows, key=_sortable) for rows in (ours, theirs))
    if all(_close(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)):
        return True
    if len(ours) > MOST_TRIES:
        return False
    left = list(theirs)
    for row in ours:
        partner = next((i for i, other in enumerate(left) if _close(row, other, tolerance)), None)
        if partner is None:
            return False
        left.pop(partner)
    return True


def _sortable(numbers: Numbers) -> tuple[tuple[bool, float | int], ...]:
    return tuple((True, 0) if math.isnan(n) else (False, n) for n in numbers)
