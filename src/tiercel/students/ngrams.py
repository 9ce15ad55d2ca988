"""Word and character n-grams of a text: the features of the linear rung, the same in training and in serving."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["ngrams"]

LONGEST = 4_000
"""Characters of a request that are read: its first and last halves of this, since the middle says least."""
_WORD = re.compile(r"\w+|[^\w\s]")


@lru_cache(maxsize=65_536)
def _pieces(word: str) -> tuple[str, ...]:
    """Runs of 3 to 5 characters of a word with its borders marked; a number also by its shape."""
    padded = f" {word} "
    found = [padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
    if word[0].isdigit():
        found.append("#" * min(len(word), 6))
    return tuple(found)


def ngrams(text: str) -> list[str]:
    """Features of a text with repeats, lower-cased: words, pairs of words, runs of 3 to 5 characters within a word."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + " " + text[-LONGEST // 2 :]
    words = _WORD.findall(text.lower())
    found = [f"={w}" for w in words]
    found += [f"{a}_{b}" for a, b in zip(["^", *words], [*words, "$"], strict=True)]
    for word in words:
        found += _pieces(word[:64])
    return found
