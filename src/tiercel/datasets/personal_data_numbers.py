"""Numbers with a checksum or a strict form: cards, IBANs and the ids that states give to people.

A form that strays into ordinary text (nine bare digits) counts only where a word near it says what it is. What can be
told from a number itself (its check digit) is asked first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tiercel.datasets import personal_data_checks as checks
from tiercel.datasets.personal_data_text import Reading

__all__ = ["LETTERED_KINDS", "NATIONAL_IDS", "NUMBER_KINDS", "find_lettered", "find_numbers", "numeric_runs"]

Found = Iterator[tuple[int, int, str, float]]
"""Start and end in the folded text, kind, score."""

_RUN = re.compile(r"\d(?:[ ./()-]{0,3}\d){5,}+")
"""Digits that may belong together: at least six, which the shortest numbers here have."""
_NEAR = 48
"""Characters before a number in which a word may say what it is."""
_AFTER = 12
"""Characters past a run of digits that a form may take, such as the letter of a DNI."""
_NOT_BARE = re.compile(r"[ ./+-]")


class _Form(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    fewest: int
    """Digits that a run must have for the form to be in it."""
    cue: re.Pattern[str] | None = None
    """Words that must stand near; where only bare digits need them, `bare` is true."""
    bare: bool = False
    strict: Callable[[str], bool] | None = None
    """What makes the words needless."""


def _form(
    kind: str,
    pattern: str,
    valid: Callable[[str], bool],
    fewest: int,
    cue: str | None = None,
    *,
    bare: bool = False,
    strict: Callable[[str], bool] | None = None,
) -> _Form:
    words = re.compile(rf"(?<!\w)(?:{cue})", re.IGNORECASE) if cue else None
    return _Form(
        kind, re.compile(rf"(?<![\w.])(?<!\d-){pattern}(?!\w|[.-]\d)"), valid, fewest, words, bare, strict
    )


_FORMS = (
    _form(
        "card",
        r"(?:\d{12,19}|\d{4}(?:([ .-])\d{4})(?:\1\d{4}){2}(?:\1\d{1,3})?|\d{4}([ .-])\d{6}\2\d{4,5})",
        checks.luhn,
        12,
        "card|credit|debit|cc(?!\\w)|visa|master|maestro|amex|american express|diners|jcb|pan(?!\\w)|kart|carte|tarjeta|carta",
        strict=lambda digits: len(digits) > 12 and checks.card_valid(digits),
    ),
    _form(
        "us_ssn",
        r"(?:\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}|\d{9})",
        checks.ssn_valid,
        9,
        "ssn|social sec|social[ -]security|tax ?id|itin|tin(?!\\w)",
        bare=True,
    ),
    _form("de_steuer_id", r"\d{2}([ /]?)\d{3}\1\d{3}\1\d{3}", checks.steuer_id_valid, 11),
    _form("fr_nir", r"[12378] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3}[ /-]{0,3}\d{2}", checks.nir_valid, 6),
    _form("es_nif", r"(?:\d{8}|\d{2}\.\d{3}\.\d{3})[ -]?[A-Za-z]", checks.nif_valid, 8),
    _form("nl_bsn", r"(?:\d{9}|\d{4}[ .]\d{2}[ .]\d{3})", checks.bsn_valid, 9, "bsn|burgerservice|sofi"),
    _form(
        "in_aadhaar",
        r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}",
        checks.verhoeff,
        12,
        "aadhaar|aadhar|adhaar|uidai|uid(?!\\w)",
        bare=True,
    ),
    _form("br_cpf", r"(?:\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11})", checks.cpf_valid, 11, "cpf", bare=True),
    _form("ch_ahv", r"756(?:\.\d{4}\.\d{4}\.\d{2}|\d{10})", checks.ahv_valid, 13),
    _form("pl_pesel", r"\d{11}", checks.pesel_valid, 11, "pesel"),
    _form("be_nn", r"\d{2}\.\d{2}\.\d{2}[- ]\d{3}[.-]\d{2}", checks.belgian_number_valid, 11),
    _form("fi_hetu", r"\d{6}[-+ABCDEFYXWVUabcdefyxwvu]\d{3}[0-9A-Ya-y]", checks.hetu_valid, 6),
    _form("se_personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", checks.personnummer_valid, 10),
    _form("ca_sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", checks.sin_valid, 9, "sin(?!\\w)|social insurance|nas(?!\\w)|assurance sociale"),
)

_LETTERS = re.compile(r"(?<![^\W_])[A-Za-z]{1,6}(?=[ -]?\d)")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_NINO = re.compile(r"[A-Za-z]{2} ?\d{2}([ -]?)\d{2}\1\d{2}[ -]?[A-Da-d](?!\w)")
_NIE = re.compile(r"[XYZxyz][ -]?\d{7}[ -]?[A-Za-z](?!\w)")
_FISCAL_DIGIT = "[0-9LMNPQRSTUVlmnpqrstuv]"
_FISCAL = re.compile(
    rf"[A-Za-z]{{6}}{_FISCAL_DIGIT}{{2}}[ABCDEHLMPRSTabcdehlmprst]{_FISCAL_DIGIT}{{2}}[A-Za-z]{_FISCAL_DIGIT}{{3}}[A-Za-z](?!\w)"
)

NATIONAL_IDS = tuple(sorted({f.kind for f in _FORMS if f.kind != "card"} | {"it_codice_fiscale", "uk_nino"}))
"""Kinds of ids that states give to people, by country."""
NUMBER_KINDS = frozenset(f.kind for f in _FORMS)
LETTERED_KINDS = frozenset({"iban", "uk_nino", "es_nif", "it_codice_fiscale"})
"""Kinds whose numbers may begin with letters."""


def numeric_runs(reading: Reading) -> list[tuple[int, int]]:
    """Start and end of everything that digits and their separators make up, of six digits or more."""
    return [m.span() for m in _RUN.finditer(reading.text)]


def find_numbers(reading: Reading, kinds: frozenset[str], runs: list[tuple[int, int]]) -> Found:
    """Numbers that begin with a digit.

    Args:
        reading: the folded text.
        kinds: which of `NUMBER_KINDS` are sought.
        runs: as `numeric_runs` gives them.
    """
    forms = [f for f in _FORMS if f.kind in kinds]
    text = reading.text
    for start, end in runs:
        digits = sum(c.isdigit() for c in text[start:end]) if end - start < 40 else end - start
        for form in forms:
            if digits < form.fewest:
                continue
            for m in form.pattern.finditer(text, start, end + _AFTER):
                if m.start() >= end:
                    break
                if _is_one(form, m, text):
                    yield m.start(), m.end(), form.kind, 1.0


def _is_one(form: _Form, m: re.Match[str], text: str) -> bool:
    written = m.group()
    number = "".join(c for c in written if c.isalnum()).upper()
    if form.kind == "fi_hetu":
        number = written.upper()
    if not form.valid(number):
        return False
    if form.cue is None or (form.bare and _NOT_BARE.search(written) and not _loose(form, written)):
        return True
    if form.strict and form.strict(number):
        return True
    return form.cue.search(text, max(0, m.start() - _NEAR), m.start()) is not None


def _loose(form: _Form, written: str) -> bool:
    """Whether a number is written as other numbers are, too: 123 45 6789."""
    return form.kind == "us_ssn" and " " in written


def find_lettered(reading: Reading, kinds: frozenset[str]) -> Found:
    """IBANs and ids that begin with a letter."""
    text = reading.text
    for m in _LETTERS.finditer(text):
        start, letters = m.start(), m.end() - m.start()
        if letters == 2 and "iban" in kinds and (end := _iban_end(text, start)):
            yield start, end, "iban", 1.0
        elif letters == 2 and "uk_nino" in kinds and (found := _NINO.match(text, start)):
            if checks.nino_valid(_bare(found.group())):
                yield start, found.end(), "uk_nino", 1.0
        elif letters == 1 and "es_nif" in kinds and (found := _NIE.match(text, start)):
            if checks.nif_valid(_bare(found.group())):
                yield start, found.end(), "es_nif", 1.0
    if "it_codice_fiscale" in kinds:
        for m in _FISCAL_START.finditer(text):
            found = _FISCAL.match(text, m.start())
            if found and checks.codice_fiscale_valid(found.group().upper()):
                yield m.start(), found.end(), "it_codice_fiscale", 1.0


_FISCAL_START = re.compile(rf"(?<![^\W_])[A-Za-z]{{6}}{_FISCAL_DIGIT}{{2}}[A-Za-z](?={_FISCAL_DIGIT}{{2}})")


def _iban_end(text: str, start: int) -> int | None:
    """Where the IBAN that starts here ends; None where there is none."""
    m = _IBAN.match(text, start)
    length = checks.IBAN_LENGTHS.get(text[start : start + 2].upper()) if m else None
    if m is None or length is None:
        return None
    seen, at = 0, start
    while at < m.end() and seen < length:
        seen += text[at] not in " -"
        at += 1
    cut_short = seen < length or (at < len(text) and text[at].isalnum())
    return None if cut_short or not checks.iban_valid(_bare(text[start:at])) else at


def _bare(written: str) -> str:
    return "".join(c for c in written if c.isalnum()).upper()
