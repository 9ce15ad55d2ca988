"""From the words of a request to the value that an answer makes of them: numbers, dates, yes and no, case.

Each normaliser is a function from text to a JSON value, or to `NOTHING` where the text is not of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["NORMALISERS", "NOTHING", "normalise"]

NOTHING: Final = object()
"""What a normaliser gives for a text that is not of its kind; None would be JSON's null."""

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_ROUND = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_ROUND.split(), 2)}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_PLACES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINALS = {word: value for value, word in enumerate(_PLACES.split(), 1)}
_MONTH_NAMES = "january february march april may june july august september october november december"
_DIGITS = re.compile(r"[^\w.,+-]*([+-]?\d[\d,]*(?:\.\d+)?|[+-]?\.\d+)\s*([kKmM%]|st|nd|rd|th)?[^\w]*")
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_NAMED_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(?:\s+of)?\s+([a-z]{3,9})\.?,?\s+(\d{4})")
_NAMED_MONTH = re.compile(r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})")
_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?\s*([ap])\.?m\.?|(\d{1,2}):(\d{2})")
_YES = {"yes", "true"}
_NO = {"no", "false", "without", "never"}


def _spelled(text: str) -> int | None:
    """Value of a number in English words."""
    total, part = 0, 0
    words = re.split(r"[\s-]+", text.lower().strip())
    for word in words:
        if word in _UNITS:
            part += _UNITS[word]
        elif word in _TENS:
            part += _TENS[word]
        elif word in _ORDINALS:
            part += _ORDINALS[word]
        elif word in ("a", "an") and len(words) > 1:
            part += 1
        elif word in _SCALES:
            part = max(1, part) * _SCALES[word]
            if word != "hundred":
                total, part = total + part, 0
        elif word != "and":
            return None
    return total + part if words != [""] else None


def _number(text: str) -> int | float | None:
    if found := _DIGITS.fullmatch(text):
        digits, suffix = found[1].replace(",", ""), (found[2] or "").lower()
        if not re.search(r"\d", digits):
            return None
        value = float(digits) if "." in digits else int(digits)
        value *= {"k": 1_000, "m": 1_000_000}.get(suffix, 1)
        return int(value) if isinstance(value, float) and suffix in ("k", "m") and value.is_integer() else value
    return _spelled(text)


def number(text: str) -> Any:
    """Numbers: "1,200.50" and "$1,200.50" are 1200.5, "two hundred" is 200, "3rd" is 3, "5k" is 5000."""
    value = _number(text)
    return NOTHING if value is None else value


def number_text(text: str) -> Any:
    """A number as text of digits: "two" is "2"."""
    value = _number(text)
    return NOTHING if value is None else str(value)


def share(text: str) -> Any:
    """A percentage as a share: "15%" and "15 percent" are 0.15."""
    bare = re.sub(r"\s*(%|per\s?cent)\s*$", "", text, flags=re.IGNORECASE)
    value = _number(bare) if bare != text else None
    return NOTHING if value is None else round(value / 100, 10)


def iso_date(text: str) -> Any:
    """Dates: "May 3rd, 2024", "3 May 2024" and "2024-5-3" are "2024-05-03"; dates that say no year are not guessed."""
    low = text.lower().strip()
    if found := _ISO.fullmatch(low):
        return _date(int(found[1]), int(found[2]), int(found[3]))
    if found := _NAMED_DAY.fullmatch(low):
        return _date(int(found[3]), _month(found[2]), int(found[1]))
    if found := _NAMED_MONTH.fullmatch(low):
        return _date(int(found[3]), _month(found[1]), int(found[2]))
    return NOTHING


def _month(name: str) -> int:
    return next(
        (i for i, full in enumerate(_MONTH_NAMES.split(), 1) if full.startswith(name[:3]) and full.startswith(name)), 0
    )


def _date(year: int, month: int, day: int) -> Any:
    return f"{year:04}-{month:02}-{day:02}" if 1 <= month <= 12 and 1 <= day <= 31 else NOTHING


def clock(text: str) -> Any:
    """Times: "7 pm", "7:00 p.m." and "19:00" are "19:00"."""
    found = _CLOCK.fullmatch(text.lower().strip())
    if not found:
        return NOTHING
    if found[4] is not None:
        hour, minute = int(found[4]), int(found[5])
    else:
        hour, minute = int(found[1]), int(found[2] or 0)
        if not 1 <= hour <= 12:
            return NOTHING
        hour = hour % 12 + (12 if found[3] == "p" else 0)
    return f"{hour:02}:{minute:02}" if hour < 24 and minute < 60 else NOTHING


def truth(text: str) -> Any:
    """Words of consent are true, words of denial are false."""
    low = text.lower().strip(" .,!?")
    return True if low in _YES else False if low in _NO else NOTHING


NORMALISERS: dict[str, Callable[[str], Any]] = {
    "same": lambda text: text,
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "capital": str.capitalize,
    "underscores": lambda text: re.sub(r"\s+", "_", text.lower()),
    "number": number,
    "number_text": number_text,
    "share": share,
    "iso_date": iso_date,
    "clock": clock,
    "truth": truth,
}
"""By name; the names stand in bundles."""


def normalise(name: str, text: str) -> Any:
    """What the normaliser `name` makes of `text`; `NOTHING` where it does not apply."""
    try:
        return NORMALISERS[name](text)
    except (ValueError, OverflowError):
        return NOTHING
