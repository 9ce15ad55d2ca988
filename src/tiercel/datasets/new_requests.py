"""Checks on requests that a teacher wrote for training: none may repeat a row that something is to be measured on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.datasets.near_duplicates import NearDuplicateIndex
from tiercel.datasets.outliers import language_fit

__all__ = ["NewRequests", "Refusal", "validate_new_requests"]

LONGEST = 20_000
"""Characters of a new request where there are no training texts to take the measure from."""
ENOUGH_TO_JUDGE = 30
"""Training texts from which they say what the workload's language is."""
RARE_SCRIPT = 0.02
"""Share of the texts below which a script is foreign to them."""
LANGUAGE_Z = 4.5
"""Robust z below which a text is unlike the others, as in curation."""
KNOWN_WORDS = 0.25
"""Share of its words from which a text is of the language of those that have them: new subjects bring new words, but
the small words of a language stay."""
_WORD = re.compile(r"[^\W\d_]+")


class Refusal(StrEnum):
    """Why a new request is not taken."""

    EMPTY = "empty"
    SHORT = "too short"
    OVERLONG = "overlong"
    LANGUAGE = "another language"
    PROTECTED = "near-duplicate of a protected row"
    TRAINING = "near-duplicate of a training row"
    REPEATED = "near-duplicate of an earlier new request"


class NewRequests(Struct, frozen=True, kw_only=True):
    """Which of n new requests may be trained on."""

    kept: tuple[int, ...]
    """Numbers of the requests that pass, ascending."""
    refused: tuple[tuple[int, Refusal], ...]
    """Numbers of the others, ascending, each with the first reason that applies."""

    @property
    def counts(self) -> dict[Refusal, int]:
        """How many requests were refused for each reason; every reason is there."""
        found = Counter(reason for _, reason in self.refused)
        return {reason: found[reason] for reason in Refusal}


def validate_new_requests(
    new_texts: Sequence[str],
    train_texts: Sequence[str],
    protected_texts: Sequence[str],
    *,
    threshold: float = 0.7,
    most_characters: int | None = None,
) -> NewRequests:
    """Refuse new requests that are empty, of odd length or language, or say nearly what a known one says.

    A near-duplicate of a protected row (gate, calibration, test) would put what is measured into training. The
    threshold is the one that the splits use. The search finds 98.8 % of pairs at that similarity, more above it, and
    all that differ in case and blanks only.

    Args:
        new_texts: n requests, as a student would read them.
        train_texts: requests that are already trained on.
        protected_texts: requests of all rows that must stay unseen.
        threshold: Jaccard similarity of five-byte shingles from which two texts are near-duplicates.
        most_characters: above it a request is overlong; None for twice the longest training text. A request is too
            short below half of the shortest training text.
    """
    if most_characters is None:
        most_characters = 2 * max(map(len, train_texts)) if train_texts else LONGEST
    least_characters = min(map(len, train_texts)) // 2 if train_texts else 0
    foreign = _foreign(new_texts, train_texts)
    known = {Refusal.PROTECTED: protected_texts, Refusal.TRAINING: train_texts, Refusal.REPEATED: ()}
    indexes = {reason: NearDuplicateIndex(threshold) for reason in known}
    for reason, texts in known.items():
        for text in texts:
            indexes[reason].add(text)
    kept, refused = list[int](), list[tuple[int, Refusal]]()
    for number, text in enumerate(new_texts):
        reason = _refusal(text, least_characters, most_characters)
        if reason is None:
            reason = Refusal.LANGUAGE if foreign[number] else _known(text, indexes)
        if reason is None:
            kept.append(number)
            indexes[Refusal.REPEATED].add(text)
        else:
            refused.append((number, reason))
    return NewRequests(kept=tuple(kept), refused=tuple(refused))


def _refusal(text: str, least_characters: int, most_characters: int) -> Refusal | None:
    if not text.strip():
        return Refusal.EMPTY
    if len(text) < least_characters:
        return Refusal.SHORT
    return Refusal.OVERLONG if len(text) > most_characters else None


def _known(text: str, indexes: dict[Refusal, NearDuplicateIndex]) -> Refusal | None:
    return next((reason for reason, index in indexes.items() if index.find(text) is not None), None)


def _foreign(new_texts: Sequence[str], train_texts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each new text is in another script or language than the training texts, shape (n,).

    Each is judged beside the training texts alone: a teacher that wrote fifty requests in another language would else
    make that language usual.
    """
    if len(train_texts) < ENOUGH_TO_JUDGE:
        return np.zeros(len(new_texts), np.bool_)
    fit = language_fit([*train_texts, *new_texts], measure=len(train_texts))
    known = {word for text in train_texts for word in _words(text)}
    strange = np.array([_share(_words(text), known) < KNOWN_WORDS for text in new_texts], dtype=np.bool_)
    new = slice(len(train_texts), None)
    return (fit.script_share[new] < RARE_SCRIPT) | ((fit.likelihood[new] <= -LANGUAGE_Z) & strange)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _share(words: Sequence[str], known: set[str]) -> float:
    """Share of the words that are known; 1 where there are none."""
    return sum(word in known for word in words) / len(words) if words else 1.0
