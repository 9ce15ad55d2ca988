"""A JSON Schema as GBNF, llama.cpp's grammar form, so that whatever a model writes is valid.

llama.cpp converts schemas by itself, but drops what it can't express (`not`, `uniqueItems`, patterns without anchors)
with a line on stderr, and the answer is then invalid without anybody being told. Here such a schema is refused by name.
Every text of the grammar is valid against the schema; not every valid text is in the grammar: declared properties come
in their order, undeclared ones are left out, and numbers have at most 16 digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tiercel.errors import ConfigurationError

__all__ = ["JsonGrammar", "literal", "schema_grammar"]

Json = dict[str, Any]
Schema = Json | bool

DIGITS = 16
"""Digits of a number at the most: what a double holds."""
MOST_REPEATS = 2_000
"""llama.cpp refuses a longer repetition; a larger maxLength or maxItems is cut to this."""

_HELD_BY_NO_GRAMMAR = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "multipleOf",
    "pattern",
]
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_KEYWORDS_OF = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_BASE = {
    "space": r'" "? | "\n" [ \t]{0,20}',
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" hex)',
    # No halves of surrogate pairs.
    "hex": "[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",
    "string": r'"\"" char* "\""',
    "integer": rf'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS - 1}}})',
    "number": r'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space (pair (space "," space pair)*)? space "}"',
    "pair": 'string space ":" space value',
    "array": '"[" space (value (space "," space value)*)? space "]"',
}
_NEEDS = {
    "string": ("char",),
    "char": ("hex",),
    "number": ("integer",),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "object": ("pair", "space"),
    "pair": ("string", "value", "space"),
    "array": ("value", "space"),
}
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] [01] [0-9] ":" [0-5] [0-9])'
)
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}


def schema_grammar(schema: Schema) -> str:
    """GBNF whose every text is valid JSON for `schema`.

    Raises:
        ConfigurationError: a keyword can't be held by a grammar, or the schema is broken.
    """
    grammar = JsonGrammar()
    return grammar.text(grammar.add(schema))


def literal(text: str) -> str:
    """`text` as a literal of GBNF."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c) or (c if c >= " " else f"\\x{ord(c):02X}") for c in text) + '"'


