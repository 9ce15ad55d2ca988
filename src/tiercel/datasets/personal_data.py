"""Personal data in a text: what is found, where, and what overlaps what.

`find` reads a text once for what can be in it at all (a digit, an "@", "://") and asks only the recognisers that have
a chance. Names and addresses need a model of language: a `Recogniser` that the user names as "module:Class" plugs in.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from tiercel.datasets.personal_data_network import NETWORK_KINDS, find_network
from tiercel.datasets.personal_data_numbers import (
    LETTERED_KINDS,
    NATIONAL_IDS,
    NUMBER_KINDS,
    find_lettered,
    find_numbers,
    numeric_runs,
)
from tiercel.datasets.personal_data_phones import find_phones
from tiercel.datasets.personal_data_secrets import find_secrets
from tiercel.datasets.personal_data_text import Reading, fold
from tiercel.errors import ConfigurationError, UserError

__all__ = [
    "DEFAULT_KINDS",
    "GROUPS",
    "KINDS",
    "Recogniser",
    "Span",
    "find",
    "load_recogniser",
    "resolve",
    "resolve_kinds",
]

Found = tuple[int, int, str, float]

# The more specific before the less: of two spans over the same characters the earlier kind is kept.
_ORDER = ("secret", "iban", "card", *NATIONAL_IDS, "email", "mac", "ip", "url", "date_of_birth", "phone")
KINDS = tuple(sorted(_ORDER))
"""All kinds that patterns find."""
DEFAULT_KINDS = tuple(k for k in KINDS if k != "url")
"""All but URLs: most of them name a page, not a person, and an answer is of little use without them."""
GROUPS = {"national_id": NATIONAL_IDS, "all": KINDS, "default": DEFAULT_KINDS}
"""Names that stand for several kinds."""
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}
_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Span(Struct, frozen=True, kw_only=True, order=True):
    """Where something personal stands; it does not hold what it is."""

    start: int
    """First character."""
    end: int
    """One past the last character."""
    kind: str
    """One of `KINDS`, or a kind of a recogniser's own, such as person."""
    score: float = 1.0
    """How sure, in (0, 1]: 1 for a checksum or a strict form, less where words around decided."""


@runtime_checkable
class Recogniser(Protocol):
    """Something that finds what patterns can't, such as names.

    It may be asked from several threads. An error that it raises ends the redaction: nothing passes unread.
    """

    name: str
    """What messages call it."""
    kinds: Sequence[str]
    """Kinds that it finds: lower case, digits, underscores."""

    def find(self, text: str) -> Iterable[Span]:
        """Spans in a text as it came; they may overlap."""
        ...


