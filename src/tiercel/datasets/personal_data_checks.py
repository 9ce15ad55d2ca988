"""Checksums and fixed rules of numbers that name a person, a card or an account; pure functions on bare characters.

Each takes a number without separators, letters in upper case, and says whether it can be one. They tell a mistyped or
made-up number from a possible one, never whether it was issued.
"""

from __future__ import annotations

import datetime as dt

__all__ = [
    "IBAN_LENGTHS",
    "ahv_valid",
    "belgian_number_valid",
    "bsn_valid",
    "card_valid",
    "codice_fiscale_valid",
    "cpf_valid",
    "hetu_valid",
    "iban_valid",
    "luhn",
    "nif_valid",
    "nino_valid",
    "nir_valid",
    "personnummer_valid",
    "pesel_valid",
    "sin_valid",
    "ssn_valid",
    "steuer_id_valid",
    "verhoeff",
]

IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FK FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}
"""Characters of an IBAN by country, from the registry of SWIFT."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    values = [ord(c) - 48 for c in digits]
    return (sum(values[-1::-2]) + sum(_DOUBLED[v] for v in values[-2::-2])) % 10 == 0


# Prefixes of card numbers and how many digits a number with that prefix may have.
_CARD_RANGES: tuple[tuple[int, int, frozenset[int]], ...] = tuple(
    (low, high, frozenset(lengths))
    for low, high, lengths in (
        (4000, 4999, (13, 16, 18, 19)),  # Visa
        (5100, 5599, (16,)),  # Mastercard
        (2221, 2720, (16,)),  # Mastercard
        (3400, 3499, (15,)),  # American Express
        (3700, 3799, (15,)),  # American Express
        (3000, 3059, range(14, 20)),  # Diners Club
        (3095, 3095, range(14, 20)),  # Diners Club
        (3600, 3699, range(14, 20)),  # Diners Club
        (3800, 3999, range(14, 20)),  # Diners Club
        (6011, 6011, range(16, 20)),  # Discover
        (6440, 6599, range(16, 20)),  # Discover, RuPay
        (6200, 6299, range(14, 20)),  # UnionPay
        (8100, 8171, range(16, 20)),  # UnionPay
        (3528, 3589, range(16, 20)),  # JCB
        (1800, 1800, (15,)),  # JCB
        (2131, 2131, (15,)),  # JCB
        (2200, 2204, range(16, 20)),  # Mir
        (5000, 5099, range(12, 20)),  # Maestro
        (5600, 5899, range(12, 20)),  # Maestro
        (6000, 6999, range(12, 20)),  # Maestro and national schemes
    )
)


def card_valid(digits: str) -> bool:
    """Whether a payment card can have this number: a known prefix, its length, and the check digit."""
    if not 12 <= len(digits) <= 19:
        return False
    prefix, length = int(digits[:4]), len(digits)
    return any(low <= prefix <= high and length in lengths for low, high, lengths in _CARD_RANGES) and luhn(digits)


def iban_valid(iban: str) -> bool:
    """Whether country, length and the remainder of 97 fit (ISO 13616)."""
    if IBAN_LENGTHS.get(iban[:2]) != len(iban) or not (iban.isascii() and iban.isalnum() and iban[2:4].isdigit()):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def ssn_valid(digits: str) -> bool:
    """Whether a US social security number can be this: area, group and serial that are given out."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


_NINO_FIRST, _NINO_SECOND = frozenset("ABCEGHJKLMNOPRSTWXYZ"), frozenset("ABCEGHJKLMNPRSTWXYZ")


