"""Groups of requests that say nearly the same, found by MinHash, so that a split never parts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["near_duplicate_groups", "shingles"]

SHINGLE = 5
BANDS, ROWS = 16, 4
LONGEST = 20_000
"""Characters of a text that count; two texts that agree so far are duplicates for our purpose."""

_odd = np.random.default_rng(20240229).integers(1, 2**63, size=(2, BANDS * ROWS), dtype=np.uint64)
_MULTIPLY, _ADD = _odd[0][:, None] | np.uint64(1), _odd[1][:, None]


def shingles(text: str) -> NDArray[np.uint64]:
    """The distinct runs of five bytes of `text`, lower-cased and with single spaces; shape (s,), sorted."""
    data = " ".join(text[:LONGEST].lower().split()).encode("utf-8", "replace")
    data = data.ljust(SHINGLE, b" ")
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.uint64)
    windows = len(codes) - SHINGLE + 1
    value = np.zeros(windows, dtype=np.uint64)
    for i in range(SHINGLE):
        value = (value << np.uint64(8)) | codes[i : i + windows]
    return np.unique(value)


def _signature(pieces: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MinHash values of shape (BANDS * ROWS,), by multiply-shift hashing."""
    return (((pieces[None, :] * _MULTIPLY) + _ADD) >> np.uint64(31)).min(axis=1)


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    common = np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.7) -> NDArray[np.int64]:
    """The group of each text: texts of one group are near-duplicates, directly or through others.

    Candidates come from 16 bands of 4 MinHash values, which find 98.8 % of pairs at a Jaccard similarity of 0.7; each
    is confirmed on the shingles themselves.

    Args:
        texts: n requests.
        threshold: Jaccard similarity of five-byte shingles from which two texts count as near-duplicates.

    Returns:
        int array of shape (n,): the smallest index among the members of the text's group.

    Source: Broder, "On the resemblance and containment of documents", 1997.
    """
    parent = np.arange(len(texts))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    buckets: list[dict[bytes, int]] = [{} for _ in range(BANDS)]
    kept = list[NDArray[np.uint64]]()
    for i, text in enumerate(texts):
        pieces = shingles(text)
        kept.append(pieces)
        signature = _signature(pieces)
        for band, bucket in enumerate(buckets):
            key = signature[band * ROWS : (band + 1) * ROWS].tobytes()
            other = bucket.get(key)
            bucket[key] = i
            if other is None:
                continue
            a, b = root(i), root(other)
            if a != b and _jaccard(pieces, kept[other]) >= threshold:
                parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(texts))], dtype=np.int64)
