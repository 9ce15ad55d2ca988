"""Text as recognisers read it, and what stands near a place in it.

`fold` turns the many forms of a digit, a dash or a blank into the plain one and drops characters that nobody sees, so
that a card in full-width digits or with zero-width blanks in it is found like any other; places are mapped back.
"""

from __future__ import annotations

import re
from functools import cached_property

__all__ = ["NEAR", "Reading", "fold", "words_before"]

NEAR = 48
"""Characters before a number in which a word may say what it is."""

_HIDDEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
)
"""Soft hyphen, joiners, marks of direction, selectors: characters without a width, as ranges of a character class."""


_BEYOND_LATIN = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x20000)]))
"""All characters but ASCII up to where ideographs alone follow."""


def _plain_forms() -> dict[str, str]:
    """Each character that stands for another one, and that one."""
    forms = {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)}
    forms |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
    forms |= dict.fromkeys("\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))), " ")
    forms |= dict.fromkeys("\u3002\uff61\u2024", ".")
    return forms | {c: str(int(c)) for c in re.findall(r"\d", _BEYOND_LATIN)}


def _ranges(characters: list[str]) -> str:
    """A character class of these, runs of neighbours joined: few ranges are tested faster than many."""
    runs = list[list[int]]()
    for code in sorted(map(ord, characters)):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in runs)


_PLAIN = _plain_forms()
_ODD = re.compile(f"[{_ranges(list(_PLAIN))}]")
_UNSEEN = re.compile(f"[{_HIDDEN}]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_TELLING = frozenset(_PLAIN).union(_UNSEEN.findall(_BEYOND_LATIN))


class Reading:
    """A text as recognisers read it.

    Attributes:
        text: the folded text; `place` leads back from it.
    """

    __slots__ = ("__dict__", "_offsets", "text")

    def __init__(self, text: str, offsets: list[int] | None = None) -> None:
        self.text = text
        self._offsets = offsets

    @cached_property
    def lower(self) -> str:
        """The text in lower case, to ask whether a word occurs at all; its places are not those of the text."""
        return self.text.lower()

    @cached_property
    def has_digit(self) -> bool:
        """Whether there is a digit at all."""
        return _DIGIT.search(self.text) is not None

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Start and end in the text as it came."""
        if self._offsets is None:
            return start, end
        return self._offsets[start], self._offsets[end - 1] + 1


_DIGIT = re.compile(r"[0-9]")


def fold(text: str) -> Reading:
    """Read a text: digits of any script, full-width forms, dashes and blanks become plain, unseen characters go."""
    if text.isascii() or _TELLING.isdisjoint(_BEYOND_ASCII.findall(text)):
        return Reading(text)
    offsets = None
    if _UNSEEN.search(text):
        offsets = [i for i, c in enumerate(text) if not _UNSEEN.match(c)]
        text = _UNSEEN.sub("", text)
    return Reading(_ODD.sub(lambda m: _PLAIN[m.group()], text), offsets)


_PLACEHOLDER = re.compile(r"<[a-z0-9_]+>")
_WORD = re.compile(r"[^\W\d_]+")


def words_before(text: str, at: int) -> list[str]:
    """Words near before a place, the nearest first, in lower case; the farthest may be cut."""
    window = text[max(0, at - NEAR) : at].lower()
    if "<" in window:
        # <PHONE_1> is a value that was taken out, not a word about the next one.
        window = _PLACEHOLDER.sub(" ", window)
    # Without letters in it, a column of numbers say, there is nothing to part into words.
    return _WORD.findall(window)[::-1] if window != window.upper() else []
