"""Secrets come from environment variables and files: a setting names where one is, never what it is."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiercel.gateway._section_reader import SectionReader
from tiercel.gateway.sections import Secret

__all__ = ["SecretReader"]

LONGEST = 65_536
"""Bytes of a file that may be a secret."""
_CARRIES_SECRET = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_OURS = frozenset(
    (
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that the client of a provider sets itself."""
_KEYS = frozenset(("api-key", "authorization", "proxy-authorization", "x-api-key"))
"""Headers that carry the provider's key."""


class SecretReader:
    """Finds secrets, and notes where one is missing.

    Args:
        reader: that errors and warnings go to.
        environ: variables of the environment.
    """

    def __init__(self, reader: SectionReader, environ: Mapping[str, str]) -> None:
        self._reader = reader
        self._environ = environ

    def find(self, env: str | None, file: Path | None, where: str, name: str) -> Secret | None:
        """The secret that one of two settings leads to.

        Args:
            env: value of the setting NAME_env.
            file: value of the setting NAME_file.
            where: the settings stand.
            name: NAME, such as key.
        """
        if env is not None and file is not None:
            self._reader.error(f"{where}.{name}_file", f"stands beside {name}_env; give one of the two")
            return None
        if env is not None:
            return self._from_environment(env, f"{where}.{name}_env")
        return self._from_file(file, f"{where}.{name}_file") if file is not None else None

    def headers(self, value: Any, where: str) -> dict[str, Secret]:
        """The headers of a provider: texts, and secrets by reference."""
        found: dict[str, Secret] = {}
        for name, given in self._reader.table(value, where).items():
            place = f"{where}.{name}" if _HEADER.fullmatch(name) else where
            if not _HEADER.fullmatch(name) or name.lower() in _OURS:
                self._reader.error(place, "is no header that can be set; take it out")
            elif name.lower() in _KEYS:
                self._reader.error(place, "carries the key, which key_env or key_file gives; take it out")
            elif isinstance(given, str) and _CARRIES_SECRET.search(name):
                self._reader.error(
                    place,
                    'a secret does not belong into this file; give { env = "NAME" } or { file = "/run/secrets/x" }',
                )
            elif isinstance(given, str):
                self._keep(Secret(given), place, found, name)
            else:
                secret = self._reference(given, place)
                if secret is not None:
                    self._keep(secret, place, found, name)
        return found

    def _keep(self, value: Secret, where: str, found: dict[str, Secret], name: str) -> None:
        if all(" " <= c <= "~" or c == "\t" for c in value.reveal()):
            found[name.lower()] = value
        else:
            self._reader.error(where, "holds a character that no header can carry; give visible ASCII characters")

    def _reference(self, given: Any, where: str) -> Secret | None:
        match given:
            case {"env": str(env), **rest} if not rest:
                return self._from_environment(env, where)
            case {"file": str(file), **rest} if not rest:
                return self._from_file(self._reader.path(file), where)
            case _:
                self._reader.error(where, 'give a text, { env = "NAME" } or { file = "/run/secrets/x" }')
                return None

    def _from_environment(self, name: str, where: str) -> Secret | None:
        value = self._environ.get(name, "").strip()
        if value:
            return Secret(value)
        # A key that was pasted in the place of a name looks like no usual name, and is not repeated.
        shown = f"{name} is" if re.fullmatch(r"[A-Z][A-Z0-9_]{1,60}", name) else "the variable that it names is"
        self._reader.error(where, f"{shown} not set in the environment; export it, or name the variable that holds it")
        return None

    def _from_file(self, file: Path, where: str) -> Secret | None:
        try:
            mode = file.stat().st_mode
            if not stat.S_ISREG(mode):
                self._reader.error(where, f"{file} is no file; give the file that holds the secret")
                return None
            with file.open("rb") as stream:
                content = stream.read(LONGEST + 1)
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            # A key that was pasted in the place of a path would be a file beside tiercel.toml.
            shown = "the file that it names" if file.parent == self._reader.base else str(file)
            self._reader.error(where, f"{shown} can't be read ({why}); give a file that this user may read")
            return None
        text = _text(content)
        if not text or "\n" in text:
            self._reader.error(where, f"{file} holds no secret; write the secret into it, alone and on one line")
            return None
        if os.name == "posix" and mode & stat.S_IROTH:
            self._reader.warn(where, f"everybody on this machine can read {file}; run: chmod 600 {file}")
        return Secret(text)


def _text(content: bytes) -> str:
    """The secret in a file's bytes; empty where they hold none."""
    if len(content) > LONGEST:
        return ""
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
