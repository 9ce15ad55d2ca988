"""Checks on requests that a teacher wrote for training: none may repeat a row that something is to be measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from tiercel.datasets.near_duplicates import NearDuplicateIndex

__all__ = ["NewRequests", "Refusal", "validate_new_requests"]

LONGEST = 20_000
"""Characters of a new request where there are no training texts to take the measure from."""


class Refusal(StrEnum):
    """Why a new request is not taken."""

    EMPTY = "empty"
    OVERLONG = "overlong"
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
    """Refuse new requests that are empty, overlong, or say nearly what a known one says.

    A near-duplicate of a protected row (gate, calibration, test) would put what is measured into training. The
    threshold is the one that the splits use. The search finds 98.8 % of pairs at that similarity, more above it, and
    all that differ in case and blanks only.

    Args:
        new_texts: n requests, as a student would read them.
        train_texts: requests that are already trained on.
        protected_texts: requests of all rows that must stay unseen.
        threshold: Jaccard similarity of five-byte shingles from which two texts are near-duplicates.
        most_characters: above it a request is overlong; None for twice the longest training text.
    """
    if most_characters is None:
        most_characters = 2 * max(map(len, train_texts)) if train_texts else LONGEST
    known = {Refusal.PROTECTED: protected_texts, Refusal.TRAINING: train_texts, Refusal.REPEATED: ()}
    indexes = {reason: NearDuplicateIndex(threshold) for reason in known}
    for reason, texts in known.items():
        for text in texts:
            indexes[reason].add(text)
    kept, refused = list[int](), list[tuple[int, Refusal]]()
    for number, text in enumerate(new_texts):
        reason = _refusal(text, indexes, most_characters)
        if reason is None:
            kept.append(number)
            indexes[Refusal.REPEATED].add(text)
        else:
            refused.append((number, reason))
    return NewRequests(kept=tuple(kept), refused=tuple(refused))


def _refusal(text: str, indexes: dict[Refusal, NearDuplicateIndex], most_characters: int) -> Refusal | None:
    if not text.strip():
        return Refusal.EMPTY
    if len(text) > most_characters:
        return Refusal.OVERLONG
    return next((reason for reason, index in indexes.items() if index.find(text) is not None), None)
