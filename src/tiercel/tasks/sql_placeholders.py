"""Values that a request names, as placeholders in request and query: what is left to learn is the query's shape.

`what is the longest river in mississippi` becomes `what is the longest river in river_name/state_name xa`: the kinds of
column that hold the value, all of them where it could be several, and a name that the query uses in its place. Which
kind is meant, the model reads from the words around it. The value is put back as the column that it is compared with
spells it. With few rows this is most of what makes a small model learn SQL.

Source: S. Iyer and others, "Learning a neural semantic parser from user feedback" (2017), section 4.1 (anonymization).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import msgspec
from msgspec import Struct

from tiercel.tasks.sql_values import LITERAL, ColumnValues, between, column_before

__all__ = ["NAMES", "PLACEHOLDER", "Hidden", "Placeholders"]

Words = tuple[str, ...]
Replacement = Callable[[str, str], str]
"""What to write for a text that is compared with a column."""

NAMES = tuple(f"x{letter}" for letter in "abcdefgh")
"""Names of placeholders, in the order in which their values stand in a request."""
PLACEHOLDER = re.compile(rf"([\w/]+) ({'|'.join(NAMES)})\b")
"""A placeholder in a request: its kinds, and its name."""
OFTEN = 5
"""Requests in which a value's words have to stand before they can be known as mere words."""
RARELY = 0.1
"""Share of them whose queries use the value, below which its words are words."""
_WORD = re.compile(r"\w+")


class Hidden(Struct, frozen=True, kw_only=True):
    """A request without its values."""

    text: str
    """The request, with placeholders."""
    values: dict[str, Words]
    """The words that each placeholder stands for."""


class Placeholders:
    """Hides the values of requests and puts them back into queries.

    Args:
        values: of the database's columns.
    """

    def __init__(self, values: ColumnValues) -> None:
        self.values = values
        self._index = _indexed(values)
        self._longest = max(map(len, self._index), default=0)

    @cached_property
    def kinds_of(self) -> dict[str, list[str]]:
        """For each column, the kinds of each of its values as `hide` writes them."""
        found: dict[str, list[str]] = {}
        for words, cells in self._index.items():
            for column in cells:
                found.setdefault(column, []).append(self._kinds(words))
        return found

    def without_words(self, requests: Sequence[str], queries: Sequence[str]) -> Placeholders:
        """The placeholders, but for values whose words stand in many requests and in hardly a query."""
        seen, used = Counter[Words](), Counter[Words]()
        for request, query in zip(requests, queries, strict=True):
            said = {word for literal in LITERAL.finditer(query) for word in _words(between(literal))}
            for _, _, words in self._mentions(request):
                seen[words] += 1
                used[words] += not said.isdisjoint(words)
        bare = {" ".join(w) for w, n in seen.items() if n >= OFTEN and used[w] < RARELY * n}
        return Placeholders(msgspec.structs.replace(self.values, words=self.values.words | bare))

    def hide(self, request: str) -> Hidden:
        """The request with placeholders for the values that it names."""
        taken = set(_words(request))
        names = (name for name in NAMES if name not in taken)
        given: dict[Words, str] = {}
        text, at = list[str](), 0
        for start, end, words in self._mentions(request):
            name = given.get(words) or next(names, None)
            if name is None:
                break
            given[words] = name
            text += [request[at:start], f"{self._kinds(words)} {name}"]
            at = end
        return Hidden(text="".join([*text, request[at:]]), values={name: words for words, name in given.items()})

    def hide_row(self, request: str, query: str) -> tuple[str, str]:
        """Request and query with the same placeholders; literals that the request does not name stay."""
        hidden = self.hide(request)

        def name_of(value: str, column: str) -> str:
            return next((n for n, w in hidden.values.items() if self._value(w, column) == value), value)

        return hidden.text, _replaced(query, name_of)

    def restore(self, query: str, hidden: Hidden) -> str:
        """The query with the request's values in the place of their placeholders."""

        def value_of(name: str, column: str) -> str:
            words = hidden.values.get(name)
            return name if words is None else self._value(words, column)

        return _replaced(query, value_of)

    def _kinds(self, words: Words) -> str:
        kinds = {self.values.kinds[column] for column in self._index[words]}
        return "/".join(sorted(re.sub(r"\W+", "_", kind) for kind in kinds))

    def _mentions(self, request: str) -> Iterator[tuple[int, int, Words]]:
        """Where values stand in a request, and their words; of those that overlap the longest from the left."""
        places = list(_WORD.finditer(request))
        words = [place[0].casefold() for place in places]
        at = 0
        while at < len(words):
            for size in range(min(self._longest, len(words) - at), 0, -1):
                phrase = tuple(words[at : at + size])
                if phrase in self._index:
                    yield places[at].start(), places[at + size - 1].end(), phrase
                    at += size
                    break
            else:
                at += 1

    def _value(self, words: Words, column: str) -> str:
        """How a column spells what a request names: as a whole, else the longest part of it that the column holds."""
        cells = self._index[words]
        if column in cells:
            return cells[column]
        for size in range(len(words) - 1, 0, -1):
            for start in range(len(words) - size + 1):
                part = self._index.get(words[start : start + size], {})
                if column in part:
                    return part[column]
        return next(iter(cells.values()))


def _indexed(values: ColumnValues) -> dict[Words, dict[str, str]]:
    """Columns and their values, by a value's words in lower case."""
    index: dict[Words, dict[str, str]] = {}
    for column, cells in values.columns.items():
        for cell in cells:
            words = tuple(_words(cell))
            if " ".join(words) not in values.words:
                index.setdefault(words, {}).setdefault(column, cell)
    return index


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _replaced(query: str, new: Replacement) -> str:
    """The query with other texts in its literals; signs of LIKE around them stay."""
    text, at = list[str](), 0
    for literal in LITERAL.finditer(query):
        quote, said = literal[0][0], between(literal)
        core = said.strip("%")
        put = new(core, column_before(query, literal.start())) if core else core
        if put != core:
            text += [query[at : literal.start()], quote, said.replace(core, put).replace(quote, quote * 2), quote]
            at = literal.end()
    return "".join([*text, query[at:]])
