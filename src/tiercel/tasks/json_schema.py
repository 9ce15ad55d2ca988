"""Whether a JSON value fits a JSON Schema, for the part of the language that structured output uses.

Understood: type, enum, const, properties, required, additionalProperties, items, prefixItems, anyOf, oneOf, allOf, $ref
within the schema, and the limits of strings, numbers and lists. Other keywords are passed over, as validators do with
what they do not know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

__all__ = ["schema_violation"]

DEEPEST = 200
"""Nested schemas that are followed; a reference to itself ends there."""
MOST_STEPS = 100_000
"""Schemas that are followed in all: one that refers to itself twice would double with every level."""
MOST_TRIES = 10_000_000
"""Of a pattern, as estimated; about a second."""

_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
_REPETITION = re.compile(r"[*+]|\{\d*,\d*\}")
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer())),
}


def schema_violation(value: Any, schema: Any) -> str | None:
    """The first place where `value` breaks `schema`, in a few words; None where it fits.

    The words name places and keywords, never the value itself. A schema that is malformed itself restricts nothing.
    """
    try:
        return _Check(schema).violation(value, schema, "$", 0)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error):
        return None


class _Check:
    def __init__(self, root: Any) -> None:
        self.root = root
        self._steps = 0

    def violation(self, value: Any, schema: Any, at: str, depth: int) -> str | None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise ValueError("the schema takes too long to follow")
        if schema is False:
            return f"{at} is not allowed"
        if not isinstance(schema, dict) or depth > DEEPEST:
            return None
        if isinstance(reference := schema.get("$ref"), str):
            found = self.violation(value, self._resolve(reference), at, depth + 1)
            if found:
                return found
        return (
            _plain(value, schema, at)
            or self._object(value, schema, at, depth)
            or self._list(value, schema, at, depth)
            or self._combined(value, schema, at, depth)
        )

    def _resolve(self, reference: str) -> Any:
        found = self.root
        for step in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ():
            if step:
                name = step.replace("~1", "/").replace("~0", "~")
                found = found.get(name, True) if isinstance(found, dict) else True
        return found if reference.startswith("#") else True

    def _object(self, value: Any, schema: dict[str, Any], at: str, depth: int) -> str | None:
        if not isinstance(value, dict):
            return None
        for name in schema.get("required") or ():
            if name not in value:
                return f"{at} lacks {name!r}"
        known = schema.get("properties") or {}
        for name, inner in value.items():
            if name in known:
                found = self.violation(inner, known[name], f"{at}.{name}", depth + 1)
            elif any(_found(p, name) for p in schema.get("patternProperties") or ()):
                continue
            else:
                # A name that the schema does not know came from the model, and is not repeated.
                found = self.violation(inner, schema.get("additionalProperties", True), f"{at}.*", depth + 1)
            if found:
                return found
        return None

    def _list(self, value: Any, schema: dict[str, Any], at: str, depth: int) -> str | None:
        if not isinstance(value, list):
            return None
        first = schema.get("prefixItems") or []
        for i, inner in enumerate(value):
            rule = first[i] if i < len(first) else schema.get("items", True)
            if found := self.violation(inner, rule, f"{at}[{i}]", depth + 1):
                return found
        return None

    def _combined(self, value: Any, schema: dict[str, Any], at: str, depth: int) -> str | None:
        for rule in schema.get("allOf") or ():
            if found := self.violation(value, rule, at, depth + 1):
                return found
        for keyword, enough in (("anyOf", lambda fits: fits >= 1), ("oneOf", lambda fits: fits == 1)):
            if rules := schema.get(keyword):
                found = [self.violation(value, rule, at, depth + 1) for rule in rules]
                if not enough(found.count(None)):
                    return next((f for f in found if f and len(rules) == 1), f"{at} fits none or several of {keyword}")
        if "not" in schema and self.violation(value, schema["not"], at, depth + 1) is None:
            return f"{at} is what `not` forbids"
        return None


def _plain(value: Any, schema: dict[str, Any], at: str) -> str | None:
    """What can be said without looking into the value: type, enum, const, limits."""
    kinds = schema.get("type")
    wanted = [k for k in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(k, str)]
    if wanted and not any(_TYPES.get(kind, lambda _: True)(value) for kind in wanted):
        return f"{at} is no {' or '.join(map(str, wanted))}"
    if "enum" in schema and not any(_equal(value, choice) for choice in schema["enum"]):
        return f"{at} is none of the {len(schema['enum'])} values of enum"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{at} is not the value of const"
    for keyword, broken in _LIMITS.items():
        if keyword in schema and broken(value, schema[keyword]):
            return f"{at} breaks {keyword}"
    return None


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON, where true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _number(value: Any) -> bool:
    return _TYPES["number"](value)


def _misses_step(value: Any, step: Any) -> bool:
    return _number(value) and bool(step) and not math.isclose(value / step, round(value / step), abs_tol=1e-9)


_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "minLength": lambda v, limit: isinstance(v, str) and len(v) < limit,
    "maxLength": lambda v, limit: isinstance(v, str) and len(v) > limit,
    "pattern": lambda v, pattern: isinstance(v, str) and not _matches(pattern, v),
    "minimum": lambda v, limit: _number(v) and v < limit,
    "maximum": lambda v, limit: _number(v) and v > limit,
    "exclusiveMinimum": lambda v, limit: _number(v) and v <= limit,
    "exclusiveMaximum": lambda v, limit: _number(v) and v >= limit,
    "multipleOf": _misses_step,
    "minItems": lambda v, limit: isinstance(v, list) and len(v) < limit,
    "maxItems": lambda v, limit: isinstance(v, list) and len(v) > limit,
    "uniqueItems": lambda v, on: (
        on is True and isinstance(v, list) and any(_equal(a, b) for i, a in enumerate(v) for b in v[:i])
    ),
    "minProperties": lambda v, limit: isinstance(v, dict) and len(v) < limit,
    "maxProperties": lambda v, limit: isinstance(v, dict) and len(v) > limit,
}


def _matches(pattern: str, text: str) -> bool:
    """A pattern that Python does not understand (ECMA has its own), or may need for ever for, is passed over."""
    try:
        return not _is_quick(pattern, text) or _found(pattern, text)
    except re.error:
        return True


def _found(pattern: str, text: str) -> bool:
    return _is_quick(pattern, text) and re.search(pattern, text) is not None


def _is_quick(pattern: str, text: str) -> bool:
    """Whether a search takes no longer than a polynomial of the text's length that is small.

    Python's patterns go back over what they matched: a repeated group, or a back-reference, may double the time with
    every letter, and each further repetition multiplies it by the text's length.
    """
    plain = _ESCAPE_OR_CLASS.sub("x", pattern)
    if _REPEATED_GROUP.search(plain) or _BACK_REFERENCE.search(pattern):
        return False
    repetitions = len(_REPETITION.findall(plain))
    return (len(text) + 1) ** (repetitions + 1) <= MOST_TRIES
