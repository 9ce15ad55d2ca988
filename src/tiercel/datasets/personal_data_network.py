"""Addresses on networks: e-mail, URL, IP, MAC.

Patterns start only at a boundary and are bounded, so they stay linear. A boundary is asked for behind the first
character, not before it: the engine skips to a first character much faster than it looks back at every place.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tiercel.datasets.personal_data_text import Reading

__all__ = ["NETWORK_KINDS", "find_network"]

NETWORK_KINDS = frozenset({"email", "ip", "mac", "url"})

_LETTERS = "\u00c0-\u024f\u0300-\u036f\u0370-\u052f"
"""Letters of Latin, Greek and Cyrillic, and marks that text in decomposed form has: local parts may hold them."""
_LOCAL = f"[A-Za-z0-9_.%+{_LETTERS}-]"
_LABEL = f"[A-Za-z0-9{_LETTERS}](?:[A-Za-z0-9{_LETTERS}-]{{0,62}})"
_EMAIL = re.compile(
    rf"(?<!{_LOCAL}){_LOCAL}{{1,64}}+@(?:{_LABEL}\.){{1,8}}(?:xn--[a-z0-9-]{{2,40}}|[A-Za-z{_LETTERS}]{{2,24}})(?![A-Za-z0-9_{_LETTERS}])",
    re.IGNORECASE,
)
_URL = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:https?|ftps?|sftp|wss?|s3|gs)://|www\.(?=[^\s.]{1,63}\.))[^\s<>\"'`{}|\\^\[\]\u2e80-\ud7ff]{1,2048}+",
    re.IGNORECASE,
)
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSING = ".,;:!?)*_~"
_IPV4 = re.compile(r"(?a)\d(?<![\w.]\d)(?<![vV] \d)\d{0,2}(?:\.\d{1,3}){3}(?![\w]|\.\d|-\d)")
_COLONS = re.compile(r"(?a)(?<![\w:.])[0-9A-Fa-f:]{3,39}+(?:\.\d{1,3}){0,3}(?![\w:]|\.\d)")
_TWO_COLONS = re.compile(r"(?a):[0-9A-Fa-f]{0,4}:")
_TWO_PAIRS = re.compile(r"([:-])[0-9A-Fa-f]{2}\1[0-9A-Fa-f]{2}\1")
_MAC = re.compile(r"(?a)(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")


def find_network(reading: Reading, kinds: frozenset[str]) -> Iterator[tuple[int, int, str, float]]:
    """E-mail, URL, IP and MAC addresses, as start and end in the folded text, kind and score.

    Loopback, unspecified and mask-like addresses (127.0.0.1, 0.0.0.0, 255.255.255.0, ::1) name nobody and are left.
    """
    text = reading.text
    if "email" in kinds and "@" in text:
        for m in _EMAIL.finditer(text):
            at = m.start()
            while text[at] in ".-%+":
                at += 1
            if text[at] != "@":
                yield at, m.end(), "email", 1.0
    if "url" in kinds and ("://" in text or "www." in reading.lower):
        for m in _URL.finditer(text):
            end = m.end()
            while text[end - 1] in _CLOSING and not (text[end - 1] == ")" and "(" in m.group()):
                end -= 1
            if end - m.start() > 8:
                yield m.start(), end, "url", 1.0
    if "ip" in kinds and reading.has_digit and text.count(".") >= 3:
        for m in _IPV4.finditer(text):
            if _names_a_host(m.group()):
                yield m.start(), m.end(), "ip", 1.0
    if text.count(":") >= 2 and "ip" in kinds:
        yield from _ipv6(text)
    if "mac" in kinds and (text.count(":") >= 5 or text.count("-") >= 5):
        for pairs in _TWO_PAIRS.finditer(text):
            if pairs.start() >= 2 and (m := _MAC.match(text, pairs.start() - 2)):
                yield m.start(), m.end(), "mac", 1.0


def _ipv6(text: str) -> Iterator[tuple[int, int, str, float]]:
    after = 0
    for colons in _TWO_COLONS.finditer(text):
        start = colons.start()
        while start > max(after, colons.start() - 4) and text[start - 1] in _HEX:
            start -= 1
        if start >= after and (m := _COLONS.match(text, start)):
            after = m.end()
            if _is_ipv6(m.group()):
                yield m.start(), m.end(), "ip", 1.0


def _names_a_host(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or written.startswith("255."))


def _is_ipv6(written: str) -> bool:
    """An IPv6 address with enough of one in it: `a::b` is more often code."""
    parts = [p for p in written.split(":") if p]
    if len(parts) < 2 or not any(c.isdigit() for c in written):
        return False
    if len(parts) < 4 and len(parts[0]) < 3:
        return False
    return _names_a_host(written)
