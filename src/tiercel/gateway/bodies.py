"""The JSON of a request's body: what is no object, too deep, too much or said twice is refused.

A name that stands twice in one object has no one meaning: this program reads the last, a provider may read the first,
and a limit or a redaction would hold for the one and not for the other.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from tiercel.errors import DataError

__all__ = ["MOST_BRACKETS", "TOO_DEEP", "decode_body"]

Json = dict[str, Any]

MOST_BRACKETS = 250_000
"""Objects and lists of a body, as its bytes count them: three bytes each, they take fifty in memory, and seconds to
walk through, in which nobody else is served."""
TOO_DEEP = "the body is nested too deep"
_QUOTE = b"\\u0022"
"""The one way to write a quotation mark inside a text without the mark itself."""
_WORD = re.compile(r"[\w.-]{1,64}", re.ASCII)
_encode = msgspec.json.Encoder().encode


def decode_body(raw: bytes, max_depth: int) -> Json:
    """A body's JSON object.

    Raises:
        DataError: it is none, nested deeper than `max_depth`, or a name stands twice in one object.
    """
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets > MOST_BRACKETS:
        raise DataError(f"the body holds more than {MOST_BRACKETS:,} objects and lists")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(f"the body is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    except RecursionError:
        raise DataError(TOO_DEEP) from None
    if not isinstance(body, dict):
        raise DataError(f"the body is no JSON object but {_kind(body)}")
    # Nesting can't be deeper than there are brackets.
    if brackets > max_depth and _deeper(body, max_depth):
        raise DataError(TOO_DEEP)
    if _may_repeat(raw, body):
        _refuse_repeated(raw)
    return body


def _may_repeat(raw: bytes, body: Json) -> bool:
    """Whether a name may stand twice in one object; never False where one does.

    Written again, a body has two quotation marks for each of its names and texts, and one for each mark inside them:
    as many as it came with, unless something was dropped, or a mark was written as `_QUOTE`. To count them takes as
    long as to decode the body; to look at each object takes ten times that.
    """
    if raw.count(b'"') != _encode(body).count(b'"'):
        return True
    first = raw.find(b"\\")
    return first >= 0 and raw.find(_QUOTE, first, raw.rfind(b"\\") + len(_QUOTE)) >= 0


def _refuse_repeated(raw: bytes) -> None:
    """Look at each object of a body.

    Raises:
        DataError: a name stands twice in one.
    """

    def once(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = f'"{name}"' if _WORD.fullmatch(name) else "a name"
                raise DataError(f"the body holds {shown} twice in one object; keep one of them")
            seen.add(name)

    json.loads(raw.decode(), object_pairs_hook=once, parse_int=float)


def _deeper(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for each in level:
            children = each.values() if isinstance(each, dict) else each
            inner += [child for child in children if isinstance(child, dict | list)]
        if not inner:
            return False
        level = inner
    return True


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
