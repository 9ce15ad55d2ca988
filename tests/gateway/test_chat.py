from __future__ import annotations

from typing import Any

import pytest

from tiercel.gateway.chat import ChatRequest, breaks_tools, chat_request, stops_inside
from tiercel.types import FunctionCall, ToolCall

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def request(*functions: dict[str, Any]) -> ChatRequest:
    tools = [{"type": "function", "function": f} for f in functions]
    return chat_request({"messages": [{"role": "user", "content": "hot?"}], "tools": tools})


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall(function=FunctionCall(name=name, arguments=arguments))


@pytest.mark.parametrize(
    ("parameters", "arguments", "breaks"),
    [
        (CITY, '{"city": "Bonn"}', False),
        (CITY | {"required": ["city", "unit"]}, '{"city": "Bonn"}', True),
        (CITY, '{"city": 7}', True),
        (CITY, '{"city": ', True),
        (CITY | {"additionalProperties": False}, '{"city": "Bonn", "unit": "c"}', True),
        (None, '{"anything": 1}', False),
        ({}, "", False),
    ],
)
def test_a_call_fits_the_parameters_that_the_request_offers(parameters: Any, arguments: str, breaks: bool) -> None:
    asked = request({"name": "other"}, {"name": "weather", "parameters": parameters})
    assert breaks_tools(asked, [call("weather", arguments)]) is breaks


def test_a_call_of_a_function_that_is_not_offered_does_not_fit() -> None:
    assert breaks_tools(request({"name": "other"}), [call("weather", "{}")])
    assert not breaks_tools(request({"name": "other"}), [])


@pytest.mark.parametrize("parameters", ["string", 7, ["city"], {"type": 3}, {"properties": []}, {"$ref": "#/$defs/x"}])
def test_parameters_that_are_no_schema_raise_nothing(parameters: Any) -> None:
    assert breaks_tools(request({"name": "weather", "parameters": parameters}), [call("weather", "{}")]) in (
        True,
        False,
    )


@pytest.mark.parametrize(
    ("stop", "inside"),
    [(None, False), ("", False), ([], False), ("is", True), (["\n", "billing"], True), (["\n"], False), (7, False)],
)
def test_an_answer_with_a_stop_text_inside_is_told(stop: Any, inside: bool) -> None:
    asked = chat_request({"messages": [{"role": "user", "content": "x"}], "stop": stop})
    assert stops_inside(asked, "it is billing") is inside
