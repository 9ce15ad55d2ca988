"""How a chat template writes a tool call, found by showing it one; and a grammar that lets a model write nothing else.

llama.cpp's own `tool_choice: required` lets a model write any text before the call, so that a weak model never gets to
it. Here the template renders a call with known names, and where that call is JSON, the grammar is that text with the
names and the arguments of the real tools in their places.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tiercel.engines.json_grammar import JsonGrammar, literal
from tiercel.errors import ConfigurationError
from tiercel.types import FunctionCall, Message, ToolCall

__all__ = ["ToolForm", "arguments_schema", "find_tool_form"]

Json = dict[str, Any]
Render = Callable[[Sequence[Message], list[Json]], str]

_NAME = "tiercel_example_function"
_ARGUMENT = {"tiercel_example_argument": 7}
_TOOL: Json = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "An example.",
        "parameters": {"type": "object", "properties": {"tiercel_example_argument": {"type": "integer"}}},
    },
}
_NAME_TEXT = json.dumps(_NAME)
_OTHERWISE = {"$ref", "additionalProperties", "allOf", "anyOf", "oneOf"}
"""Keywords by which a schema says what an object holds without naming its properties."""


class ToolForm(Struct, frozen=True, kw_only=True):
    """The text around a call's name and its arguments."""

    before: str
    """What comes before the name's quotation mark."""
    between: str
    """What stands between the name and the arguments' JSON."""
    after: str
    """What follows the arguments, up to the end of the message."""

    def grammar(self, tools: Sequence[Json]) -> str:
        """GBNF of one call of one of `tools`.

        Raises:
            ConfigurationError: the schema of a tool's parameters can't be held by a grammar.
        """
        rules = JsonGrammar()
        calls = list[str]()
        for tool in tools:
            name, parameters = tool["function"]["name"], arguments_schema(tool["function"])
            calls.append(f"{literal(json.dumps(name) + self.between)} {rules.add(parameters, f'#({name})')}")
        return rules.text(f"{literal(self.before)} ({' | '.join(calls)}) {literal(self.after)}")

    def read(self, text: str) -> ToolCall | None:
        """The call that `text` writes; None where it breaks off or is none."""
        if not text.startswith(self.before):
            return None
        decoder = json.JSONDecoder()
        try:
            name, at = decoder.raw_decode(text, len(self.before))
            if not text.startswith(self.between, at):
                return None
            start = at + len(self.between)
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        # An id of nine letters and digits is what the strictest chat templates accept.
        made = secrets.token_hex(5)[:9]
        return ToolCall(id=made, function=FunctionCall(name=name, arguments=text[start:end]))


def arguments_schema(function: Json) -> Json:
    """JSON Schema of the arguments of a function that is described as in OpenAI's `tools`."""
    parameters = function.get("parameters") or {}
    if not parameters.get("properties") and not parameters.keys() & _OTHERWISE:
        # A schema would allow any arguments here; a tool that declares none takes none.
        return {"type": "object", "additionalProperties": False}
    return parameters


def find_tool_form(render: Render) -> ToolForm:
    """Ask a chat template how it writes a call.

    Args:
        render: messages and tools as the prompt for the assistant's next turn.

    Raises:
        ConfigurationError: the template does not write calls, or not as JSON with the name before the arguments.
    """
    user = Message(role="user", content="?")
    call = ToolCall(id="call00000", function=FunctionCall(name=_NAME, arguments=json.dumps(_ARGUMENT)))
    called = Message(role="assistant", content="", tool_calls=(call,))
    prompt = render([user], [_TOOL])
    shown = render([user, called, user], [_TOOL])
    plain = render([user, Message(role="assistant", content="!"), user], [_TOOL])
    form = _form(prompt, shown, plain)
    if form is None:
        raise ConfigurationError(
            "the model's chat template does not write tool calls as JSON with a name and arguments, so that a call "
            "can't be forced; leave tool_choice at auto, or use a model whose template does"
        )
    return form


def _form(prompt: str, shown: str, plain: str) -> ToolForm | None:
    if _NAME not in prompt or not shown.startswith(prompt):
        return None
    # What follows an assistant's message is the same whether it called or not.
    tail = plain[len(prompt) + 1 :] if plain.startswith(prompt + "!") else ""
    call = shown[len(prompt) :]
    if not tail or not call.endswith(tail) or _NAME_TEXT not in call:
        return None
    call = call.removesuffix(tail)
    name_at = call.index(_NAME_TEXT)
    arguments_at = call.find("{", name_at)
    if arguments_at < 0:
        return None
    try:
        arguments, end = json.JSONDecoder().raw_decode(call, arguments_at)
    except ValueError:
        return None
    if arguments != _ARGUMENT:
        return None
    return ToolForm(before=call[:name_at], between=call[name_at + len(_NAME_TEXT) : arguments_at], after=call[end:])
