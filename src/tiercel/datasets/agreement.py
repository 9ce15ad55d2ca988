"""Rows that repeat one another, and rows that contradict one another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.near_duplicates import near_duplicate_groups

__all__ = ["Agreement", "answer_key", "find_agreement"]

NEAR = 0.9
"""Jaccard similarity of five-byte shingles from which requests are near-equal; a split asks for less (0.7), since what
it must not part may still be worth learning twice."""
_NUMBER = re.compile(r"\d+")


def answer_key(answer: str) -> str:
    """One text for answers that differ in case and blanks only."""
    return " ".join(answer.casefold().split())


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What near-equal requests among n rows were answered.

    Attributes:
        repeats: int array of shape (n,), the first row with a near-equal request and the same answer; a row that is the
            first of its kind holds its own number.
        exact: bool array of shape (n,), an earlier row has the same request and the same answer to the letter.
        disputed: float array of shape (n,), share of the rows with a near-equal request, this one included, that are
            answered otherwise; 0 where all agree.
        opponent: int array of shape (n,), the first row that answers otherwise; -1 where all agree.
    """

    repeats: NDArray[np.int64]
    exact: NDArray[np.bool_]
    disputed: NDArray[np.float64]
    opponent: NDArray[np.int64]


def find_agreement(
    requests: Sequence[str],
    answers: Sequence[str],
    *,
    threshold: float = NEAR,
    key: Callable[[str], str] = answer_key,
) -> Agreement:
    """Group near-equal requests, directly or through others, and compare their answers.

    Requests that differ in a number are not near-equal here: "lost 3 parcels" and "lost 4 parcels" may rightly be
    answered differently.

    Args:
        requests: n texts.
        answers: n texts.
        threshold: Jaccard similarity from which requests are near-equal.
        key: one value for answers that mean the same; a task with another notion of it (JSON, SQL) brings its own.
    """
    n = len(requests)
    groups = near_duplicate_groups(requests, threshold)
    together: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for row, request in enumerate(requests):
        together.setdefault((int(groups[row]), tuple(_NUMBER.findall(request))), []).append(row)
    keys = [key(a) for a in answers]
    repeats, opponent = np.arange(n), np.full(n, -1)
    exact, disputed = np.zeros(n, dtype=bool), np.zeros(n)
    for rows in together.values():
        if len(rows) == 1:
            continue
        counts = Counter(keys[r] for r in rows)
        first = {k: next(r for r in rows if keys[r] == k) for k in counts}
        letters = set[tuple[str, str]]()
        for row in rows:
            repeats[row] = first[keys[row]]
            exact[row] = (requests[row], answers[row]) in letters
            letters.add((requests[row], answers[row]))
            disputed[row] = 1 - counts[keys[row]] / len(rows)
            opponent[row] = min((r for k, r in first.items() if k != keys[row]), default=-1)
    return Agreement(repeats=repeats, exact=exact, disputed=disputed, opponent=opponent)
