"""A JSON Schema learned from the answers of a workload, so that a student's answers keep their form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

__all__ = ["learn_schema"]

Json = dict[str, Any]

MOST_CONSTANTS = 40
"""Values of a field that are listed; a field with more is of a type only."""
FEWEST_REPEATS = 5
"""Times that each listed value must have come, on average, for a list to be taken for whole."""
_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
    dict: "object",
    list: "array",
}


def learn_schema(values: Sequence[Any]) -> Json:
    """The narrowest schema of the kind that a grammar can hold, which all `values` follow.

    Keys that come in one order are declared in it; an object whose keys come in any order takes all of them in any.

    Args:
        values: JSON values, parsed.
    """
    kinds = Counter(_TYPES[type(v)] for v in values)
    if "number" in kinds and "integer" in kinds:
        kinds["number"] += kinds.pop("integer")
    if set(kinds) == {"object"}:
        return _object(values)
    if set(kinds) == {"array"}:
        items = [item for value in values for item in value]
        return {"type": "array"} | ({"items": learn_schema(items)} if items else {})
    if "object" in kinds or "array" in kinds:
        parts = [
            [v for v in values if _TYPES[type(v)] == kind] for kind in sorted(kinds) if kind in ("object", "array")
        ]
        plain = [v for v in values if not isinstance(v, (dict, list))]
        return {"anyOf": [learn_schema(p) for p in (*parts, plain) if p]}
    constants = Counter(json.dumps(v) for v in values)
    if len(constants) <= min(MOST_CONSTANTS, len(values) / FEWEST_REPEATS):
        return {"enum": [json.loads(c) for c, _ in constants.most_common()]}
    found = sorted(kinds)
    return {"type": found[0] if len(found) == 1 else found}


def _object(values: Sequence[Json]) -> Json:
    keys = Counter(key for value in values for key in value)
    order = _order(values, list(keys))
    fields = {key: [value[key] for value in values if key in value] for key in order or keys}
    if order is None:
        together = learn_schema([v for found in fields.values() for v in found])
        return {"type": "object", "additionalProperties": together}
    required = [key for key in order if keys[key] == len(values)]
    properties = {key: learn_schema(found) for key, found in fields.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _order(values: Sequence[Json], keys: Sequence[str]) -> list[str] | None:
    """The one order in which all values have their keys; None where there is none."""
    before = {pair for value in values for pair in _pairs(list(value))}
    if any((b, a) in before for a, b in before):
        return None
    rank = {key: sum((other, key) in before for other in keys) for key in keys}
    order = sorted(keys, key=rank.__getitem__)
    place = {key: i for i, key in enumerate(order)}
    return order if all(place[a] < place[b] for value in values for a, b in pairwise(value)) else None


def _pairs(keys: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for i, a in enumerate(keys) for b in keys[i + 1 :]]
