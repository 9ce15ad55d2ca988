"""Values that every floor shares: messages, answers, examples.

They follow the chat form of fine-tuning APIs. All are frozen; ids and hashes belong to whoever stores them.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = ["Answer", "Example", "FunctionCall", "Message", "Response", "ToolCall", "Usage"]

Json = dict[str, Any]


class FunctionCall(Struct, frozen=True, kw_only=True):
    """One call of a function, as OpenAI's API writes it."""

    name: str
    """Name of the function."""
    arguments: str = "{}"
    """Arguments as JSON text, exactly as the model wrote them."""


class ToolCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tool call of an assistant message."""

    function: FunctionCall
    id: str | None = None
    """Id that a tool's result refers to; None where the log has none."""
    type: str = "function"


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat."""

    role: str
    """system, developer, user, assistant or tool."""
    content: str | list[Json] | None = None
    """Text, a list of content parts, or None where there are only tool calls."""
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The message's text; content parts that are not text (images, audio) leave nothing."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part["text"] for part in self.content if isinstance(part.get("text"), str))


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered: text, tool calls, or both."""

    content: str | None = None
    """Text; None when the model only called tools."""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def text(self) -> str:
        """The text, or an empty string where there is none."""
        return self.content or ""


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts of one request, as the provider billed them."""

    input_tokens: int = 0
    """Tokens of the request, cached ones included."""
    cached_input_tokens: int = 0
    """How many of `input_tokens` came from the provider's prompt cache."""
    cache_write_tokens: int = 0
    """How many of `input_tokens` were written to the provider's prompt cache for the usual minutes."""
    cache_write_1h_tokens: int = 0
    """How many of `input_tokens` were written to it for an hour, which costs more."""
    output_tokens: int = 0
    """Tokens of the answer, reasoning included."""
    reasoning_tokens: int = 0
    """How many of `output_tokens` were reasoning that the client did not see."""


class Response(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A recorded answer of one model to a request."""

    model: str
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    score: float | None = None
    """Quality in [0, 1], 1 is right; None when nobody scored it."""
    cost_usd: float | None = None
    """None when the log does not say; 0 means that it was free."""
    latency_s: float | None = None
    logprobs: list[float] | None = None


class Example(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, the frontier's answer to it, and what else is known of it."""

    id: str
    messages: tuple[Message, ...]
    """The request: all messages before the frontier's answer."""
    answer: Answer | None = None
    """The frontier's answer; None for a request that nobody has answered yet."""
    reference: Answer | None = None
    """A verified answer; None where the frontier's own is all there is."""
    responses: tuple[Response, ...] = ()
    """Recorded answers of other models."""
    tools: list[Json] | None = None
    response_format: Json | None = None
    usage: Usage | None = None
    """None where the log has no token counts: they are then estimated."""
    model: str | None = None
    """The model that gave `answer`; None where the log does not say."""
    created: float | None = None
    """Unix time in seconds; None where the log has no time."""
    metadata: Json | None = None
