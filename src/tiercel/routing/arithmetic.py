"""Sums that stand in a text ("9 * $2 = $18"), and whether they are right.

Nothing is executed: a small parser knows numbers, the four operations, percent and parentheses.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

__all__ = ["Sum", "evaluate", "find_sums", "numbers_in"]

_NUMBER = r"\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})(%?)|([-+*/()]))")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_UNIT = re.compile(rf"((?:{_NUMBER})%?\)*)\s*[A-Za-z]+(?:[ -][A-Za-z]+)?\s*(?=[-+*/=)])")
_TIMES = re.compile(rf"((?:{_NUMBER})%?\)*)\s*[x\u00d7\u00b7]\s*(?=[(\d.])")
_PERCENT_OF = re.compile(rf"((?:{_NUMBER})%)\s+of\s+(?=[(\d.])")
_SUM = re.compile(rf"([-+*/%().\d\s]*[-+*/][-+*/%().\d\s]*)=\s*(-?\s*(?:{_NUMBER})%?)(?!\s*[-+*/]\s*[\d(.])")
_NUMBERS = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_SIGNS = {"\\times": "*", "\\div": "/", "\u00f7": "/", "\u2212": "-", "\u2013": "-"}
LONGEST = 20_000
"""Characters of a text that are read."""
MOST_TOKENS = 60
"""Of one sum; beyond, it is left unread."""


class Sum(Struct, frozen=True, kw_only=True):
    """A sum as it stands in a text."""

    expression: str
    shown: float
    """The result that the text gives."""
    value: float
    """The result that it has."""
    right: bool
    """Whether both agree to the last digit that is shown."""


@lru_cache(maxsize=256)
def find_sums(text: str) -> tuple[Sum, ...]:
    """The sums of a text, in order; units, currency signs and thousands separators are read over.

    Several signals ask for those of the same answer, one after the other: the last texts' are kept.
    """
    plain = _plain(text[:LONGEST])
    found = list[Sum]()
    for left, right in _SUM.findall(plain):
        value = evaluate(left)
        if value is None:
            continue
        percent = right.endswith("%")
        digits = right.replace(" ", "").rstrip("%")
        shown = float(digits)
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        near = abs(value - shown) <= half * 1.02 + 1e-9 * abs(value)
        # "0.2 * 50 = 10%" and "10 / 50 = 20%" are both written.
        right_as_share = percent and abs(100 * value - shown) <= half * 1.02
        found.append(Sum(expression=left.strip(), shown=shown, value=value, right=near or right_as_share))
    return tuple(found)


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, in order, without their signs."""
    return [float(n.replace(",", "")) for n in _NUMBERS.findall(text[:LONGEST])]


def _plain(text: str) -> str:
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = _THOUSANDS.sub("", re.sub(r"[$€£]\s*", "", text))
    text = _PERCENT_OF.sub(r"\1 * ", text)
    return _TIMES.sub(r"\1 * ", _UNIT.sub(r"\1 ", text))


def evaluate(expression: str) -> float | None:
    """The value of an expression of numbers, + - * /, percent and parentheses; None where it is none.

    A list number or another leftover before the expression proper ("1. 3 + 4") is read over where only a suffix parses.
    """
    tokens = list[str | float]()
    at = 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if match is None:
            tokens.clear()  # something else: what counts stands after it
            at += 1
            continue
        number, percent, sign = match.groups()
        tokens.append(float(number) / (100 if percent else 1) if number else sign)
        at = match.end()
    if not 3 <= len(tokens) <= MOST_TOKENS:
        return None
    for start in range(len(tokens) - 2):
        value = _Parser(tokens[start:]).value()
        if value is not None:
            return value
    return None


class _Parser:
    """Recursive descent over tokens; a failed parse, or a single number, has no value."""

    def __init__(self, tokens: list[str | float]) -> None:
        self._tokens = tokens
        self._at = 0
        self._operations = 0

    def value(self) -> float | None:
        try:
            found = self._terms()
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
        return found if self._at == len(self._tokens) and self._operations else None

    def _next(self) -> str | float | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _terms(self) -> float:
        total = self._factors()
        while self._next() in ("+", "-"):
            sign = self._tokens[self._at]
            self._at += 1
            self._operations += 1
            term = self._factors()
            total = total + term if sign == "+" else total - term
        return total

    def _factors(self) -> float:
        product = self._atom()
        while self._next() in ("*", "/"):
            sign = self._tokens[self._at]
            self._at += 1
            self._operations += 1
            factor = self._atom()
            product = product * factor if sign == "*" else product / factor
        return product

    def _atom(self) -> float:
        token = self._next()
        self._at += 1
        if isinstance(token, float):
            return token
        if token == "-":
            return -self._atom()
        if token == "(":
            inner = self._terms()
            if self._next() != ")":
                raise ValueError("a parenthesis is open")
            self._at += 1
            return inner
        raise ValueError("no number")
