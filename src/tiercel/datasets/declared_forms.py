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
    """Functions that may be called, as OpenAI's `tools` describe them, each name once; empty where none is offered."""
    schema: Json | None = None
    """JSON Schema of the response format; None where it has none, as with `json_object`."""


def declared_forms(examples: Iterable[Example]) -> DeclaredForms:
    """What these requests declare; where they differ, the last one says it."""
    functions, schema = dict[str, Json](), None
    for example in examples:
        for tool in example.tools or ():
            if (function := _function_of(tool)) is not None:
                functions[function["name"]] = function
        schema = _schema_of(example.response_format or {}) or schema
    return DeclaredForms(functions=tuple(functions.values()), schema=schema)


def _function_of(tool: Json) -> Json | None:
    """The function that a tool is; None for one of another kind, or that is not described as it should be."""
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    return function if isinstance(function.get("parameters") or {}, dict) else None


def _schema_of(response_format: Json) -> Json | None:
    named = response_format.get("json_schema")
    # Some servers take the schema beside the type, without a name.
    found = (named if isinstance(named, dict) else response_format).get("schema")
    return found if isinstance(found, dict) else None
