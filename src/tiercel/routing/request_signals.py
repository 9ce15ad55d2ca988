"""Signals that read the request alone and learn nothing: how long it is, how it is built, what it asks for."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tiercel.routing.exchange import Exchange, Exchanges
from tiercel.routing.signal import Signal, Stage

__all__ = ["Difficulty", "Length", "Structure"]

Floats = NDArray[np.float64]

LONGEST = 20_000
"""Characters of a request that are read."""
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.?!]+(?:\s|$)")
_OPTION = re.compile(r"^\s*\(?([A-H1-8])[.):]\s*(.*)$", re.MULTILINE)
_WORD = re.compile(r"\w+")
_CODE = re.compile(r"```|\bdef |\bclass |\breturn\b|[{};]\s*$|</?\w+>|\bSELECT\b|#include", re.MULTILINE)


def _matrix(rows: list[list[float]], width: int) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


class Length(Signal):
    """How long the request is: the plainest router, and the baseline of every other."""

    name = "length"
    stage = Stage.PRE

    def columns(self) -> tuple[str, ...]:
        """One column."""
        return ("log_characters",)

    def transform(self, exchanges: Exchanges) -> Floats:
        """Logarithm of the characters, shape (n, 1)."""
        return _matrix([[float(np.log1p(len(e.request)))] for e in exchanges.items], 1)


class Structure(Signal):
    """How the request is built: sentences, numbers, options, code, what surrounds it."""

    name = "structure"
    stage = Stage.PRE

    _columns = (
        "log_words",
        "sentences",
        "words_a_sentence",
        "letters_a_word",
        "last_sentence_words",
        "distinct_words",
        "numbers",
        "distinct_numbers",
        "longest_number",
        "decimals",
        "lines",
        "options",
        "longest_option",
        "option_spread",
        "numeric_options",
        "mean_option",
        "options_alike",
        "options_from_stem",
        "log_stem",
        "asks",
        "ends_open",
        "longest_word",
        "commas",
        "brackets",
        "quotes",
        "code",
        "symbols",
        "capitals",
        "beyond_ascii",
        "log_context",
        "turns",
        "tools",
        "must_have_form",
    )

    def columns(self) -> tuple[str, ...]:
        """What is counted."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Counts and shares, shape (n, c)."""
        return _matrix([_structure(e) for e in exchanges.items], len(self._columns))


def _structure(e: Exchange) -> list[float]:
    text = e.request[:LONGEST]
    words = text.split()
    sentences = [s.split() for s in _SENTENCE_END.split(text) if s.strip()]
    numbers = _NUMBER.findall(text)
    marks = list(_OPTION.finditer(text))
    options = [m.group(2).strip() for m in marks]
    stem = text[: marks[0].start()] if marks else text
    lengths = [len(o.split()) for o in options]
    size = max(1, len(text))
    return [
        float(np.log1p(len(words))),
        len(sentences),
        len(words) / max(1, len(sentences)),
        sum(map(len, words)) / max(1, len(words)),
        len(sentences[-1]) if sentences else 0,
        len({w.lower() for w in words}) / max(1, len(words)),
        len(numbers),
        len(set(numbers)),
        max((len(n) for n in numbers), default=0),
        sum("." in n for n in numbers),
        text.count("\n") + 1,
        len(options),
        max(lengths, default=0),
        max(lengths, default=0) - min(lengths, default=0),
        sum(bool(_NUMBER.match(o.lstrip("$-+ "))) for o in options) / max(1, len(options)),
        sum(lengths) / max(1, len(lengths)),
        *_option_words(options, stem),
        float(np.log1p(len(stem))),
        float("?" in stem),
        float(stem.rstrip().endswith((":", "_"))),
        max((len(w) for w in words), default=0),
        stem.count(","),
        stem.count("("),
        stem.count('"') + stem.count("\u201c"),
        len(_CODE.findall(text)),
        sum(text.count(c) for c in "=+*/^<>%\\_|∀∃∈") / size,
        sum(c.isupper() for c in text) / size,
        0.0 if text.isascii() else sum(not c.isascii() for c in text) / size,
        float(np.log1p(len(e.context))),
        e.turns,
        e.tools,
        float(e.response_format is not None),
    ]


def _option_words(options: list[str], stem: str) -> tuple[float, float]:
    """How alike the options are, and the share of their words that the question holds."""
    sets = [set(_WORD.findall(o.lower())) for o in options[:10]]
    overlaps = [len(a & b) / max(1, len(a | b)) for i, a in enumerate(sets) for b in sets[:i]]
    every = set[str]().union(*sets)
    known = len(every & set(_WORD.findall(stem.lower())))
    return sum(overlaps) / max(1, len(overlaps)), known / max(1, len(every))


_KINDS: dict[str, str] = {
    "how_many": r"\bhow (?:many|much)\b",
    "why_how": r"\bwhy\b|\bhow (?:do|does|did|can|could|would|to)\b",
    "which": r"\bwhich\b",
    "what": r"\bwhat\b",
    "person_place_time": r"\b(?:who|where|when)\b",
    "write": r"\b(?:write|draft|compose|create|generate|rewrite)\b",
    "transform": r"\b(?:translate|summari[sz]e|extract|classify|convert|list)\b",
    "explain": r"\b(?:explain|describe|compare|discuss|analy[sz]e|evaluate)\b",
    "prove": r"\b(?:prove|derive|theorem|proof|let [a-z] (?:be|=)|suppose|assume)\b",
    "conditions": r"\b(?:if|unless|except|only|assuming|given that|provided)\b",
    "negations": r"\b(?:not|never|no|none|neither|cannot|least|incorrect|false)\b|n't\b",
    "comparisons": r"\b(?:more|less|fewer|older|younger|longer|shorter|greater|larger|smaller|higher|lower)\b",
    "multiples": r"\b(?:twice|thrice|double[ds]?|triple[ds]?|times|half|halves|thirds?|quarters?|fifths?)\b|\d/\d",
    "percent": r"%|\bpercent",
    "money": r"[$€£]|\b(?:dollars?|cents?|euros?|price|costs?)\b",
    "rates": r"\b(?:each|per|every|rate|average|ratio|speed|apiece)\b",
    "durations": r"\b(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)\b",
    "totals": r"\b(?:total|altogether|combined|sum|in all|overall)\b",
    "remainders": r"\b(?:left|remain\w*|rest|remainder|difference|change)\b",
    "steps": r"\b(?:then|after|before|next|first|second|finally|later|until)\b",
    "blanks": r"_{2,}|\bfollowing\b|\bstatement\b",
    "all_or_none": r"\b(?:all|none|both|neither) of (?:the|these|them)\b|\ball are\b",
}


class Difficulty(Signal):
    """What kind of work the request asks for: signs of questions, conditions, several steps, quantities."""

    name = "difficulty"
    stage = Stage.PRE

    _patterns = tuple(re.compile(p) for p in _KINDS.values())

    def columns(self) -> tuple[str, ...]:
        """The kinds of signs."""
        return tuple(_KINDS)

    def transform(self, exchanges: Exchanges) -> Floats:
        """How often each sign stands in a request, damped by a logarithm; shape (n, c)."""
        texts = [e.request[:LONGEST].lower() for e in exchanges.items]
        counts = [[float(len(p.findall(text))) for p in self._patterns] for text in texts]
        return np.log1p(_matrix(counts, len(self._patterns)))
