"""Signals that read an answer and learn nothing: its form, its sums, whether the request supports it, its tokens."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.routing.arithmetic import find_sums, numbers_in
from tiercel.routing.exchange import Exchange, Exchanges
from tiercel.routing.signal import Signal, Stage
from tiercel.tasks.json_schema import schema_violation
from tiercel.tasks.refusals import is_refusal

__all__ = ["Agreement", "AnswerForm", "Arithmetic", "Logprobs", "Support", "final_answer"]

Floats = NDArray[np.float64]

LONGEST = 20_000
"""Characters of an answer that are read."""
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|could be|seems?|appears?|unclear|not sure|unsure|i think|i believe|"
    r"approximately|about|roughly|around|assum\w+|it is (?:not|im)possible|cannot be determined|not enough)\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:however|wait|actually|but since|instead|mistake|correct(?:ion|ed)|let'?s (?:re|correct)\w*|"
    r"re-?(?:check|evaluate|calculate|consider)\w*|apolog\w+|sorry|round(?:ed|ing|s)?|negative|"
    r"doesn'?t make sense|can'?t have)\b",
    re.IGNORECASE,
)
_STEP = re.compile(r"\n+|(?<=[.?!])\s+")
_FINAL = re.compile(
    r"(?:#{2,}|\\boxed\{|\"answer\"\s*:|\b(?:final )?answer(?: is)?\s*:?|\btherefore\b|\bso,|\bin total\b|\bthus\b)",
    re.IGNORECASE,
)
_MARKED = re.compile(r"(?:#{2,}|\\boxed\{|\"answer\"\s*:|\b(?:final )?answer(?: is)?\s*:)\s*(.*)", re.IGNORECASE)
_SIGNED = re.compile(r"-?\s?[$€£]?\s?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_NAME = re.compile(r"(?<![.?!:]\s)(?<!^)(?<!\n)\b[A-Z][a-z]{2,}\b")
_WORD = re.compile(r"[a-z]{4,}")
_NUMBER_WORDS: dict[str, float] = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "dozen": 12, "hundred": 100,
    "half": 2, "twice": 2, "double": 2, "triple": 3, "third": 3, "quarter": 4, "week": 7,
}  # fmt: skip


@lru_cache(maxsize=256)
def final_answer(text: str) -> str:
    """The number that an answer ends with, or what stands after its last mark; empty where there is neither."""
    marked = _MARKED.findall(text)
    source = marked[-1] if marked else text
    numbers = _SIGNED.findall(source) or ([] if marked else _SIGNED.findall(text))
    if numbers:
        return re.sub(r"[^\d.-]", "", numbers[0] if marked else numbers[-1]).rstrip(".")
    return source.strip().strip("\"'}`. ").lower()[:200] if marked else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _matrix(rows: list[list[float]], width: int) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


class AnswerForm(Signal):
    """The answer's form: length, steps, how it ends, hedging, refusal, repetition, whether it parses as asked."""

    name = "answer_form"
    stage = Stage.POST

    _columns = (
        "log_characters",
        "to_request",
        "steps",
        "empty",
        "marked",
        "final_number",
        "final_size",
        "final_fraction",
        "final_negative",
        "after_mark",
        "concluded",
        "hedges",
        "corrections",
        "refused",
        "truncated",
        "open_brackets",
        "repetition",
        "questions",
        "not_as_asked",
    )

    def columns(self) -> tuple[str, ...]:
        """What is looked at."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c)."""
        return _matrix([_form(e) for e in exchanges.items], len(self._columns))


def _form(e: Exchange) -> list[float]:
    text = (e.answer or "")[:LONGEST]
    bare = text.rstrip("` \n\"'}*")
    marked = list(_MARKED.finditer(text))
    value = _number(final_answer(text))
    steps = [s for s in _STEP.split(text) if s.strip()]
    words = text.lower().split()
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(text)) - np.log1p(len(e.request))),
        float(np.log1p(len(steps))),
        float(not text.strip()),
        float(bool(marked)),
        float(value is not None),
        float(np.log1p(min(abs(value), 1e12))) if value is not None else 0.0,
        float(value is not None and value != round(value)),
        float(value is not None and value < 0),
        float(np.log1p(len(text) - marked[-1].end())) if marked else 0.0,
        float(bool(_FINAL.search(text))),
        float(np.log1p(len(_HEDGE.findall(text)))),
        float(np.log1p(len(_CORRECTION.findall(text)))),
        float(is_refusal(text)),
        float(bool(bare) and bare[-1] not in ".!?)]%:0123456789"),
        float(sum(text.count(c) for c in "([{<") - sum(text.count(c) for c in ")]}>")),
        1 - len(triples) / max(1, triples.total()) if triples else 0.0,
        float(text.count("?")),
        float(_misses_form(e)),
    ]


def _misses_form(e: Exchange) -> bool:
    """Whether the request asks for JSON and the answer is not such, or breaks the schema."""
    if e.response_format is None or e.response_format.get("type") not in ("json_object", "json_schema"):
        return False
    try:
        value: Any = msgspec.json.decode(e.answer or "")
    except (msgspec.DecodeError, RecursionError):
        return True
    schema = (e.response_format.get("json_schema") or {}).get("schema")
    return schema is not None and schema_violation(value, schema) is not None


