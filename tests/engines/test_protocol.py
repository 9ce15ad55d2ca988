from __future__ import annotations

from typing import Any

import pytest

from tests.engines.tiny_llama import TOOLS
from tiercel.engines.protocol import Delta, GenerationRequest, Token, ToolCallPiece, collect
from tiercel.errors import ConfigurationError
from tiercel.types import Message

HELLO = (Message(role="user", content="hello"),)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": ()}, "no messages"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"schema": {}, "grammar": "root ::= [a]"}, "a schema and a grammar"),
        ({"grammar": "root ::= [a]", "tools": TOOLS}, "a grammar and tools"),
        ({"tool_choice": "required"}, "has no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "gone"}}}, "none of the tools"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        GenerationRequest(**{"messages": HELLO, "max_tokens": 1, **fields})


@pytest.mark.parametrize(
    ("choice", "names", "must"),
    [
        (None, ["look_up", "ring"], False),
        ("auto", ["look_up", "ring"], False),
        ("none", [], False),
        ("required", ["look_up", "ring"], True),
        ({"type": "function", "function": {"name": "ring"}}, ["ring"], True),
    ],
)
def test_a_choice_leaves_some_tools_to_call(choice: Any, names: list[str], must: bool) -> None:
    request = GenerationRequest(messages=HELLO, max_tokens=1, tools=TOOLS, tool_choice=choice)
    assert [t["function"]["name"] for t in request.callable_tools] == names
    assert request.must_call is must


def test_pieces_of_several_calls_add_up() -> None:
    found = collect(
        [
            Delta(tool_calls=(ToolCallPiece(index=0, id="a", name="ring", arguments="{"),)),
            Delta(tool_calls=(ToolCallPiece(index=1, id="b", name="look_up", arguments='{"order"'),)),
            Delta(tool_calls=(ToolCallPiece(index=0, arguments="}"), ToolCallPiece(index=1, arguments=":1}"))),
            Delta(finish_reason="tool_calls", tokens=(Token(text="x", logprob=-1.0),)),
            Delta(input_tokens=3, output_tokens=4),
        ]
    )
    calls = [(c.id, c.function.name, c.function.arguments) for c in found.answer.tool_calls]
    assert calls == [("a", "ring", "{}"), ("b", "look_up", '{"order":1}')]
    assert found.answer.content is None
    assert (found.finish_reason, found.input_tokens, found.output_tokens) == ("tool_calls", 3, 4)
    assert found.tokens == (Token(text="x", logprob=-1.0),)


def test_an_empty_answer_is_an_empty_text() -> None:
    assert collect([Delta(finish_reason="stop")]).answer.content == ""
