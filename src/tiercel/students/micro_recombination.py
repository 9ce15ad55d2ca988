"""More rows of SQL from the rows there are: pieces of requests and queries that belong together, put together anew.

Three ways, all on rows whose values are placeholders:
- kinds: another value of the same column may be of other kinds (a state that is also a river);
- substitution: two rows that differ in a few words, and whose queries differ in a few names or not at all, say what
  may stand for what (`biggest` for `smallest` with MAX for MIN). It is taken over where two pairs of rows say so and no
  row contradicts;
- nesting: a query that gives values of a kind, and its request as a phrase (`the state with the most rivers`), in the
  place of a placeholder of that kind. Requests become phrases by a few rules of English; others are left alone.

What names a table or column that is not there is dropped.

Sources: R. Jia and P. Liang, "Data recombination for neural semantic parsing" (2016), section 4; J. Andreas,
"Good-enough compositional data augmentation" (2020), section 3.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiercel.students.micro_substitution import Substitution, learn_substitutions
from tiercel.tasks.sql_placeholders import NAMES, PLACEHOLDER, Placeholders
from tiercel.tasks.sql_schema import Schema
from tiercel.tasks.sql_values import LITERAL, between, column_before

__all__ = ["Recombination"]

Row = tuple[str, str]

DEEPEST = 5
"""Selects that a query may have after nesting."""
_PHRASES = tuple(
    (re.compile(pattern, re.IGNORECASE), phrase)
    for pattern, phrase in (
        (r"(?:what|which) (?:is|are|was|were) (?:all )?(the .+)", r"\1"),
        (r"(?:name|list|find|show|show me|give me|tell me) (?:all )?(?:the )?(.+)", r"the \1"),
        (r"(?:what|which) (\w+) (?:does|do|did) (.+)", r"the \1 that \2"),
        (r"(?:what|which) (\w+) (?:is|are|was|were) (.+)", r"the \1 \2"),
        (r"(?:what|which) (\w+) (?:has|have|had) (.+)", r"the \1 with \2"),
        (r"(?:what|which) (\w+) (.+)", r"the \1 that \2"),
    )
)
_RESULT = re.compile(r"SELECT (?:DISTINCT )?(?:\w+\.)?(\w+) FROM\b")
_ONE_ROW = re.compile(r"[^()]* = \(SELECT (?:MAX|MIN)\(|.*\bLIMIT 1$")


@dataclass(frozen=True, kw_only=True)
class _Inner:
    """A query that can stand in the place of a value.

    Attributes:
        phrase: its request as a phrase.
        query: gives one column.
    """

    phrase: str
    query: str


class Recombination:
    """Rows as they are and rows put together anew, afresh in each epoch.

    Args:
        rows: requests and plain queries (`plain_sql`) with placeholders.
        placeholders: of the database.
        schema: that queries have to fit; None checks nothing.
        share: of the rows that are substituted; as many are nested.
    """

    def __init__(
        self, rows: Sequence[Row], placeholders: Placeholders, schema: Schema | None = None, *, share: float = 0.3
    ) -> None:
        self.share = share
        self._kinds, self._spellings = placeholders.values.kinds, placeholders.kinds_of
        self._fits = _Fitting(schema)
        distinct = list(dict.fromkeys((self._meant(row), row[1]) for row in rows))
        self.substitutions = [s for s in learn_substitutions(distinct) if not self._names_kind(s)]
        self._by_word = defaultdict[str, list[Substitution]](list)
        for substitution in self.substitutions:
            self._by_word[substitution.words.split(" ")[0]].append(substitution)
        self._inner = self._phrases(distinct)

    def __call__(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """As many rows as there are, some of them changed; a seed gives the same rows each time."""
        rng = np.random.default_rng(seed)
        return [self._changed(row, rng) for row in rows]

    def _changed(self, row: Row, rng: np.random.Generator) -> Row:
        made = self._substituted(row, rng) if rng.random() < self.share else row
        if rng.random() < self.share:
            made = self._nested(made, rng)
            made = self._substituted(made, rng) if rng.random() < self.share else made
        return self._respelled(made, rng)

    def _substituted(self, row: Row, rng: np.random.Generator) -> Row:
        words = dict.fromkeys(row[0].split(" "))
        fitting = [s for word in words for s in self._by_word.get(word, ())]
        for i in rng.permutation(len(fitting)):
            made = fitting[i].apply(row)
            if made is not None and self._is_sound(made):
                return made
        return row

    def _nested(self, row: Row, rng: np.random.Generator) -> Row:
        """The row with a query in the place of one of its placeholders, where one fits."""
        request, query = row
        places = list(PLACEHOLDER.finditer(request))
        if not places:
            return row
        place = places[rng.integers(len(places))]
        inner = self._inner.get(self._kind_of(place[2], query))
        if not inner or len(places) != len({p[2] for p in places}):
            return row
        chosen = inner[rng.integers(len(inner))]
        free = [name for name in NAMES if name not in {p[2] for p in places}]
        own = sorted({p[2] for p in PLACEHOLDER.finditer(chosen.phrase)})
        if len(own) > len(free) or (query + chosen.query).count("SELECT") > DEEPEST:
            return row
        renaming = dict(zip(own, free, strict=False))
        phrase, nested = _renamed(chosen.phrase, chosen.query, renaming)
        operator = "=" if _ONE_ROW.match(nested) else "IN"
        made = re.sub(rf"= ([\"']){place[2]}\1", lambda _: f"{operator} ({nested})", query)
        if f'"{place[2]}"' in made or f"'{place[2]}'" in made:
            return row
        before = re.sub(r"\b[Tt]he $", "", request[: place.start()])
        text = f"{before}{phrase}{request[place.end() :]}"
        order = dict(zip(dict.fromkeys(p[2] for p in PLACEHOLDER.finditer(text)), NAMES, strict=False))
        made_row = _renamed(text, made, order)
        return made_row if self._is_sound(made_row) else row

    def _respelled(self, row: Row, rng: np.random.Generator) -> Row:
        """The row with kinds of other values of the same columns."""
        request, query = row
        columns = {name: columns for name, columns in _uses(query).items() if len(columns) == 1}

        def other(place: re.Match[str]) -> str:
            spellings = self._spellings.get(next(iter(columns.get(place[2], ())), ""))
            if not spellings or rng.random() < 0.5:
                return place[0]
            return f"{spellings[rng.integers(len(spellings))]} {place[2]}"

        text = PLACEHOLDER.sub(other, request)
        return row if text == request else (text, query)

    def _phrases(self, rows: Sequence[Row]) -> dict[str, list[_Inner]]:
        """Queries of one column, by the kind of its values."""
        found = defaultdict[str, list[_Inner]](list)
        for request, query in rows:
            result, phrase = _RESULT.match(query), _phrase(request)
            if result and phrase and result[1] in self._kinds and " WHERE " in query:
                found[self._kinds[result[1]]].append(_Inner(phrase=phrase, query=query))
        return dict(found)

    def _kind_of(self, name: str, query: str) -> str:
        """The one kind of column that a placeholder is compared with; empty where there is none."""
        kinds = {self._kinds.get(column, "") for column in _uses(query).get(name, ())}
        return kinds.pop() if len(kinds) == 1 else ""

    def _meant(self, row: Row) -> str:
        """The request with the kind that each placeholder has in the query alone."""
        return PLACEHOLDER.sub(lambda p: f"{self._kind_of(p[2], row[1]) or p[1]} {p[2]}", row[0])

    def _names_kind(self, substitution: Substitution) -> bool:
        words = {*substitution.words.split(" "), *substitution.by.split(" ")}
        return any(word in NAMES or word in self._spellings or word in self._kinds.values() for word in words)

    def _is_sound(self, row: Row) -> bool:
        """Whether the query names what there is, and its placeholders are of kinds that the request gives them."""
        given = {place[2]: place[1].split("/") for place in PLACEHOLDER.finditer(row[0])}
        used = _uses(row[1])
        return (
            used.keys() <= given.keys()
            and all(self._kinds.get(c, c) in given[name] for name, columns in used.items() for c in columns)
            and self._fits(row[1])
        )


class _Fitting:
    """Whether a query compiles on a database that has the schema's tables and nothing in them."""

    def __init__(self, schema: Schema | None) -> None:
        self.schema = schema
        self._known: dict[str, bool] = {}
        self._connection: sqlite3.Connection | None = None

    def __call__(self, query: str) -> bool:
        if self.schema is None:
            return True
        if query not in self._known:
            self._known[query] = self._compiles(self.schema, query)
        return self._known[query]

    def _compiles(self, schema: Schema, query: str) -> bool:
        if self._connection is None:
            self._connection = sqlite3.connect(":memory:")
            for table, columns in schema.tables.items():
                names = ", ".join(_quoted(column) for column in columns)
                self._connection.execute(f"CREATE TABLE {_quoted(table)} ({names})")
        try:
            self._connection.execute(f"EXPLAIN {query}")
        except (sqlite3.Error, sqlite3.Warning):
            return False
        return True


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _phrase(request: str) -> str | None:
    """A question as what it asks for: `which states border x` as `the states that border x`."""
    for pattern, phrase in _PHRASES:
        found = pattern.fullmatch(request.rstrip("?. "))
        if found:
            return found.expand(phrase)
    return None


def _uses(query: str) -> dict[str, set[str]]:
    """The columns that each placeholder of a query is compared with."""
    found = defaultdict[str, set[str]](set)
    for literal in LITERAL.finditer(query):
        if between(literal) in NAMES:
            found[between(literal)].add(column_before(query, literal.start()))
    return dict(found)


def _renamed(request: str, query: str, names: Mapping[str, str]) -> Row:
    """Request and query with other names of placeholders."""
    text = PLACEHOLDER.sub(lambda p: f"{p[1]} {names.get(p[2], p[2])}", request)
    quoted = re.compile(rf"([\"'])({'|'.join(NAMES)})\1")
    return text, quoted.sub(lambda m: f"{m[1]}{names.get(m[2], m[2])}{m[1]}", query)
