"""One table of a TOML file becomes one section; what is wrong in it is collected, never raised at the first find.

Texts of the file are not repeated in what is said of them, except where only a few words are allowed: a key that was
pasted into the wrong place stays where it is.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from tiercel.gateway.sections import Secret

__all__ = ["SectionReader", "description_of", "is_secret", "nearest"]

S = TypeVar("S", bound=Struct)

_PLACE = re.compile(r" - at `\$(.*)`$")
_SECRET_NAMES = re.compile(r"(api|access|auth|secret|private)?_?-?(key|token|password|passwd|secret|credentials?)")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be; None when none is near."""
    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def is_secret(kind: Any) -> bool:
    """Whether a field of this type holds a secret, which no file gives directly."""
    return kind is Secret or (get_origin(kind) in (Union, types.UnionType) and Secret in get_args(kind))


def description_of(kind: Any) -> str:
    """What may stand in a field, as the field's own type words it."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    for part in get_args(kind):
        if not isinstance(part, str) and (found := description_of(part)):
            return found
    return ""


def _words(kind: Any) -> tuple[str, ...]:
    """The words of a Literal within a type; empty where it has none."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _words(part))


class SectionReader:
    """Reads tables and keeps what is wrong and what looks wrong.

    Args:
        base: folder that relative paths start from.

    Attributes:
        errors: a line for each: where, what, and what would be right.
        warnings: the same, for what is allowed.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, where: str, text: str) -> None:
        """Note what is wrong at a place of the file."""
        self.errors.append(f"{where}: {text}" if where else text)

    def warn(self, where: str, text: str) -> None:
        """Note what looks wrong at a place of the file."""
        self.warnings.append(f"{where}: {text}")

    def path(self, text: str) -> Path:
        """A path of the file, from the file's folder where it is relative."""
        return self.base / Path(text).expanduser()

    def table(self, value: Any, where: str) -> dict[str, Any]:
        """A value that has to be a table; an empty one where it is not."""
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            self.error(where, f"is a list; write [{where}] once, with single brackets")
        else:
            self.error(where, f"is no table; write [{where}] and its settings below it")
        return {}

    def tables(self, value: Any, where: str) -> list[dict[str, Any]]:
        """A value that has to be a list of tables; an empty one where it is not."""
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        self.error(where, f"is no list of tables; write [[{where}]], with double brackets, once for each")
        return []

    def section(
        self, kind: type[S], table: dict[str, Any], where: str, special: dict[str, Callable[[Any], Any]] | None = None
    ) -> S | None:
        """Make a section of a table.

        Args:
            kind: of the section.
            table: as it stands in the file.
            where: it stands, such as provider[1].
            special: readers of fields whose value in the file differs from the section's; they note errors themselves.

        Returns:
            The section with a default in the place of each wrong value, so that other checks can go on; None where a
            field that is needed is missing or wrong.
        """
        known = {field.name: field for field in fields(kind) if not is_secret(field.type)}
        given: dict[str, Any] = {}
        for name, value in table.items():
            if name not in known:
                self._unknown(name, where, known)
            elif special and name in special:
                given[name] = special[name](value)
            elif (converted := self._value(value, known[name].type, f"{where}.{name}")) is not None:
                given[name] = converted
        missing = [name for name, field in known.items() if field.required and name not in given]
        for name in missing:
            if name not in table:
                self.error(f"{where}.{name}", f"is missing; give {description_of(known[name].type)}")
        return None if missing else kind(**given)

    def unknown_sections(self, document: dict[str, Any], known: Iterable[str]) -> None:
        """Note the tables at the file's top that no section has."""
        names = list(known)
        for name in document:
            if name not in names:
                near = nearest(name, names)
                self.error(_shown(name), f"is no section; {f'did you mean {near}?' if near else _choices(names)}")

    def _unknown(self, name: str, where: str, known: Iterable[str]) -> None:
        place, names = f"{where}.{_shown(name)}", list(known)
        if "key_env" in names and _SECRET_NAMES.fullmatch(name.lower()):
            self.error(
                place,
                'a secret does not belong into this file; name where it is: key_env = "OPENAI_API_KEY" (an environment '
                'variable) or key_file = "/run/secrets/openai"',
            )
            return
        near = nearest(name, names)
        self.error(place, f"is no setting; {f'did you mean {near}?' if near else _choices(names)}")

    def _value(self, value: Any, kind: Any, where: str) -> Any:
        right = description_of(kind)
        if isinstance(value, float) and not math.isfinite(value):
            self.error(where, f"{value} is no number to reckon with; give {right}")
            return None
        try:
            return msgspec.convert(value, kind, dec_hook=self._decode)
        except msgspec.ValidationError as error:
            found = _PLACE.search(str(error))
            text = "this entry does not fit" if found else _wrong(value, kind)
            self.error(where + (found[1] if found else ""), f"{text}; give {right}")
            return None

    def _decode(self, kind: type[Any], value: Any) -> Any:
        if kind is not Path or not isinstance(value, str) or not value or "\0" in value:
            raise ValueError
        return self.path(value)


def _wrong(value: Any, kind: Any) -> str:
    """What is wrong with a value, without repeating text that may be a secret."""
    words = _words(kind)
    if isinstance(value, str) and words:
        near = nearest(value, words)
        return f'does not fit (did you mean "{near}"?)' if near else "does not fit"
    if isinstance(value, (bool, int, float)):
        return f"{str(value).lower() if isinstance(value, bool) else value} does not fit"
    names = {str: "this text", list: "this list", dict: "this table"}
    return f"{names.get(type(value), 'this value')} does not fit"


def _choices(names: list[str]) -> str:
    return f"there are {', '.join(names)}"


def _shown(name: str) -> str:
    """A key of the file, shortened where it is no word."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else "(a name that is no word)"
