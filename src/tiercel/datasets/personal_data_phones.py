"""Phone numbers, in international form, in the forms of many countries, and bare where a word says what they are.

Numbers are written in hundreds of ways, and most of them could be something else. So forms have two ranks: a *plain* one
counts by itself (+44 …, (020) …, 555-123-4567, 0 and an area code), a *loose* one only where the nearest telling word
before it, or the word right after it, speaks of phones and not of orders, accounts or licences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tiercel.datasets.personal_data_text import Reading, words_before

__all__ = ["find_phones"]

_EXTENSION = r"(?: ?(?:x|ext\.?|extension) ?\d{1,6}(?!\d))?"
_CLEAR = r"(?<![\w.@/])(?<!\d[-,])"
"""What a number can't stand behind: a letter, a fraction's or path's start, another group."""
_END = r"(?!\w|[.,/-]\d|@)"
_PLAIN = tuple(
    re.compile("(?a)" + _CLEAR + form + _EXTENSION + _END, re.IGNORECASE)
    for form in (
        r"\+ ?[1-9](?:[ .()/-]{0,2}\d){6,14}",
        r"00[1-9]\d{0,2}(?:[ .()/-]{1,2}\d{1,10}){1,6}",
        r"(?:1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d([ .-]))\d{3}[ .-]\d{4}",
        r"\(0?\d{1,5}\)[ -]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}",
        r"0[1-9]\d{0,3}(?:[ .-]|[ ]?/[ ]?)\d{2,8}(?:[ .-]\d{2,4}){0,4}",
        r"(?!(?:19|20)\d\d[-.])\d{2,4}([.-])\d{2,4}\1\d{2,4}(?:\1\d{2,4}){0,2}",
    )
)
_LOOSE = re.compile("(?a)" + _CLEAR + r"\(?\d(?:[ .()/-]{0,2}\d){5,14}" + _EXTENSION + _END, re.IGNORECASE)
_DATE = re.compile(
    r"(?:(?:19|20)\d\d([-./])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2(?:19|20)\d\d|\d{1,2}([-./])\d{1,2}\3\d\d(?![-./]\d))(?!\d)"
)
_TIME_AFTER = re.compile(r"\d?:\d\d")
_ADDRESS_OF_HOST = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}$")
_FEWEST, _MOST = {0: 8, 1: 8, 2: 10, 3: 7, 4: 9, 5: 8}, {0: 15, 1: 17, 2: 11, 3: 12, 4: 12, 5: 12}
"""Digits of each plain form, by its place."""
_DOUBTFUL = 4
"""Plain forms from this place on give way to a word that calls the number something else."""

_PHONE_WORDS = frozenset(
    """phone phones telephone telephones tel tél téléphone teléfono telefono telefone telefon telefonnummer telefoon
    telefoonnummer telefonszám puhelin puhelinnumero rufnummer numéro mobile mobiles mob mobil móvil celular cellulare cell
    cells cellphone handy handynummer portable fax faxes landline hotline helpline call calls called calling callback ring
    rang dial dialed dialled dialing reach reached text texts texting sms whatsapp message messages voicemail pager contact
    answering answers anrufen appeler llamar chiamare bellen""".split()
)
_OTHER_WORDS = frozenset(
    """order orders invoice invoices account accounts acct licence licences license licenses passport passports isbn issn doi
    serial tracking case ticket sku ean upc zip postcode postal address street version vat id ids ref reference policy member
    iban card cards ssn lat longitude latitude usd eur gbp total amount price population date born error code pin
    since""".split()
)
_AFTERWORD = re.compile(
    r"[ \-,:()]{0,3}(?:\((?:office|home|mobile|cell|work)|office|home|mobile|cell|work|fax|phone|tel|direct|landline)\b",
    re.IGNORECASE,
)


def _speaks_of_phones(text: str, start: int, end: int) -> bool | None:
    """Whether the word after a number, or the nearest telling word before it, speaks of phones; None without any."""
    if _AFTERWORD.match(text, end):
        return True
    for word in words_before(text, start):
        if word in _PHONE_WORDS:
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
        taken = list[tuple[int, int]]()
        # Digits without a separator are plain behind a plus sign alone.
        for rank, pattern in enumerate(_PLAIN[:1] if end - start < 20 and text[start:end].isdigit() else _PLAIN):
            for m in pattern.finditer(text, first, min(len(text), end + 16)):
                if m.start() >= end:
                    break
                if not _possible(m.group(), _FEWEST[rank], _MOST[rank]) or _of_time(text, m):
                    continue
                if rank >= _DOUBTFUL and _speaks_of_phones(text, *m.span()) is False:
                    continue
                taken.append(m.span())
                yield m.start(), m.end(), "phone", 0.9
        if taken and taken[0][0] <= start and taken[0][1] >= end:
            continue
        for m in _LOOSE.finditer(text, first, min(len(text), end + 16)):
            if m.start() >= end:
                break
            if _possible(m.group(), 6, 15) and not _of_time(text, m) and _speaks_of_phones(text, *m.span()):
                yield m.start(), m.end(), "phone", 0.6


def _possible(written: str, fewest: int, most: int) -> bool:
    if not fewest <= sum(c.isdigit() for c in written) <= most:
        return False
    return not (_DATE.match(written) or _ADDRESS_OF_HOST.match(written))


def _of_time(text: str, m: re.Match[str]) -> bool:
    """Whether what follows makes the end of it an hour: 12 of 2024-01-01 12:30."""
    return _TIME_AFTER.match(text, m.end()) is not None
