"""Word and character n-grams of a text: the features of the linear rung, the same in training and in serving."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

__all__ = ["LONGEST", "ngrams"]

LONGEST = 4_000
"""Characters of a request that are read: its first and last halves of this, since the middle says least."""
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


@lru_cache(maxsize=65_536)
def _pieces(word: str) -> tuple[str, ...]:
    """Runs of 3 to 5 characters of a word with its borders marked."""
    padded = f" {word} "
    return tuple(padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1))


def ngrams(text: str) -> list[str]:
    """Features of a text with repeats, lower-cased.

    Words as they are; then, with every digit as 0 so that numbers count by their shape: words, two and three in a row,
    two with any one between them, and runs of 3 to 5 characters within a word.
    """
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + " " + text[-LONGEST // 2 :]
    text = text.lower()
    found = [f"={w}" for w in _WORD.findall(text)]
    words = ["^", *_WORD.findall(_DIGIT.sub("0", text)), "$"]
    found += words[1:-1]
    found += [f"{a}_{b}" for a, b in pairwise(words)]
    found += [f"{a}_{b}_{c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)]
    found += [f"{a}__{c}" for a, c in zip(words, words[2:], strict=False)]
    for word in words[1:-1]:
        found += _pieces(word[:64])
    return found
