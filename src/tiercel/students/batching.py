"""The order in which rows are trained on: random, but rows of similar length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["batches_by_length"]

_POOL = 50
"""Batches among whose rows lengths are sorted."""


def batches_by_length(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Row numbers in random batches of similar length, so that little is spent on padding.

    Args:
        lengths: of n rows.
        size: rows of a batch; the last of each pool may have fewer.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths)).tolist()
    found = list[list[int]]()
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda i: lengths[i])
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in rng.permutation(len(found)):
        yield found[i]
