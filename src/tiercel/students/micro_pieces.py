"""Which pieces of answers deserve a token of their own: JSON keys with their quotes, enum values, SQL clauses, labels.

An answer is cut into atoms (a key, a word, a run of punctuation), and neighbours that almost always come together are
glued. Literals that the answer copies from its request stay out, so that a value is spelled with the same tokens there
and here: copying is what a small model is worst at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

__all__ = ["literals", "structural_pieces"]

_QUOTED = re.compile(r'"(?P<double>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?|\'(?P<single>(?:[^\'\\]|\\.)*)\'')
_KEY = re.compile(r'(?<=")[^"\\\s][^"\\]*"\s*:\s*(?:[\[{]\s*)*"?')
_ATOM = re.compile(r"\d+|(?:(?!\d)\w)\w*|\s+|[^\w\s]+")
_COPIED = ""
_TOGETHER = 0.9
_LONGEST = 80
_ROUNDS = 16

Atoms = tuple[str, ...]


def literals(answer: str) -> Iterator[tuple[int, int]]:
    """Where quoted values of JSON or SQL start and end, without quotes; what stands before a colon is a key."""
    for found in _QUOTED.finditer(answer):
        if found["key"] is None:
            yield found.start() + 1, found.end() - 1


def structural_pieces(rows: Sequence[tuple[str, str]], limit: int) -> list[str]:
    """Strings that are worth one token in answers, most useful first.

    No two of them can overlap in a text such that a scan from the left and a search for the longest first would cut it
    differently: tokenizers do either.

    Args:
        rows: requests and answers.
        limit: pieces at most.
    """
    sequences = Counter(_atoms(request, answer) for request, answer in rows)
    least = max(4, len(rows) // 500)
    glued = _glue(sequences, least)
    counts = Counter[str]()
    for atoms, n in glued.items():
        for atom in atoms:
            counts[atom] += n
    found = list[str]()
    for piece, n in sorted(counts.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0])):
        if len(found) == limit:
            break
        # A lone word is better left to the vocabulary at large: as a piece it would cut longer words of requests.
        if n >= least and len(piece) > 1 and not piece.isalnum():
            found += next(([p] for p in _shorter(piece) if _is_clear(p, found)), [])
    return found


def _shorter(piece: str) -> Iterator[str]:
    """The piece, then without its last quote, then without its last brackets too."""
    for shorter in dict.fromkeys((piece, piece.rstrip("\"'"), piece.rstrip("\"'[{("))):
        if len(shorter) > 1:
            yield shorter


def _is_clear(piece: str, others: Sequence[str]) -> bool:
    is_word = any(c.isalnum() for c in piece)
    return piece not in others and not (
        (is_word and _runs_into(piece, piece)) or any(_runs_into(piece, o) or _runs_into(o, piece) for o in others)
    )


def _atoms(request: str, answer: str) -> Atoms:
    atoms, at = list[str](), 0
    for start, end in literals(answer):
        if start < end and answer[start:end] in request:
            atoms += [*_plain_atoms(answer, at, start), _COPIED]
            at = end
    return (*atoms, *_plain_atoms(answer, at, len(answer)))


def _plain_atoms(answer: str, at: int, end: int) -> Iterable[str]:
    while at < end:
        found = _KEY.match(answer, at, end) or _ATOM.match(answer, at, end)
        assert found is not None
        yield found[0]
        at = found.end()


def _glue(sequences: Counter[Atoms], least: int) -> Counter[Atoms]:
    """Join neighbours of which one nearly always brings the other, until none is left."""
    for _ in range(_ROUNDS):
        single, pairs = Counter[str](), Counter[tuple[str, str]]()
        for atoms, n in sequences.items():
            for atom in atoms:
                single[atom] += n
            for pair in pairwise(atoms):
                pairs[pair] += n
        joined = {
            (a, b)
            for (a, b), n in pairs.items()
            if n >= least and n >= _TOGETHER * min(single[a], single[b]) and _may_join(a, b)
        }
        if not joined:
            break
        merged = Counter[Atoms]()
        for atoms, n in sequences.items():
            merged[_joined(atoms, joined)] += n
        sequences = merged
    return sequences


def _may_join(a: str, b: str) -> bool:
    if _COPIED in (a, b) or a.isdigit() or b.isdigit() or len(a) + len(b) > _LONGEST:
        return False
    # What closes a value stays apart from the key that follows: their union could overlap what opens the next value.
    return not (a[0] in "\"'" and any(c.isalnum() for c in b))


def _joined(atoms: Atoms, pairs: set[tuple[str, str]]) -> Atoms:
    result, at = list[str](), 0
    while at < len(atoms):
        if at + 1 < len(atoms) and (atoms[at], atoms[at + 1]) in pairs:
            result.append(atoms[at] + atoms[at + 1])
            at += 2
        else:
            result.append(atoms[at])
            at += 1
    return tuple(result)


def _runs_into(first: str, second: str) -> bool:
    """Whether an end of `first` is a start of `second` that is at least as long."""
    if len(second) < len(first):
        return False
    return any(second.startswith(first[-n:]) for n in range(1, len(first)))
