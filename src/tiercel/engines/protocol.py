"""What every engine that generates takes and gives, whatever runs the model.

An engine is asked with a `GenerationRequest` and answers with `Generated`, or piece by piece with `Delta`s.
`Engine` is the protocol that all engines keep to and one test suite checks on each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from tiercel.errors import ConfigurationError, TiercelError
from tiercel.types import Answer, FunctionCall, Message, ToolCall

__all__ = ["Delta", "DeltaStream", "Engine", "Generated", "GenerationRequest", "Token", "ToolCallPiece", "collect"]

Json = dict[str, Any]

MOST_ALTERNATIVES = 1_000
"""Alternatives of a token that may be asked for."""


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """What a model is asked, and how it may answer.

    Raises:
        ConfigurationError: the fields contradict each other or are out of range.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    """Tokens of the answer at the most."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; otherwise the whole distribution is drawn from, cut by nothing."""
    seed: int | None = None
    """Makes draws repeatable; None leaves them to chance."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it."""
    schema: Json | None = None
    """JSON Schema that the answer's text must follow."""
    grammar: str | None = None
    """GBNF, as llama.cpp reads it, that the answer's text must follow."""
    tools: list[Json] | None = None
    """Tools in OpenAI's form."""
    tool_choice: str | Json | None = None
    """auto, none, required, or the one function to be called; None leaves it to the model."""
    logprobs: int | None = None
    """Alternatives to report for each token; 0 reports the chosen tokens alone, None nothing."""
    adapter: str | None = None
    """Name of a LoRA adapter that the engine was started with; None asks the base model."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigurationError("a request has no messages; give at least one")
        if self.max_tokens < 1:
            raise ConfigurationError(f"max_tokens is {self.max_tokens}; give 1 or more")
        if not 0 <= self.temperature <= 100:
            raise ConfigurationError(f"temperature is {self.temperature}; give 0 or more, such as 0.7")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise ConfigurationError(f"logprobs is {self.logprobs}; give 0 to {MOST_ALTERNATIVES} alternatives")
        if self.schema is not None and self.grammar is not None:
            raise ConfigurationError("a request has a schema and a grammar; give one of them")
        if self.grammar is not None and self.tools and self.tool_choice != "none":
            raise ConfigurationError("a request has a grammar and tools; give one of them, or tool_choice none")
        if self.must_call and not self.tools:
            raise ConfigurationError("tool_choice asks for a call but the request has no tools; give some")
        if self.must_call and not self.callable_tools:
            raise ConfigurationError("tool_choice names a function that is none of the tools; name one of them")

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a tool call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, dict)

    @property
    def callable_tools(self) -> list[Json]:
        """The tools that `tool_choice` leaves to call."""
        tools = self.tools or []
        if isinstance(self.tool_choice, dict):
            name = self.tool_choice.get("function", self.tool_choice).get("name")
            return [t for t in tools if t["function"]["name"] == name]
        return [] if self.tool_choice == "none" else tools


class Token(Struct, frozen=True, kw_only=True):
    """One token of an answer."""

    text: str
    """As text; a part of a character shows as U+FFFD, and nothing where the server tells the id alone."""
    logprob: float
    """Natural logarithm of the probability that the model gave it, before temperature and grammar."""
    id: int | None = None
    """Number in the vocabulary; None where the server does not say."""
    alternatives: tuple[Token, ...] = ()
    """The likeliest tokens at this place, the likeliest first; they may include the token itself."""


class Generated(Struct, frozen=True, kw_only=True):
    """An answer and what it took."""

    answer: Answer
    finish_reason: str
    """stop, length, tool_calls or content_filter. With length an answer may break off in the middle of its schema."""
    input_tokens: int
    """Tokens of the request, as the model read it."""
    output_tokens: int
    """Tokens of the answer, the one that ended it included."""
    tokens: tuple[Token, ...] = ()
    """Empty where no logprobs were asked for."""
    estimated: bool = False
    """True where the server counted no tokens and the counts are estimates."""


class ToolCallPiece(Struct, frozen=True, kw_only=True):
    """A part of a tool call in a stream."""

    index: int
    """Which call of the answer this is a part of."""
    id: str | None = None
    name: str | None = None
    """Name of the function; None in all pieces but the first of a call."""
    arguments: str = ""
    """What to append to the arguments' JSON text."""


class Delta(Struct, frozen=True, kw_only=True):
    """One piece of an answer."""

    text: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    """None in all pieces but one of the last."""
    input_tokens: int | None = None
    """Given once, in the last piece."""
    output_tokens: int | None = None
    """Given once, in the last piece."""
    estimated: bool = False
    """True where the counts of this piece are estimates."""


class DeltaStream(Iterator[Delta], Protocol):
    """The pieces of one answer. `close` may be called by any thread, at any time, more than once."""

    def close(self) -> None:
        """Cancel what is left of the work."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs one model. All methods may be called by several threads at once."""

    name: str
    """What the engine is and runs, for messages and records."""
    context: int
    """Tokens of a request and its answer together."""
    slots: int
    """Requests that are worked on at once."""
    counts_exactly: bool
    """False where `count_tokens` estimates."""

    def generate(self, request: GenerationRequest) -> Generated:
        """The whole answer.

        Raises:
            ContextOverflowError: it would not fit; nothing was sent.
            ConfigurationError: the engine can't do what the request asks for.
            EngineError: the engine failed.
            ProviderError: a server refused, failed or did not answer.
        """
        ...

    def generate_many(self, requests: Sequence[GenerationRequest]) -> list[Generated | TiercelError]:
        """Answers in the order of the requests, `slots` at a time; a request that fails leaves its error."""
        ...

    def stream(self, request: GenerationRequest) -> DeltaStream:
        """The answer in pieces as it is made; closing the stream cancels the work. Errors as for `generate`."""
        ...

    def count_tokens(self, messages: Sequence[Message], tools: list[Json] | None = None) -> int:
        """Tokens that the request takes with the chat template around it."""
        ...

    def render(self, messages: Sequence[Message], tools: list[Json] | None = None) -> str:
        """The prompt as the engine's chat template writes it, ready for the assistant's turn."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt: special tokens are recognised, and added where the model wants them."""
        ...

    def close(self) -> None:
        """Cancel all work and free the model; later calls raise EngineError."""
        ...


def collect(deltas: Iterable[Delta]) -> Generated:
    """What the pieces of a stream add up to."""
    text, tokens = list[str](), list[Token]()
    calls: dict[int, tuple[str | None, str, list[str]]] = {}
    finish, inputs, outputs, estimated = "stop", 0, 0, False
    for delta in deltas:
        text.append(delta.text)
        tokens += delta.tokens
        for piece in delta.tool_calls:
            call = calls.setdefault(piece.index, (piece.id, piece.name or "", []))
            call[2].append(piece.arguments)
        finish = delta.finish_reason or finish
        inputs = inputs if delta.input_tokens is None else delta.input_tokens
        outputs = outputs if delta.output_tokens is None else delta.output_tokens
        estimated = estimated or delta.estimated
    made = tuple(
        ToolCall(id=id_, function=FunctionCall(name=name, arguments="".join(arguments)))
        for _, (id_, name, arguments) in sorted(calls.items())
    )
    content = "".join(text)
    return Generated(
        answer=Answer(content=content if content or not made else None, tool_calls=made),
        finish_reason=finish,
        input_tokens=inputs,
        output_tokens=outputs,
        tokens=tuple(tokens),
        estimated=estimated,
    )
