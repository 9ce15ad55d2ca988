"""Fields of JSON that came from outside: read with their type, or an error that says where the wrong one stands.

A request is read with `of_request` (what is wrong is a `DataError`), an answer with `of_answer` (an
`UnreadableAnswerError`). Errors name places and types and repeat no content. A field that is null counts as missing,
as in the APIs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from tiercel.errors import DataError, TiercelError, UnreadableAnswerError

__all__ = ["Fields", "Json", "json_text", "of_answer", "of_request", "shown"]

Json = dict[str, Any]
T = TypeVar("T")

_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}
_WORD = re.compile(r"[\w.:/-]{1,64}", re.ASCII)


def of_request(value: object, where: str = "the request") -> Fields:
    """The fields of a request, or of an object within it.

    Raises:
        DataError: `value` is no object; so is whatever is found wrong later.
    """
    return Fields(value, where, DataError)


def of_answer(value: object, where: str = "the answer") -> Fields:
    """The fields of a provider's answer, or of an object within it.

    Raises:
        UnreadableAnswerError: `value` is no object; so is whatever is found wrong later.
    """
    return Fields(value, where, UnreadableAnswerError)


def shown(word: object) -> str:
    """A word of an API as an error may repeat it: none that could be content."""
    return word if isinstance(word, str) and _WORD.fullmatch(word) else "of an unknown kind"


class Fields:
    """One JSON object.

    Args:
        value: the object.
        where: its place, as errors name it.
        fail: makes an error of its text.

    Attributes:
        raw: the object itself, not to be changed.
    """

    __slots__ = ("_fail", "_where", "raw")

    def __init__(self, value: object, where: str, fail: Callable[[str], TiercelError]) -> None:
        if not isinstance(value, dict):
            raise fail(f"{where} is {_NAMES.get(type(value), 'something else')}, not an object")
        self.raw: Json = value
        self._where = where
        self._fail = fail

    def place(self, name: str) -> str:
        """Where the field `name` stands."""
        return name if self._where.startswith("the ") else f"{self._where}.{name}"

    def wrong(self, name: str, what: str) -> TiercelError:
        """The error that the field `name` `what` ("is too long")."""
        return self._fail(f"{self.place(name)} {what}")

    def text(self, name: str) -> str | None:
        """The text in the field `name`, None where there is none."""
        return self._typed(name, str)

    def need_text(self, name: str) -> str:
        """The text in the field `name`, which must be there."""
        return self._needed(name, self._typed(name, str))

    def whole(self, name: str) -> int | None:
        """The whole number in the field `name`, None where there is none."""
        return self._typed(name, int)

    def count(self, name: str) -> int:
        """The whole number in the field `name`, 0 where there is none or it is below."""
        return max(0, self._typed(name, int) or 0)

    def number(self, name: str) -> float | None:
        """The number in the field `name`, None where there is none."""
        value = self.raw.get(name)
        return value if type(value) is int else self._typed(name, float)

    def flag(self, name: str) -> bool | None:
        """The true or false in the field `name`, None where there is neither."""
        return self._typed(name, bool)

    def list(self, name: str) -> list[Any] | None:
        """The list in the field `name`, None where there is none."""
        return self._typed(name, list)

    def _typed(self, name: str, kind: type[T]) -> T | None:
        value = self.raw.get(name)
        if value is None or type(value) is kind:
            return value
        raise self.wrong(name, f"is {_NAMES.get(type(value), 'something else')}, not {_NAMES[kind]}")

    def _needed(self, name: str, value: T | None) -> T:
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def inner(self, name: str) -> Fields | None:
        """The object in the field `name`, None where there is none."""
        value = self.raw.get(name)
        return None if value is None else Fields(value, self.place(name), self._fail)

    def need_inner(self, name: str) -> Fields:
        """The object in the field `name`, which must be there."""
        return self._needed(name, self.inner(name))

    def each(self, name: str) -> Sequence[Fields]:
        """The objects of the list in the field `name`; none where it is missing."""
        place = self.place(name)
        return [Fields(value, f"{place}[{i}]", self._fail) for i, value in enumerate(self.list(name) or ())]

    def made(self, value: Json, name: str) -> Fields:
        """An object that says in other words what stands in the field `name`."""
        return Fields(value, self.place(name), self._fail)

    def others(self, *known: str) -> Json:
        """The fields that are not among `known`, as they are."""
        return {name: value for name, value in self.raw.items() if name not in known}

    def json(self, name: str) -> Json:
        """The object that the field `name` holds as JSON text; blank text is an empty one."""
        text = self.text(name) or ""
        if not text.strip():
            return {}
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self.wrong(name, "is not the text of a JSON object")
        return value

    def text_of(self, name: str) -> str:
        """The JSON in the field `name` as text."""
        try:
            return json_text(self.raw.get(name))
        except (ValueError, TypeError, RecursionError):
            raise self.wrong(name, "can't be written as JSON: too deep, or broken characters") from None


def json_text(value: object) -> str:
    """JSON on one line, without blanks."""
    return msgspec.json.encode(value).decode()
