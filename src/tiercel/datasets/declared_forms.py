"""What requests themselves say of their answers' form: the functions that may be called, and the schema of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from tiercel.types import Example

__all__ = ["DeclaredForms", "declared_forms"]

Json = dict[str, Any]


class DeclaredForms(Struct, frozen=True, kw_only=True):
    """What the requests of a workload declare."""

    functions: tuple[Json, ...] = ()
    """Functions that may be called, as OpenAI's `tools` describe them; names are unique. Empty where none is offered."""
    schema: Json | None = None
    """JSON Schema of the response format; None where it has none, as with `json_object`."""


def declared_forms(examples: Iterable[Example]) -> DeclaredForms:
    """What these requests declare; where they differ, the last one says it."""
    functions, schema = dict[str, Json](), None
    for example in examples:
        for tool in example.tools or ():
            function = tool.get("function")
            # What is no description of a function is the frontier's business.
            if isinstance(function, dict) and isinstance(function.get("parameters") or {}, dict):
                if isinstance(name := function.get("name"), str):
                    functions[name] = function
        schema = _schema_of(example.response_format or {}) or schema
    return DeclaredForms(functions=tuple(functions.values()), schema=schema)


def _schema_of(response_format: Json) -> Json | None:
    named = response_format.get("json_schema")
    # Some servers take the schema beside the type, without a name.
    found = (named if isinstance(named, dict) else response_format).get("schema")
    return found if isinstance(found, dict) else None
