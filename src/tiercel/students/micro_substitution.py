"""What may stand for what in requests and their queries, learnt from pairs of rows that differ in little.

Source: J. Andreas, "Good-enough compositional data augmentation" (2020), section 3.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import permutations

from msgspec import Struct

__all__ = ["Substitution", "learn_substitutions", "query_tokens"]

Row = tuple[str, str]

PAIRS = 2
"""Surroundings in which a substitution has to be seen."""
LONGEST = 3
"""Words that are replaced, and names in the query that change with them."""
MOST_ROWS = 2_000
"""Rows that are compared with each other; it takes their square."""
_TOKEN = re.compile(r'"[^"]*"|\'[^\']*\'|\w+|[^\w\s]')


class Substitution(Struct, frozen=True):
    """Words of a request that may be replaced by others, if names of its query are replaced too."""

    words: str
    by: str
    names: tuple[tuple[str, str], ...]
    """Tokens of the query and what replaces them; empty for words that mean the same."""

    def apply(self, row: Row) -> Row | None:
        """The row after it; None where the words do not stand in the request once, or a name not in the query."""
        request, query = f" {row[0]} ", row[1]
        if request.count(f" {self.words} ") != 1:
            return None
        names = dict(self.names)
        if names and not names.keys() <= set(query_tokens(query)):
            return None
        changed = _TOKEN.sub(lambda m: names.get(m[0], m[0]), query) if names else query
        return request.replace(f" {self.words} ", f" {self.by} ")[1:-1], changed


def query_tokens(query: str) -> list[str]:
    """Names, words, literals and signs of a query."""
    return _TOKEN.findall(query)


def learn_substitutions(rows: Iterable[Row]) -> list[Substitution]:
    """Substitutions that several pairs of rows show and no row contradicts.

    Args:
        rows: requests and queries, placeholders in both; equal surroundings count once.
    """
    known = defaultdict[str, set[str]](set)
    for request, query in rows:
        if len(known) < MOST_ROWS or request in known:
            known[request].add(query)
    split = [(r.split(" "), query_tokens(q)) for r, queries in known.items() for q in queries]
    seen = defaultdict[Substitution, set[tuple[str, ...]]](set)
    for first, second in permutations(split, 2):
        if len(first[1]) == len(second[1]) and abs(len(first[0]) - len(second[0])) <= LONGEST:
            found = _difference(first, second)
            if found is not None:
                seen[found[0]].add(found[1])
    often = [s for s, around in seen.items() if len(around) >= PAIRS]
    return sorted((s for s in often if not _contradicted(s, known)), key=lambda s: (s.words, s.by, s.names))


def _difference(
    first: tuple[list[str], list[str]], second: tuple[list[str], list[str]]
) -> tuple[Substitution, tuple[str, ...]] | None:
    """The substitution that leads from one row to another, and the words around it."""
    (one, query), (other, changed) = first, second
    most = min(len(one), len(other))
    start = next((i for i in range(most) if one[i] != other[i]), most)
    end = next((i for i in range(most - start) if one[-1 - i] != other[-1 - i]), most - start)
    words, by = one[start : len(one) - end], other[start : len(other) - end]
    if not words or not by or max(len(words), len(by)) > LONGEST:
        return None
    names: dict[str, str] = {}
    for a, b in zip(query, changed, strict=True):
        if a != b and names.setdefault(a, b) != b:
            return None
    if len(names) > LONGEST:
        return None
    around = (*one[:start], "", *one[len(one) - end :])
    return Substitution(" ".join(words), " ".join(by), tuple(sorted(names.items()))), around


def _contradicted(substitution: Substitution, known: dict[str, set[str]]) -> bool:
    """Whether it makes of some row a request that has another query."""
    for request, queries in known.items():
        for query in queries:
            made = substitution.apply((request, query))
            if made is not None and made[0] in known and made[1] not in known[made[0]]:
                return True
    return False
