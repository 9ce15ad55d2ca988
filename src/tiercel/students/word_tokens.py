"""Tokens of a request with the words that they belong to and how those are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import BundleError, MissingExtraError

__all__ = ["CASES", "Tokens", "WordTokenizer", "pad"]

Integers = NDArray[np.int64]

CASES = ("none", "lower", "capital", "upper", "mixed", "digits", "sign")
"""How a word is written; encoders whose vocabulary is lower case can't see it otherwise."""
LONGEST_TEXT = 20_000


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One request of t tokens and w words.

    Attributes:
        ids: shape (t,).
        cases: number in `CASES` of each token's word, shape (t,).
        first: which token each word begins with, shape (w,).
        words: where each word begins and ends, in characters.
        kept: share of the request that is here; 1 where all of it is.
    """

    ids: Integers
    cases: Integers
    first: Integers
    words: list[tuple[int, int]]
    kept: float


class WordTokenizer:
    """A tokenizer that knows words.

    Args:
        file: a tokenizer.json of the library `tokenizers`.
        max_tokens: tokens of a request that are read.

    Raises:
        BundleError: the file is missing or is no tokenizer.
        MissingExtraError: tokenizers is not installed.
    """

    def __init__(self, file: Path, max_tokens: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError(error.name or "tokenizers", "serve") from None
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:
            raise BundleError(f"{file}: the tokenizer can't be read ({type(error).__name__})") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, cut to `max_tokens` with the last special token kept."""
        cut = [t[:LONGEST_TEXT] for t in texts]
        pairs = zip(texts, cut, self._tokenizer.encode_batch(cut), strict=True)
        return [self._tokens(c, e, len(c) / max(1, len(t))) for t, c, e in pairs]

    def _tokens(self, text: str, encoding: Any, share: float) -> Tokens:
        ids, numbers, offsets = encoding.ids, encoding.word_ids, encoding.offsets
        kept = share * min(1.0, self.max_tokens / max(1, len(ids)))
        if len(ids) > self.max_tokens:
            last = self.max_tokens - 1
            ids, numbers, offsets = [[*x[:last], x[-1]] for x in (ids, numbers, offsets)]
        first, words, cases = list[int](), list[tuple[int, int]](), [0] * len(ids)
        previous: int | None = None
        for i, (number, (start, end)) in enumerate(zip(numbers, offsets, strict=True)):
            if number is None:
                continue
            if number != previous:
                first.append(i)
                words.append((start, end))
                previous = number
            else:
                words[-1] = (words[-1][0], end)
        ends = [*first[1:], len(ids)][: len(first)]  # none where the text has no word
        for begin, end, (start, stop) in zip(first, ends, words, strict=True):
            case = _case(text[start:stop])
            for i in range(begin, end):
                cases[i] = case if numbers[i] is not None else 0
        return Tokens(
            ids=np.array(ids, dtype=np.int64),
            cases=np.array(cases, dtype=np.int64),
            first=np.array(first, dtype=np.int64),
            words=words,
            kept=kept,
        )


def _case(word: str) -> int:
    if not any(c.isalnum() for c in word):
        return CASES.index("sign")
    if word[0].isdigit():
        return CASES.index("digits")
    if word.islower():
        return CASES.index("lower")
    if word.isupper() and len(word) > 1:
        return CASES.index("upper")
    if word[0].isupper() and (len(word) == 1 or word[1:].islower()):
        return CASES.index("capital")
    return CASES.index("mixed") if word.lower() != word else CASES.index("lower")


def pad(rows: Sequence[Integers]) -> tuple[Integers, Integers]:
    """Rows of differing length as one array of shape (b, t) filled up with 0, and a mask of what is there."""
    longest = max((r.size for r in rows), default=0)
    filled, mask = np.zeros((2, len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        filled[i, : row.size] = row
        mask[i, : row.size] = 1
    return filled, mask
