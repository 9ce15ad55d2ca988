from __future__ import annotations

from typing import Any

import pytest

from tiercel.datasets.declared_forms import DeclaredForms, declared_forms
from tiercel.types import Example, Message

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def example(**more: Any) -> Example:
    return Example(id="1", messages=(Message(role="user", content="hot?"),), **more)


def function(name: Any, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_functions_are_told_once_each_as_the_last_request_has_them() -> None:
    found = declared_forms(
        [example(tools=[function("a", {}), function("b", SCHEMA)]), example(tools=[function("a", SCHEMA)]), example()]
    )
    assert found.functions == ({"name": "a", "parameters": SCHEMA}, {"name": "b", "parameters": SCHEMA})


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, None),
        ({"type": "json_object"}, None),
        ({"type": "text"}, None),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "json_schema": "x"}, None),
        ({"type": "json_schema", "json_schema": {"schema": [SCHEMA]}}, None),
    ],
)
def test_the_schema_is_that_of_the_response_format(response_format: Any, schema: Any) -> None:
    assert declared_forms([example(response_format=response_format)]).schema == schema


def test_what_describes_no_function_is_passed_over() -> None:
    tools = [{"type": "custom", "custom": {"name": "x"}}, {"function": "y"}, function(7), function("z", ["city"]), {}]
    assert declared_forms([example(tools=tools)]) == DeclaredForms()
