"""Secrets of virtual keys: how they are made, told from typing errors, and stored.

A secret is `tcl-` and 48 letters of base64url: 256 random bits and a CRC-32 of what is before it. The checksum tells a
key that was copied badly from one that does not exist, without a look at any database; it protects nothing. A digest
without salt and stretching is enough for 256 random bits: there is nothing to guess.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import zlib

__all__ = ["PREFIX", "digest_of", "is_misspelt", "new_secret"]

PREFIX = "tcl-"
_FORM = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{48}")


def new_secret() -> str:
    """A secret that nobody has had before."""
    random = secrets.token_bytes(32)
    return PREFIX + base64.urlsafe_b64encode(random + _checksum(random)).decode()


def is_misspelt(secret: str) -> bool:
    """Whether this can't be a secret of ours: it starts like one, but its form or its checksum is wrong.

    Any one wrong letter is noticed; of longer errors one in four billion is not.
    """
    if not secret.startswith(PREFIX):
        return False
    if not _FORM.fullmatch(secret):
        return True
    whole = base64.urlsafe_b64decode(secret[len(PREFIX) :])
    return whole[32:] != _checksum(whole[:32])


def digest_of(secret: str) -> bytes:
    """SHA-256 of a secret, for any text that a client may send."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _checksum(random: bytes) -> bytes:
    return zlib.crc32(PREFIX.encode() + random).to_bytes(4, "big")