def load_recogniser(reference: str) -> Recogniser:
    """An instance of the recogniser that "module:Class" names, made without arguments.

    Raises:
        ConfigurationError: it can't be imported, or is no recogniser.
        MissingExtraError: it needs an extra that is not installed.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ConfigurationError(
            f"recogniser {reference!r} is not of the form module:Class; name one, such as my.pkg:Names"
        )
    try:
        made = getattr(importlib.import_module(module), name)()
    except UserError:
        raise  # It says itself what is missing.
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"recogniser {reference!r} can't be loaded ({error}); install its package or correct the name"
        ) from error
    if not isinstance(made, Recogniser) or not all(_KIND.fullmatch(k) for k in made.kinds):
        raise ConfigurationError(
            f"{reference!r} is no recogniser: it needs `name`, `kinds` (such as person) and `find(text)`"
        )
    return made


def resolve_kinds(kinds: Iterable[str], recognisers: Sequence[Recogniser] = ()) -> frozenset[str]:
    """The kinds that names of kinds and of groups stand for.

    Raises:
        ConfigurationError: a name is unknown, to the recognisers too.
    """
    known = set(KINDS).union(*(r.kinds for r in recognisers))
    resolved = set[str]()
    for kind in kinds:
        if kind not in known and kind not in GROUPS:
            raise ConfigurationError(
                f"unknown kind of personal data {kind!r}; known: {', '.join(sorted(known | set(GROUPS)))}"
            )
        resolved.update(GROUPS.get(kind, (kind,)))
    return frozenset(resolved)


def find(text: str, kinds: Iterable[str] | None = None, recognisers: Sequence[Recogniser] = ()) -> list[Span]:
    """Personal data in a text, in order, none overlapping another.

    Args:
        text: any text; full-width digits, digits of other scripts, zero-width characters and dashes are read through.
        kinds: names of kinds and groups; None for `DEFAULT_KINDS` and all that the recognisers find.
        recognisers: asked besides the patterns.

    Raises:
        ConfigurationError: a kind is unknown.
    """
    if isinstance(kinds, frozenset):
        wanted = kinds  # Resolved before: a request is not the place to check names again.
    elif kinds is None:
        wanted = frozenset(DEFAULT_KINDS).union(*(r.kinds for r in recognisers))
    else:
        wanted = resolve_kinds(kinds, recognisers)
    reading = fold(text)
    spans = list[Span]()
    for start, end, kind, score in _patterns(reading, wanted):
        first, last = reading.place(start, end)
        spans.append(Span(start=first, end=last, kind=kind, score=score))
    for recogniser in recognisers:
        spans += [s for s in recogniser.find(text) if s.kind in wanted and 0 <= s.start < s.end <= len(text)]
    return resolve(spans) if len(spans) > 1 else spans


def resolve(spans: Iterable[Span]) -> list[Span]:
    """Spans without overlap, in order: of those that overlap the longest stays, then the more specific kind."""
    by_length = sorted(spans, key=lambda s: (s.start - s.end, _RANK.get(s.kind, len(_RANK)), s.start))
    covered, kept = bytearray(max((s.end for s in by_length), default=0)), list[Span]()
    for span in by_length:
        # Longer spans came first: one that overlaps this one covers its first or its last character.
        if not (covered[span.start] or covered[span.end - 1]):
            kept.append(span)
            covered[span.start : span.end] = b"\1" * (span.end - span.start)
    return sorted(kept)


def _patterns(reading: Reading, wanted: frozenset[str]) -> Iterator[Found]:
    if wanted & NETWORK_KINDS:
        yield from find_network(reading, wanted)
    if "secret" in wanted:
        yield from find_secrets(reading)
    if not reading.has_digit:
        return
    if wanted & LETTERED_KINDS:
        yield from find_lettered(reading, wanted)
    if "date_of_birth" in wanted:
        yield from _births(reading)
    if (wanted & NUMBER_KINDS or "phone" in wanted) and (runs := numeric_runs(reading)):
        yield from find_numbers(reading, wanted, runs)
        if "phone" in wanted:
            yield from find_phones(reading, runs)


_BIRTH_WORDS = (
    "birth",
    "born",
    "dob",
    "d.o.b",
    "geboren",
    "geburt",
    "geb.",
    "naissance",
    "né le",
    "née le",
    "nacimiento",
    "nacid",
    "nascita",
    "nato il",
    "nata il",
)
"""A text without any of these holds no date that is called a birth."""
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_BIRTH = re.compile(
    r"(?<!\w)(?:date of birth|birth ?date|birthday|born|dob|d\.o\.b\.?|geboren|geburtsdatum|geb\.|née? le"
    r"|date de naissance|fecha de nacimiento|nacid[oa]|data di nascita|nat[oa] il)(?!\w)[^\d\n]{0,24}?"
    rf"(?<![\w.])(?P<date>\d{{1,2}}([./ -])\d{{1,2}}\2(?:\d{{4}}|\d{{2}})|\d{{4}}([./-])\d{{1,2}}\3\d{{1,2}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)? (?:of )?{_MONTH},? \d{{4}}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\w)",
    re.IGNORECASE,
)


def _births(reading: Reading) -> Iterator[Found]:
    """Dates that a word calls a date of birth."""
    if any(word in reading.lower for word in _BIRTH_WORDS):
        for m in _BIRTH.finditer(reading.text):
            yield *m.span("date"), "date_of_birth", 0.8
