"""More rows from the rows there are: a value that an answer copies from its request is replaced in both.

A model that is trained from scratch sees each name once and learns it by heart; with names that change from one pass to
the next, it can only learn to copy.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiercel.students.micro_pieces import literals

__all__ = ["ValueSwap"]

_WORD_BEFORE = re.compile(r"(\w+)\W*$")
_LETTERS = "aaabcdeeeefghiiijklmnnooopqrrssttuuvwxyz"


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """A value of an answer that stands once in its request.

    Attributes:
        name: of the field or column it fills.
        request: where it starts and ends in the request.
        answer: where it starts and ends in the answer.
    """

    name: str
    request: tuple[int, int]
    answer: tuple[int, int]


class ValueSwap:
    """Replaces copied values by others of the same field.

    Args:
        rows: requests and answers that values are taken from.
        share: of the rows that are changed.
        mixed: share of the replacements that are new words: halves of two values, or letters at random.

    Attributes:
        fields: names of the fields whose values are replaced; those with few values are left alone, as they are part of
            the meaning.
    """

    def __init__(self, rows: Sequence[tuple[str, str]], *, share: float = 0.5, mixed: float = 0.3) -> None:
        self.share = share
        self.mixed = mixed
        self._slots = [_slots(request, answer) for request, answer in rows]
        values = defaultdict[str, Counter[str]](Counter)
        for (request, _), slots in zip(rows, self._slots, strict=True):
            for slot in slots:
                values[slot.name][request[slot.request[0] : slot.request[1]]] += 1
        self._values = {n: sorted(c) for n, c in values.items() if len(c) >= 20 and len(c) >= 0.05 * c.total()}
        self.fields = sorted(self._values)

    def __call__(self, rows: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
        """The rows that the swap was made with, some of them changed; a seed gives the same rows each time."""
        rng = np.random.default_rng(seed)
        changed = rng.random(len(rows)) < (self.share if self._values else 0.0)
        return [
            self._swapped(row, slots, rng) if change else row
            for row, slots, change in zip(rows, self._slots, changed, strict=True)
        ]

    def _swapped(self, row: tuple[str, str], slots: Sequence[_Slot], rng: np.random.Generator) -> tuple[str, str]:
        request, answer = row
        edits = [(s, self._value(s.name, rng)) for s in slots if s.name in self._values]
        # From the back, so that places in front stay where they are.
        for slot, new in sorted(edits, key=lambda e: -e[0].request[0]):
            request = request[: slot.request[0]] + new + request[slot.request[1] :]
        for slot, new in sorted(edits, key=lambda e: -e[0].answer[0]):
            written = json.dumps(new, ensure_ascii=False)[1:-1]
            answer = answer[: slot.answer[0]] + written + answer[slot.answer[1] :]
        # A value that stands twice no longer says which one is meant.
        return (request, answer) if all(request.count(new) == 1 for _, new in edits) else row

    def _value(self, name: str, rng: np.random.Generator) -> str:
        values = self._values[name]
        one = values[rng.integers(len(values))]
        drawn = rng.random()
        if drawn >= self.mixed:
            return one
        if drawn < self.mixed / 4:
            return " ".join(_invented(rng, capital=one[:1].isupper()) for _ in range(rng.integers(1, 3)))
        other = values[rng.integers(len(values))].split(" ")
        words = one.split(" ")
        mixed = [*words[: rng.integers(1, len(words) + 1)], *other[rng.integers(len(other)) :]]
        return " ".join(mixed[:8])


def _invented(rng: np.random.Generator, *, capital: bool) -> str:
    letters = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(3, 9)))
    return letters.capitalize() if capital else letters


def _slots(request: str, answer: str) -> list[_Slot]:
    found, at, name = list[_Slot](), 0, ""
    places: dict[str, int] = Counter[str]()
    for start, end in literals(answer):
        before = _WORD_BEFORE.search(answer, at, start)
        name, at = before[1] if before else name, end + 1
        value = answer[start:end]
        places[value] += 1
        where = _only_place(request, value)
        if where is not None and "\\" not in value:
            found.append(_Slot(name=name, request=where, answer=(start, end)))
    kept = [s for s in found if places[answer[s.answer[0] : s.answer[1]]] == 1]
    return [s for s in kept if not any(_overlap(s.request, o.request) for o in kept if o is not s)]


def _only_place(request: str, value: str) -> tuple[int, int] | None:
    """Where `value` stands in `request`, as whole words and once; else None."""
    if not value or request.count(value) != 1:
        return None
    start = request.index(value)
    end = start + len(value)
    inside = (start > 0 and request[start - 1].isalnum() and value[0].isalnum()) or (
        end < len(request) and request[end].isalnum() and value[-1].isalnum()
    )
    return None if inside else (start, end)


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
