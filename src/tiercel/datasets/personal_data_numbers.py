"""Numbers with a checksum or a strict form: cards, IBANs and the ids that states give to people.

A form that strays into ordinary text (nine bare digits) counts only where a word near it says what it is. What can be
told from a number itself (its check digit) is asked first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tiercel.datasets import personal_data_checks as checks
from tiercel.datasets.personal_data_text import Reading, words_before

__all__ = ["LETTERED_KINDS", "NATIONAL_IDS", "NUMBER_KINDS", "find_lettered", "find_numbers", "numeric_runs"]

Found = Iterator[tuple[int, int, str, float]]
"""Start and end in the folded text, kind, score."""

_RUN = re.compile(r"\d(?:[ ./()-]{0,3}\d){5,}+")
"""Digits that may belong together: at least six, which the shortest numbers here have."""
_AFTER = 12
"""Characters past a run of digits that a form may take, such as the letter of a DNI."""
_SEPARATORS = dict.fromkeys(map(ord, " ./()+-"))
_NOT_BARE = re.compile(r"[ ./+-]")


class _Form(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    fewest: int
    """Digits that a run must have for the form to be in it."""
    most_bare: int
    """Digits that a run without separators may have for it."""
    cue: frozenset[str] = frozenset()
    """Words of which one must stand near; where only bare digits need them, `bare` is true."""
    bare: bool = False
    strict: Callable[[str], bool] | None = None
    """What makes the words needless."""

    def can_be_in(self, reading: Reading) -> bool:
        """Whether a text has any of the words, where no number counts without."""
        needed = self.cue and not self.bare and self.strict is None
        return not needed or any(word in reading.lower for word in self.cue)


def _form(
    kind: str,
    pattern: str,
    valid: Callable[[str], bool],
    fewest: int,
    most_bare: int,
    cue: str = "",
    *,
    bare: bool = False,
    strict: Callable[[str], bool] | None = None,
) -> _Form:
    words = frozenset(cue.split())
    return _Form(
        kind,
        re.compile(rf"(?a)(?<![\w.])(?<!\d-){pattern}(?!\w|[.-]\d)"),
        valid,
        fewest,
        most_bare,
        words,
        bare,
        strict,
    )


_FORMS = (
    _form(
        "card",
        r"(?:\d{12,19}|\d{4}(?:([ .-])\d{4})(?:\1\d{4}){2}(?:\1\d{1,3})?|\d{4}([ .-])\d{6}\2\d{4,5})",
        checks.luhn,
        12,
        19,
        "card cards credit debit cc creditcard visa mastercard maestro amex diners jcb pan"
        " karte kreditkarte carte tarjeta carta kaart",
        strict=lambda digits: len(digits) > 12 and checks.card_valid(digits),
    ),
    _form(
        "us_ssn",
        r"(?:\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}|\d{9})",
        checks.ssn_valid,
        9,
        9,
        "ssn ssns social itin tin tax taxpayer",
        bare=True,
    ),
    _form("de_steuer_id", r"\d{2}([ /]?)\d{3}\1\d{3}\1\d{3}", checks.steuer_id_valid, 11, 11),
    _form("fr_nir", r"[12378] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3}[ /-]{0,3}\d{2}", checks.nir_valid, 6, 15),
    _form("es_nif", r"(?:\d{8}|\d{2}\.\d{3}\.\d{3})[ -]?[A-Za-z]", checks.nif_valid, 8, 8),
    _form("nl_bsn", r"(?:\d{9}|\d{4}[ .]\d{2}[ .]\d{3})", checks.bsn_valid, 9, 9, "bsn burgerservicenummer sofinummer"),
    _form(
        "in_aadhaar",
        r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}",
        checks.verhoeff,
        12,
        12,
        "aadhaar aadhar adhaar uidai uid",
        bare=True,
    ),
    _form("br_cpf", r"(?:\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11})", checks.cpf_valid, 11, 11, "cpf", bare=True),
    _form("ch_ahv", r"756(?:\.\d{4}\.\d{4}\.\d{2}|\d{10})", checks.ahv_valid, 13, 13),
    _form("pl_pesel", r"\d{11}", checks.pesel_valid, 11, 11, "pesel"),
    _form("be_nn", r"\d{2}\.\d{2}\.\d{2}[- ]\d{3}[.-]\d{2}", checks.belgian_number_valid, 11, 0),
    _form("fi_hetu", r"\d{6}[-+ABCDEFYXWVUabcdefyxwvu]\d{3}[0-9A-Ya-y]", checks.hetu_valid, 6, 6),
    _form("se_personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", checks.personnummer_valid, 10, 0),
    _form("ca_sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", checks.sin_valid, 9, 9, "sin insurance nas assurance"),
)

_AFTER_LETTER = re.compile(r"\d(?:(?<=[A-Za-z]\d)|(?<=[A-Za-z][ -]\d))")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_NINO = re.compile(r"(?a)[A-Za-z]{2} ?\d{2}([ -]?)\d{2}\1\d{2}[ -]?[A-Da-d](?!\w)")
_NIE = re.compile(r"(?a)[XYZxyz][ -]?\d{7}[ -]?[A-Za-z](?!\w)")
_FISCAL_DIGIT = "[0-9LMNPQRSTUVlmnpqrstuv]"
_FISCAL = re.compile(
    rf"(?a)[A-Za-z]{{6}}\d{_FISCAL_DIGIT}[ABCDEHLMPRSTabcdehlmprst]{_FISCAL_DIGIT}{{2}}[A-Za-z]{_FISCAL_DIGIT}{{3}}[A-Za-z](?!\w)"
)
_LETTERED: tuple[tuple[str, int, re.Pattern[str], Callable[[str], bool] | None], ...] = (
    ("iban", 2, _IBAN, None),
    ("uk_nino", 2, _NINO, checks.nino_valid),
    ("es_nif", 1, _NIE, checks.nif_valid),
    ("it_codice_fiscale", 6, _FISCAL, checks.codice_fiscale_valid),
)
"""Kind, letters before the first digit, form, rule; an IBAN's rule needs its country's length."""

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
    forms = [f for f in _FORMS if f.kind in kinds and f.can_be_in(reading)] if runs else []
    text = reading.text
    for start, end in runs:
        run = text[start:end]
        bare = end - start < 40 and run.isdigit()
        digits = end - start if bare else sum(c.isdigit() for c in run)
        for form in forms:
            if digits < form.fewest or (bare and digits > form.most_bare):
                continue
            for m in form.pattern.finditer(text, start, end + _AFTER):
                if m.start() >= end:
                    break
                if _is_one(form, m, text):
                    yield m.start(), m.end(), form.kind, 1.0


def _is_one(form: _Form, m: re.Match[str], text: str) -> bool:
    written = m.group()
    number = written.upper() if form.kind == "fi_hetu" else _bare(written)
    if not form.valid(number):
        return False
    if not form.cue or (form.bare and _NOT_BARE.search(written) and not _loose(form, written)):
        return True
    if form.strict and form.strict(number):
        return True
    return not form.cue.isdisjoint(words_before(text, m.start()))


def _loose(form: _Form, written: str) -> bool:
    """Whether a number is written as other numbers are, too: 123 45 6789."""
    return form.kind == "us_ssn" and " " in written


def find_lettered(reading: Reading, kinds: frozenset[str]) -> Found:
    """IBANs and ids that begin with a letter."""
    text = reading.text
    for m in _AFTER_LETTER.finditer(text):
        last = m.start() - 1 if text[m.start() - 1].isalpha() else m.start() - 2
        start = last
        while start > max(0, last - 6) and text[start - 1].isascii() and text[start - 1].isalpha():
            start -= 1
        if start and text[start - 1].isascii() and text[start - 1].isalnum():
            continue
        for kind, letters, written, valid in _LETTERED:
            if letters == last - start + 1 and kind in kinds and (found := written.match(text, start)):
                if kind == "iban" and (end := _iban_end(text, found)):
                    yield start, end, kind, 1.0
                elif valid and valid(_bare(found.group())):
                    yield start, found.end(), kind, 1.0


def _iban_end(text: str, m: re.Match[str]) -> int | None:
    """Where the IBAN ends that what was matched begins with; None where there is none."""
    start = m.start()
    length = checks.IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length is None:
        return None
    seen, at = 0, start
    while at < m.end() and seen < length:
        seen += text[at] not in " -"
        at += 1
    cut_short = seen < length or (at < len(text) and text[at].isascii() and text[at].isalnum())
    return None if cut_short or not checks.iban_valid(_bare(text[start:at])) else at


def _bare(written: str) -> str:
    return written.translate(_SEPARATORS).upper()
