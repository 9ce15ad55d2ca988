"""Which words a workload's requests are made of, so that a request of other words is seen to be strange."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["KnownWords"]

_WORD = re.compile(r"\w+|[^\w\s]")


class KnownWords:
    """Hashes of the words of training requests.

    Args:
        hashes: sorted, shape (w,).
    """

    def __init__(self, hashes: NDArray[np.uint32]) -> None:
        self.hashes = hashes

    @classmethod
    def of(cls, texts: Iterable[str]) -> KnownWords:
        """The words of `texts`; numbers count by their length."""
        found = {_hash(word) for text in texts for word in _words(text)}
        return cls(np.array(sorted(found), dtype=np.uint32))

    def share(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Share of each text's words that are known, shape (n,); 1 for a text without words."""
        found = np.ones(len(texts), dtype=np.float32)
        for i, text in enumerate(texts):
            hashes = np.array([_hash(word) for word in _words(text)], dtype=np.uint32)
            if hashes.size:
                found[i] = np.isin(hashes, self.hashes).mean()
        return found


def _words(text: str) -> list[str]:
    return [re.sub(r"\d", "0", w) for w in _WORD.findall(text.casefold())]


def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace"))
