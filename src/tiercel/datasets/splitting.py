"""Parting rows into training, gate, calibration and test so that what belongs together stays together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError

__all__ = ["joined_groups", "split_groups"]


def joined_groups(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The finest groups that part neither a group of `a` nor one of `b`; all of shape (n,), numbers from 0 on."""
    found = np.unique(a, return_inverse=True)[1].astype(np.int64)
    other = np.unique(b, return_inverse=True)[1]
    while True:
        # The least number of each group of one, then of the other, until nothing changes.
        before = found
        for groups in (other, np.unique(a, return_inverse=True)[1]):
            least = np.full(int(groups.max(initial=-1)) + 1, found.size, dtype=np.int64)
            np.minimum.at(least, groups, found)
            found = least[groups]
        if (found == before).all():
            return np.unique(found, return_inverse=True)[1].astype(np.int64)


def split_groups(groups: NDArray[np.int64], fractions: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of each part; a group lies in one part whole.

    Groups are taken in a random order; each goes to a part drawn by the room that is left in it. With single rows this
    is a random partition of exact sizes; groups make the sizes approximate.

    Args:
        groups: int array of shape (n,), the group of each row.
        fractions: share of each part; they sum to 1.
        seed: of the order.

    Returns:
        For each part an int array of row numbers, ascending.

    Raises:
        ConfigurationError: the fractions do not sum to 1.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ConfigurationError(f"fractions of a split must be at least 0 and sum to 1, not {list(fractions)}")
    rng = np.random.default_rng(seed)
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    shares = np.asarray(fractions)
    filled = np.zeros(len(shares))
    home = np.empty(len(names), dtype=np.int64)
    for group in order:
        # A random part among those with room, by the room they have: a fixed rotation would tie parts to each other.
        room = np.maximum(shares * groups.size - filled, 0.0)
        total = room.sum()
        part = int(rng.choice(len(shares), p=room / total)) if total > 0 else int(np.argmax(shares))
        home[group] = part
        filled[part] += sizes[group]
    part_of_row = home[inverse]
    return [np.flatnonzero(part_of_row == part) for part in range(len(shares))]
