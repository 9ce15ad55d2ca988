"""Phone numbers, in international form, in the forms of many countries, and bare where a word says what they are.

Numbers are written in hundreds of ways, and most of them could be something else. So forms have two ranks: a *plain*
one counts by itself (+44 …, (020) …, 555-123-4567, 0 and an area code), a *loose* one only where the nearest telling
word before it, or the word right after it, speaks of phones and not of orders, accounts or licences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tiercel.datasets.personal_data_text import Reading, words_before

__all__ = ["find_phones"]

_LONGEST_EXTENSION = 18
_EXTENSION = r"(?: ?(?:x|ext\.?|extension) ?\d{1,6}(?!\d))?"
_CLEAR = r"(?<![\w.@/])(?<!\d[-,:])"
"""What a number can't stand behind: a letter, a fraction's or path's start, another group, an hour."""
_END = r"(?!\w|[.,/-]\d|@)"


class _Form(NamedTuple):
    pattern: re.Pattern[str]
    fewest: int
    most: int
    """Digits that a number of this form has."""
    doubtful: bool
    """Whether a word that calls the number something else is believed."""


def _form(pattern: str, fewest: int, most: int, *, doubtful: bool = False) -> _Form:
    return _Form(re.compile(f"(?ai){_CLEAR}{pattern}{_EXTENSION}{_END}"), fewest, most, doubtful)


_PLUS = _form(r"(?<!\d )\+(?:[1-9]| [1-9]\d{0,2}(?=[ .(-]))(?:[ .()/-]{0,2}\d){6,14}", 8, 15)
_PLAIN = (
    _PLUS,
    # 00 and a country, in groups
    _form(r"00[1-9]\d{0,2}(?:[ .()/-]{1,2}\d{1,10}){1,6}", 8, 17),
    # North America
    _form(
        r"(?:(?:1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[.-])|(?:1[ .-]|(?<!\d ))[2-9]\d\d )\d{3}[ .-]\d{4}", 10, 11
    ),
    # An area in brackets
    _form(r"\(0?\d{1,5}\)[ -]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}", 7, 12),
    # 0 and an area
    _form(r"0[1-9]\d{0,3}(?:[ .-]|[ ]?/[ ]?)\d{2,8}(?:[ .-]\d{2,4}){0,4}", 9, 12, doubtful=True),
    # Three groups or more between hyphens or dots, unless they are a date or a subtraction
    _form(
        r"(?<![$=*<])(?<![$=*] )(?!(?:1[5-9]|2[0-2])\d\d[-.])\d{2,4}([.-])\d{2,4}\1\d{2,4}(?:\1\d{2,4}){0,2}",
        8,
        12,
        doubtful=True,
    ),
)
_LOOSE = _form(r"\(?\d(?:[ .()-]{0,2}\d){5,14}", 6, 15)
_DATE = re.compile(
    r"(?:(?:1[5-9]|2[0-2])\d\d([-./])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2(?:1[5-9]|2[0-2])\d\d|\d{1,2}([-./])\d{1,2}\3\d\d(?![-./]\d))(?!\d)"
)
_TIME_AFTER = re.compile(r"\d?:\d\d")
_ADDRESS_OF_HOST = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}$")
_SAID_OF_PHONES = """
    phone phones ph phoned telephone telephones tel tél téléphone teléfono telefono telefone telefon telefonnummer
    telefoon telefoonnummer telefonszám puhelin puhelinnumero rufnummer mobile mobiles mob mobil móvil
    celular cellulare cell cells cellphone handy handynummer portable fax faxes landline hotline helpline call
    calls called calling callback ring rang dial dialed dialled dialing reach reached text texts texted texting sms gsm
    whatsapp message messages voicemail pager contact answering answers anrufen appeler llamar chiamare bellen
"""
_PHONE_WORDS = frozenset(_SAID_OF_PHONES.split())
_SAID_OF_OTHERS = """
    order orders invoice invoices account accounts acct licence licences license licenses passport passports
    isbn issn doi serial tracking case ticket sku ean upc zip postcode postal address street version vat id ids
    ref reference policy member iban card cards ssn lat longitude latitude usd eur gbp total amount price
    population date born error code pin since
"""
_OTHER_WORDS = frozenset(_SAID_OF_OTHERS.split())
_WHOSE = frozenset(("my", "your", "his", "her", "our", "their", "new", "same", "this", "mein", "meine", "mon", "mi"))
_NUMBER = frozenset(("number", "no", "nummer", "numéro", "número", "numero"))
"""A number that is somebody's, and is called nothing else, is a phone's."""
_AFTERWORD = re.compile(
    r"[ \-,:()]{0,3}(?:office|home|mobile|cell|work|fax|phone|tel|direct|landline)\b(?! +[a-z])", re.IGNORECASE
)
"""As in a signature; "1200000 mobile users" goes on."""


def _speaks_of_phones(text: str, start: int, end: int) -> bool | None:
    """Whether the word after a number, or the nearest telling word before it, speaks of phones; None without any."""
    if _AFTERWORD.match(text, end):
        return True
    words = words_before(text, start)
    for i, word in enumerate(words):
        if word in _PHONE_WORDS or (word in _NUMBER and i + 1 < len(words) and words[i + 1] in _WHOSE):
            return True
        if word in _OTHER_WORDS:
            return False
    return None


def find_phones(reading: Reading, runs: list[tuple[int, int]]) -> Iterator[tuple[int, int, str, float]]:
    """Phone numbers in runs of digits, as start and end in the folded text, kind and score.

    Args:
        reading: the folded text.
        runs: as `personal_data_numbers.numeric_runs` gives them.
    """
    text = reading.text
    for start, end in runs:
        # A run starts with a digit; the sign or the bracket before it belongs to the number.
        first = start
        while first > max(0, start - 3) and text[first - 1] in "+( ":
            first -= 1
        # Digits without a separator are plain behind a plus sign alone.
        bare = end - start < 20 and text[start:end].isdigit()
        whole = False
        for form in (_PLUS,) if bare else _PLAIN:
            for m in _matches(form, text, first, end):
                if not form.doubtful or _speaks_of_phones(text, *m.span()) is not False:
                    whole = whole or (m.start() <= start and m.end() >= end)
                    yield m.start(), m.end(), "phone", 0.9
        if not whole:
            for m in _matches(_LOOSE, text, first, end):
                if _speaks_of_phones(text, *m.span()):
                    yield m.start(), m.end(), "phone", 0.6


def _matches(form: _Form, text: str, first: int, end: int) -> Iterator[re.Match[str]]:
    """Where a form stands in a run of digits, with the right number of digits, and is neither a date nor an address."""
    for m in form.pattern.finditer(text, first, end + _LONGEST_EXTENSION):
        if m.start() >= end:
            return
        written = m.group()
        if not form.fewest <= sum(c.isdigit() for c in written) <= form.most:
            continue
        if not (_DATE.match(written) or _ADDRESS_OF_HOST.match(written) or _of_time(text, m)):
            yield m


def _of_time(text: str, m: re.Match[str]) -> bool:
    """Whether what follows makes the end of it an hour: 12 of 2024-01-01 12:30."""
    return _TIME_AFTER.match(text, m.end()) is not None