class Arithmetic(Signal):
    """The sums of the answer: how many, how many of them wrong, whether the answer is the last one's result."""

    name = "arithmetic"
    stage = Stage.POST

    _columns = ("sums", "wrong", "wrong_share", "last_wrong", "final_is_last", "final_is_any", "fractions", "negatives")

    def columns(self) -> tuple[str, ...]:
        """What is checked."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c)."""
        return _matrix([_sums(e) for e in exchanges.items], len(self._columns))


def _sums(e: Exchange) -> list[float]:
    text = e.answer or ""
    sums = find_sums(text)
    wrong = sum(not s.right for s in sums)
    final = _number(final_answer(text[:LONGEST]))
    results = [s.shown for s in sums]
    return [
        float(np.log1p(len(sums))),
        float(np.log1p(wrong)),
        wrong / max(1, len(sums)),
        float(bool(sums) and not sums[-1].right),
        float(bool(results) and final is not None and abs(results[-1] - final) < 1e-6),
        float(final is not None and any(abs(r - final) < 1e-6 for r in results)),
        float(np.log1p(sum(r != round(r) for r in results))),
        float(np.log1p(sum(r < 0 for r in results))),
    ]


class Support(Signal):
    """Whether numbers, names and words of the answer are supported by the request, and its numbers used."""

    name = "support"
    stage = Stage.POST

    _columns = (
        "unsupported_numbers",
        "unsupported_share",
        "unused_numbers",
        "unused_share",
        "unsupported_names",
        "word_overlap",
        "final_in_request",
    )

    def columns(self) -> tuple[str, ...]:
        """What is compared."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c)."""
        return _matrix([_support(e) for e in exchanges.items], len(self._columns))


def _support(e: Exchange) -> list[float]:
    text = (e.answer or "")[:LONGEST]
    asked = f"{e.context} {e.request}"[:LONGEST]
    lower = asked.lower()
    given = set(numbers_in(asked))
    spelled = {value for word, value in _NUMBER_WORDS.items() if word in lower}
    made = {round(abs(s.shown), 6) for s in find_sums(text)}
    said = set(numbers_in(text))
    known = given | spelled | made | {0.0, 1.0, 100.0}
    unsupported = sum(round(n, 6) not in known for n in said)
    unused = sum(n not in said for n in given)
    names = {n for n in _NAME.findall(text) if n.lower() not in lower}
    words, theirs = set(_WORD.findall(text.lower())), set(_WORD.findall(lower))
    final = _number(final_answer(text))
    return [
        float(np.log1p(unsupported)),
        unsupported / max(1, len(said)),
        float(np.log1p(unused)),
        unused / max(1, len(given)),
        float(np.log1p(len(names))),
        len(words & theirs) / max(1, len(words)),
        float(final is not None and abs(final) in given),
    ]


class Logprobs(Signal):
    """How sure the model was of its tokens, where that was recorded."""

    name = "logprobs"
    stage = Stage.POST

    _columns = ("known", "mean", "lowest", "tenth", "unsure_share", "last_tokens")

    def columns(self) -> tuple[str, ...]:
        """Statistics of the tokens' log probabilities; all 0 where none were recorded, which `known` tells."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c)."""
        return _matrix([_logprobs(e) for e in exchanges.items], len(self._columns))


def _logprobs(e: Exchange) -> list[float]:
    if not e.logprobs:
        return [0.0] * 6
    # Providers write -9999 or minus infinity for "never"; a finite floor keeps the mean a mean.
    values = np.clip(np.nan_to_num(np.array(e.logprobs, dtype=np.float64), nan=-20.0), -20.0, 0.0)
    tenth, last = float(np.quantile(values, 0.1)), float(values[-8:].mean())
    return [1.0, float(values.mean()), float(values.min()), tenth, float((values < -1).mean()), last]


class Agreement(Signal):
    """How far other answers to the request (samples, or lower tiers) come to the same end."""

    name = "agreement"
    stage = Stage.POST

    _columns = ("others", "same_final", "majority", "word_overlap")

    def columns(self) -> tuple[str, ...]:
        """What is compared; all 0 where there is no other answer, which `others` tells."""
        return self._columns

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, c)."""
        return _matrix([_agreement(e) for e in exchanges.items], len(self._columns))


def _agreement(e: Exchange) -> list[float]:
    if not e.others:
        return [0.0] * 4
    text = (e.answer or "")[:LONGEST]
    ends = [_end(o[:LONGEST]) for o in e.others]
    mine = _end(text)
    votes = Counter(ends)
    words = set(_WORD.findall(text.lower()))
    overlaps = list[float]()
    for other in e.others:
        theirs = set(_WORD.findall(other[:LONGEST].lower()))
        overlaps.append(len(words & theirs) / max(1, len(words | theirs)))
    return [
        float(len(ends)),
        votes[mine] / len(ends),
        float(votes.most_common(1)[0][0] == mine),
        sum(overlaps) / len(overlaps),
    ]


def _end(text: str) -> str:
    """What two answers are compared by: the final number or marked answer, else the whole text."""
    final = final_answer(text)
    value = _number(final)
    return f"{value:g}" if value is not None else final or " ".join(text.lower().split())