class JsonGrammar:
    """The rules of one or more schemas."""

    def __init__(self) -> None:
        self._root: Schema = True
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def add(self, schema: Schema, where: str = "#") -> str:
        """The name of the rule for a schema of its own, whose `$ref`s point into itself.

        Raises:
            ConfigurationError: a keyword can't be held by a grammar, or the schema is broken.
        """
        self._root, self._references = schema, {}
        try:
            return self._rule(schema, where)
        except (TypeError, AttributeError, ValueError, RecursionError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"the schema at {where} is no JSON Schema ({error})") from None

    def text(self, start: str) -> str:
        """The grammar that begins with the expression `start`."""
        return "\n".join([f"root ::= {start}", *(f"{name} ::= {rule}" for name, rule in self._rules.items())]) + "\n"

    def _rule(self, schema: Schema, where: str) -> str:
        if schema is True or schema == {}:
            return self._base("value")
        if not isinstance(schema, dict):
            raise ConfigurationError(f"the schema at {where} is {json.dumps(schema)}, which nothing or no schema fits")
        self._refuse(schema, where)
        if "$ref" in schema:
            return self._reference(schema, where)
        if "allOf" in schema:
            return self._rule(self._merged(schema, where), where)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            if not isinstance(values, list) or not values:
                raise ConfigurationError(f"the schema at {where} has an empty enum; give it values")
            return self._new(" | ".join(literal(json.dumps(v, ensure_ascii=False)) for v in values))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._any(schema, keyword, where)
        return self._typed(schema, where)

    def _base(self, name: str) -> str:
        if name not in self._rules:
            self._rules[name] = _BASE[name]
            for needed in _NEEDS.get(name, ()):
                self._base(needed)
        return name

    def _new(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _refuse(self, schema: Json, where: str) -> None:
        held = [k for k in _HELD_BY_NO_GRAMMAR if k in schema]
        held += ["uniqueItems"] if schema.get("uniqueItems") else []
        if held:
            raise ConfigurationError(
                f"the schema's {held[0]} at {where} can't be held by a grammar; leave it out and check answers for it"
            )

    def _reference(self, schema: Json, where: str) -> str:
        target = schema["$ref"]
        if target not in self._references:
            name = self._references[target] = self._new("")
            self._rules[name] = self._rule(self._resolved(target, where), str(target))
        return self._references[target]

    def _resolved(self, target: Any, where: str) -> Schema:
        if not isinstance(target, str) or not target.startswith("#"):
            raise ConfigurationError(f"the schema's $ref {target!r} at {where} leaves the schema; put it under $defs")
        found: Any = self._root
        for escaped in filter(None, target[1:].split("/")):
            part = escaped.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                raise ConfigurationError(f"the schema's $ref {target} at {where} points to nothing")
            found = found[part]
        return found

    def _followed(self, schema: Any, where: str) -> Any:
        """What a chain of `$ref`s leads to."""
        seen = set[str]()
        while isinstance(schema, dict) and "$ref" in schema:
            if schema["$ref"] in seen:
                raise ConfigurationError(f"the schema's $ref {schema['$ref']} at {where} leads to itself")
            seen.add(schema["$ref"])
            schema = self._resolved(schema["$ref"], where)
        return schema

    def _merged(self, schema: Json, where: str) -> Json:
        """One schema for an allOf whose parts do not speak of the same thing."""
        merged: Json = {k: v for k, v in schema.items() if k != "allOf"}
        for given in schema["allOf"]:
            part = self._followed(given, where)
            if not isinstance(part, dict):
                raise ConfigurationError(f"the schema's allOf at {where} holds what is no object")
            self._refuse(part, where)
            if "allOf" in part:
                part = self._merged(part, where)
            for key, value in part.items():
                if key == "properties":
                    both = merged.get(key, {}).keys() & value.keys()
                    if any(merged[key][name] != value[name] for name in both):
                        raise ConfigurationError(f"two parts of allOf at {where} differ on a property; merge them")
                    merged[key] = merged.get(key, {}) | value
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                elif key not in merged or merged[key] == value or key in ("title", "description", "default"):
                    merged[key] = value
                else:
                    raise ConfigurationError(f"two parts of allOf at {where} differ on {key}; merge them")
        return merged

    def _any(self, schema: Json, keyword: str, where: str) -> str:
        branches = schema[keyword]
        if not isinstance(branches, list) or not branches:
            raise ConfigurationError(f"the schema's {keyword} at {where} is empty; give it schemas")
        shared = {k: v for k, v in schema.items() if k in _TYPES or any(k in words for words in _KEYWORDS_OF.values())}
        if shared:
            branches = [{"allOf": [shared, b]} for b in branches]
        if keyword == "oneOf" and not shared:
            self._disjoint(branches, where)
        return self._new(" | ".join(self._rule(b, f"{where}/{keyword}/{i}") for i, b in enumerate(branches)))

    def _disjoint(self, branches: Sequence[Any], where: str) -> None:
        """Two branches of a oneOf may not both hold: they differ by type, or by a required constant property."""
        seen = list[Json]()
        for given in branches:
            branch = self._followed(given, where)
            for other in seen:
                types = [_types(b) for b in (branch, other)]
                if types[0] and types[1] and not set(types[0]) & set(types[1]):
                    continue
                tags = [_constants(b) for b in (branch, other)]
                if not any(name in tags[1] and not tags[0][name] & tags[1][name] for name in tags[0]):
                    raise ConfigurationError(
                        f"two branches of the schema's oneOf at {where} may hold at once; use anyOf, or tell them "
                        "apart by a required property with a const"
                    )
            seen.append(branch if isinstance(branch, dict) else {})

    def _typed(self, schema: Json, where: str) -> str:
        types = _types(schema)
        if not types:
            return self._base("value")
        unknown = [t for t in types if t not in _TYPES]
        if unknown:
            raise ConfigurationError(f"the schema's type {unknown[0]!r} at {where} is none; use one of {_TYPES}")
        names = [self._of_type(t, schema, where) for t in types]
        return names[0] if len(names) == 1 else self._new(" | ".join(names))

    def _of_type(self, kind: str, schema: Json, where: str) -> str:
        match kind:
            case "object":
                return self._object(schema, where)
            case "array":
                return self._array(schema, where)
            case "string":
                return self._string(schema, where)
            case "integer":
                return self._integer(schema, where)
            case "number":
                return self._number(schema, where)
            case _:
                return self._base(kind)

    def _string(self, schema: Json, where: str) -> str:
        least, most = _bounds(schema, "minLength", "maxLength", where)
        shape = _FORMATS.get(str(schema.get("format")))
        if shape and not least and most is None:
            return self._new(rf'"\"" {shape} "\""')
        if not least and most is None:
            return self._base("string")
        if most == 0:
            return self._new(r'"\"\""')
        return self._new(rf'"\"" {self._base("char")}{{{least},{"" if most is None else most}}} "\""')

    def _integer(self, schema: Json, where: str) -> str:
        low, high = _whole(schema, "inimum", 1), _whole(schema, "aximum", -1)
        if low is None and high is None:
            return self._base("integer")
        largest = 10**DIGITS - 1
        low, high = max(-largest, -largest if low is None else low), min(largest, largest if high is None else high)
        if low > high:
            raise ConfigurationError(f"no integer lies between the minimum and the maximum at {where}")
        parts = list[str]()
        if low < 0:
            parts += [f'"-" ({p})' for p in _range(max(1, -high), -low)]
        if high >= 0:
            parts += _range(max(0, low), high)
        return self._new(" | ".join(parts))

    def _number(self, schema: Json, where: str) -> str:
        given = {k: schema[k] for k in _KEYWORDS_OF["number"] if k in schema}
        if not given:
            return self._base("number")
        if given == {"minimum": 0}:
            self._base("number")
            return self._new(r'("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?')
        raise ConfigurationError(
            f"the schema's {next(iter(given))} at {where} can't be held by a grammar for a number that is no integer; "
            "leave it out and check answers for it"
        )

    def _array(self, schema: Json, where: str) -> str:
        least, most = _bounds(schema, "minItems", "maxItems", where)
        space = self._base("space")
        comma = f'{space} "," {space}'
        first: list[Schema] = list(schema.get("prefixItems", []))
        items: Schema = schema.get("items", True)
        names = [self._rule(s, f"{where}/prefixItems/{i}") for i, s in enumerate(first)]
        if most is not None and most < len(names):
            names = names[:most]
        # A prefix is written whole: what is valid without its end stays out of the grammar.
        fixed = f" {comma} ".join(names)
        least, most = max(0, least - len(names)), None if most is None else most - len(names)
        if items is False or most == 0:
            if least:
                raise ConfigurationError(f"the array at {where} needs more items than it may have")
            return self._new(f'"[" {space} {fixed} {space} "]"')
        item = self._rule(items, f"{where}/items")
        upper = "" if most is None else str(min(most, MOST_REPEATS))
        if fixed:
            return self._new(f'"[" {space} {fixed} ({comma} {item}){{{least},{upper}}} {space} "]"')
        upper = str(int(upper) - 1) if upper else ""
        body = f"{item} ({comma} {item}){{{max(0, least - 1)},{upper}}}"
        return self._new(f'"[" {space} {body if least else f"({body})?"} {space} "]"')

    def _object(self, schema: Json, where: str) -> str:
        properties: dict[str, Schema] = dict(schema.get("properties", {}))
        required = list(dict.fromkeys(schema.get("required", [])))
        more: Schema = schema.get("additionalProperties", True)
        for name in required:
            if name not in properties:
                if more is False:
                    raise ConfigurationError(f"{name!r} at {where} is required but no property; declare it")
                properties[name] = more
        least, most = _bounds(schema, "minProperties", "maxProperties", where)
        if not properties:
            return self._map(more, least, most, where)
        if least > len(required) or (most is not None and most < len(properties)):
            raise ConfigurationError(
                f"the schema's {'minProperties' if least > len(required) else 'maxProperties'} at {where} can't be "
                "held by a grammar; say with required which properties there are"
            )
        space = self._base("space")
        pairs = list[str]()
        for name, inner in properties.items():
            value = self._rule(inner, f"{where}/properties/{name}")
            pairs.append(f'{literal(json.dumps(name, ensure_ascii=False))} {space} ":" {space} {value}')
        return self._new(f'"{{" {space} {self._in_order(pairs, [n in required for n in properties])} {space} "}}"')

    def _in_order(self, pairs: list[str], needed: list[bool]) -> str:
        """Properties in their order, those that are not needed perhaps left out, commas where two follow each other."""
        comma = 'space "," space'
        after, first = "", ""
        for pair, must in reversed(list(zip(pairs, needed, strict=True))):
            here = f"{pair} {after}".rstrip()
            first = here if must else (f"{here} | {first}" if first else f"({here})?")
            first = self._new(first) if "|" in first or len(first) > 200 else first
            after = self._new(f"{comma} {here}" if must else f"({comma} {pair})? {after}".rstrip())
        return first

    def _map(self, values: Schema, least: int, most: int | None, where: str) -> str:
        if least > 1:
            raise ConfigurationError(f"the schema's minProperties at {where} can't be held by a grammar; leave it out")
        space = self._base("space")
        if values is False or most == 0:
            return self._new(f'"{{" {space} "}}"')
        pair = f'{self._base("string")} {space} ":" {space} {self._rule(values, f"{where}/additionalProperties")}'
        body = f'{pair} ({space} "," {space} {pair}){{0,{"" if most is None else min(most, MOST_REPEATS) - 1}}}'
        return self._new(f'"{{" {space} {body if least else f"({body})?"} {space} "}}"')


def _types(schema: Any) -> list[str]:
    """The types that a schema names or that its keywords speak of; empty for any."""
    if not isinstance(schema, dict):
        return []
    named = schema.get("type")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    return [kind for kind, words in _KEYWORDS_OF.items() if any(w in schema for w in words)][:1]


def _constants(schema: Any) -> dict[str, set[str]]:
    """The values that required properties are bound to."""
    if not isinstance(schema, dict):
        return {}
    found: dict[str, set[str]] = {}
    for name in schema.get("required", []):
        value = schema.get("properties", {}).get(name, {})
        if isinstance(value, dict) and ("const" in value or "enum" in value):
            found[name] = {json.dumps(v) for v in ([value["const"]] if "const" in value else value["enum"])}
    return found


def _bounds(schema: Json, least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    if low > MOST_REPEATS or (high is not None and high < low):
        raise ConfigurationError(f"the schema's {least} {low} at {where} is above {most} or above {MOST_REPEATS}")
    return int(low), None if high is None else min(int(high), MOST_REPEATS)


def _whole(schema: Json, ending: str, step: int) -> int | None:
    """The tightest whole number that [exclusive]minimum or maximum allows; `step` leads away from the bound."""
    bounds = list[int]()
    inclusive, exclusive = schema.get("m" + ending), schema.get("exclusiveM" + ending)
    if inclusive is not None:
        bounds.append(-int(-inclusive // 1) if step > 0 else int(inclusive // 1))
    if exclusive is not None:
        bounds.append(int(exclusive // 1) + 1 if step > 0 else -int(-exclusive // 1) - 1)
    return None if not bounds else max(bounds) if step > 0 else min(bounds)


def _range(low: int, high: int) -> list[str]:
    """Expressions that match exactly the whole numbers from `low` >= 0 to `high`, without leading zeros."""
    parts = list[str]()
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        parts.append(_same_length(str(first), str(last)))
    return parts


def _same_length(low: str, high: str) -> str:
    if low == high:
        return literal(low)
    if len(low) == 1:
        return f"[{low}-{high}]"
    if set(low[1:]) == {"0"} and set(high[1:]) == {"9"}:
        return f"[{low[0]}-{high[0]}] [0-9]{{{len(low) - 1}}}"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    rest = len(low) - 1
    parts = [f'"{low[0]}" ({_same_length(low[1:], "9" * rest)})']
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    parts.append(f'"{high[0]}" ({_same_length("0" * rest, high[1:])})')
    return " | ".join(parts)