def nino_valid(number: str) -> bool:
    """Whether a UK national insurance number can be this; it has no check digit."""
    return (
        number[0] in _NINO_FIRST
        and number[1] in _NINO_SECOND
        and number[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
        and number[2:8].isdigit()
        and number[8] in "ABCD"
    )


def steuer_id_valid(digits: str) -> bool:
    """Whether a German tax id can be this: one digit of the first ten twice or thrice, then ISO 7064 mod 11, 10."""
    counts = sorted((digits[:10].count(d) for d in set(digits[:10])), reverse=True)
    if digits[0] == "0" or counts[0] not in (2, 3) or counts[1] != 1:
        return False
    product = 10
    for c in digits[:10]:
        product = ((ord(c) - 48 + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def nir_valid(number: str) -> bool:
    """Whether a French NIR (numéro de sécurité sociale) with its key can be this; Corsica's 2A and 2B are read."""
    department = number[5:7]
    if department in ("2A", "2B"):
        number = number[:5] + ("19" if department == "2A" else "18") + number[7:]
    month = int(number[3:5])
    possible = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return number[0] in "12378" and possible and 97 - int(number[:13]) % 97 == int(number[13:])


def nif_valid(number: str) -> bool:
    """Whether a Spanish DNI (8 digits, letter) or NIE (X, Y or Z, 7 digits, letter) has its right letter."""
    digits = number[:-1].translate({88: "0", 89: "1", 90: "2"})
    return number[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23]


_CF_DIGITS = {ord(letter): str(digit) for digit, letter in enumerate("LMNPQRSTUV")}
_CF_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2 + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def codice_fiscale_valid(code: str) -> bool:
    """Whether an Italian codice fiscale has a possible day and its right letter; letters for digits are read."""
    day = code[9:11].translate(_CF_DIGITS)
    if not (day.isdigit() and (1 <= int(day) <= 31 or 41 <= int(day) <= 71)):
        return False
    total = sum(_CF_ODD[c] for c in code[0:15:2]) + sum(int(c, 36) - (0 if c < "A" else 10) for c in code[1:15:2])
    return ord(code[15]) - 65 == total % 26


def bsn_valid(digits: str) -> bool:
    """Whether a Dutch BSN passes the eleven test."""
    total = sum((9 - i) * (ord(c) - 48) for i, c in enumerate(digits[:8])) - int(digits[8])
    return total % 11 == 0 and digits != "000000000"


def _dihedral(i: int, j: int) -> int:
    """The product of i and j in the dihedral group of order ten, on which Verhoeff's check is built."""
    turned = (i - j if i >= 5 else i + j) % 5
    return turned + (5 if (i >= 5) != (j >= 5) else 0)


_PRODUCTS = tuple(tuple(_dihedral(i, j) for j in range(10)) for i in range(10))
_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_POWERS = [tuple(range(10))]
for _ in range(7):
    _POWERS.append(tuple(_TURN[d] for d in _POWERS[-1]))


def verhoeff(digits: str) -> bool:
    """Whether the last digit is Verhoeff's check digit of the others, as Aadhaar numbers have."""
    check = 0
    for i, c in enumerate(reversed(digits)):
        check = _PRODUCTS[check][_POWERS[i % 8][ord(c) - 48]]
    return check == 0


def cpf_valid(digits: str) -> bool:
    """Whether a Brazilian CPF has its two check digits; eleven equal digits are no CPF."""
    if digits == digits[0] * 11:
        return False
    return all(
        sum((n + 1 - i) * (ord(c) - 48) for i, c in enumerate(digits[:n])) * 10 % 11 % 10 == int(digits[n])
        for n in (9, 10)
    )


def ahv_valid(digits: str) -> bool:
    """Whether a Swiss AHV number begins with 756 and has the check digit of an EAN-13."""
    total = sum((ord(c) - 48) * (3 if i % 2 else 1) for i, c in enumerate(digits))
    return digits.startswith("756") and total % 10 == 0


def belgian_number_valid(digits: str) -> bool:
    """Whether a Belgian national number has its key; born from 2000 on, a 2 is put before it."""
    month, key = int(digits[2:4]) % 20, int(digits[9:])
    return month <= 12 and any(97 - int(century + digits[:9]) % 97 == key for century in ("", "2"))


def pesel_valid(digits: str) -> bool:
    """Whether a Polish PESEL holds a date and its check digit; 20 to 80 in the month name the century."""
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[int(digits[2]) // 2]
    born = _is_date(century + int(digits[:2]), int(digits[2:4]) % 20, int(digits[4:6]))
    return born and sum(w * (ord(c) - 48) for w, c in zip((1, 3, 7, 9) * 2 + (1, 3, 1), digits, strict=True)) % 10 == 0


def hetu_valid(number: str) -> bool:
    """Whether a Finnish personal identity code holds a date and its check character."""
    day, month, year = int(number[:2]), int(number[2:4]), int(number[4:6])
    century = 1800 if number[6] == "+" else 2000 if number[6] in "ABCDEF" else 1900
    check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number[:6] + number[7:10]) % 31]
    return _is_date(century + year, month, day) and check == number[10]


def personnummer_valid(digits: str) -> bool:
    """Whether the last ten digits of a Swedish personnummer hold a date and Luhn's check digit; days may be 60 more."""
    digits = digits[-10:]
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    return (_is_date(2000 + year, month, day % 60) or _is_date(1900 + year, month, day % 60)) and luhn(digits)


def sin_valid(digits: str) -> bool:
    """Whether a Canadian social insurance number can be this: no leading 0 or 8, Luhn's check digit."""
    return digits[0] not in "08" and luhn(digits)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        dt.date(year, month, day)
    except ValueError:
        return False
    return True
