"""Keeps what only this program and a provider may know out of the provider's answers.

A server that repeats what it was sent (a proxy that debugs, an error page) would hand the provider's key to whoever
asked. It protects against accidents: a provider that wants to give its key away can write it in another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["Seal", "sealed_texts"]

SHORTEST = 16
"""Characters of a secret that is looked for. Shorter ones, such as the EMPTY or ollama that stand for no key, are words
that an answer may hold."""
_PLACE = b"[key]"
_CARRIES_SECRET = re.compile(r"auth|cookie|key|token|secret|password", re.IGNORECASE)


def sealed_texts(api_key: str | None, headers: Mapping[str, str]) -> tuple[bytes, ...]:
    """The secrets of a provider's configuration that are taken out of its answers, longest first."""
    values = [api_key or ""]
    for name, value in headers.items():
        if _CARRIES_SECRET.search(name):
            values += value.split()
    return tuple(sorted({v.encode() for v in values if len(v) >= SHORTEST}, key=len, reverse=True))


class Seal:
    """Takes secrets out of bytes that come in pieces; where they are cut makes no difference.

    Bytes are held back only where they may be the beginning of a secret: an event of a stream ends with a blank line,
    and is never held.

    Args:
        texts: the secrets, longest first.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._letters = frozenset(b"".join(texts))
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The next bytes that can be passed on; none may be."""
        if self._held:
            data, self._held = self._held + data, b""
        for text in self._texts:
            if text in data:
                data = data.replace(text, _PLACE)
        if data and data[-1] in self._letters and (held := max(_begun(data, text) for text in self._texts)):
            data, self._held = data[:-held], data[-held:]
        return data

    def end(self) -> bytes:
        """What was held back, once no more can come."""
        held, self._held = self._held, b""
        return held


def _begun(data: bytes, text: bytes) -> int:
    """How many of the last bytes are the beginning of `text`."""
    tail = data[1 - len(text) :]
    at = tail.find(text[:1])
    while at >= 0:
        if text.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(text[:1], at + 1)
    return 0
