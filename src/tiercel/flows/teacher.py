"""What a teacher is asked and what came back: a request's body, its most expensive outcome, its samples, its bill."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import parse_usage
from tiercel.errors import ConfigurationError
from tiercel.providers.prices import Price, PriceTable, cost_usd
from tiercel.providers.tokens import estimate_usage
from tiercel.types import Answer, Example, FunctionCall, ToolCall, Usage

__all__ = ["Bill", "Sample", "Teacher", "parse_samples"]

Json = dict[str, Any]

MARKUP = 16
"""Tokens that chat markup may add to each message, at the most."""
TOOLS_MARKUP = 600
"""Tokens that a provider's own words around tools may add, at the most."""


class Sample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer as the teacher gave it."""

    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    """The provider's own field for a refusal; None where it is empty."""
    finish_reason: str | None = None
    logprobs: list[float] | None = None
    """Of each token of the answer; None where the provider gives none."""

    @property
    def answer(self) -> Answer:
        """The sample without what the provider says about it."""
        return Answer(content=self.content, tool_calls=self.tool_calls)


class Bill(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call cost."""

    usage: Usage
    counted: bool
    """Whether the provider counted the tokens; they are estimated where it did not."""
    cost_usd: float | None = None
    """At list prices; None where no price is known."""


def parse_samples(response: Json) -> tuple[Sample, ...]:
    """The samples of a chat completion; empty where it holds none that can be read."""
    choices = response.get("choices")
    try:
        return tuple(_sample(choice) for choice in choices) if isinstance(choices, list) else ()
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _sample(choice: Json) -> Sample:
    message: Json = choice["message"]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p.get("text"), str)) or None
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    reason, refusal = choice.get("finish_reason"), message.get("refusal")
    return Sample(
        content=content,
        tool_calls=tuple(_tool_call(call) for call in message.get("tool_calls") or ()),
        refusal=refusal if isinstance(refusal, str) and refusal.strip() else None,
        finish_reason=reason if isinstance(reason, str) else None,
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _tool_call(call: Json) -> ToolCall:
    name, arguments = call["function"]["name"], call["function"].get("arguments", "{}")
    if not isinstance(name, str):
        raise TypeError("a tool's name is no text")
    if not isinstance(arguments, str):
        # Some servers send the arguments as JSON instead of as its text.
        arguments = msgspec.json.encode(arguments).decode()
    number = call.get("id")
    return ToolCall(
        id=number if isinstance(number, str) else None, function=FunctionCall(name=name, arguments=arguments)
    )


def _logprobs(value: Any) -> list[float] | None:
    tokens = value.get("content") if isinstance(value, dict) else None
    if not isinstance(tokens, list):
        return None
    found = [t.get("logprob") for t in tokens if isinstance(t, dict)]
    return [float(p) for p in found if isinstance(p, int | float)] if found else None


class Teacher:
    """Makes the requests of one model, and knows what they cost.

    Args:
        endpoint: URL that is asked.
        model: takes the place of the model that a request names; None to leave it.
        prices: of models.
        max_tokens: of an answer, its reasoning included.
        temperature: of sampling; None leaves the provider's own.
        logprobs: ask for the tokens' log probabilities.
    """

    def __init__(
        self,
        endpoint: str,
        model: str | None,
        prices: PriceTable,
        *,
        max_tokens: int,
        temperature: float | None = None,
        logprobs: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.prices = prices
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.logprobs = logprobs
        self.limit_field = "max_tokens"
        self.several = True
        """Whether the provider gives several samples to one call."""

    def name(self, example: Example) -> str | None:
        """The model that answers `example`; None where neither option nor request names one."""
        return self.model or example.model

    def price(self, example: Example) -> Price | None:
        """Of the model that answers `example`."""
        return self.prices.find(self.name(example))

    def key(self, example: Example) -> str:
        """The same for requests that would get the same answer, whatever their id: endpoint, model and content."""
        asked = (self.endpoint, self._content(example), self.max_tokens, self.temperature)
        return hashlib.blake2b(msgspec.json.encode(asked, order="deterministic"), digest_size=16).hexdigest()

    def body(self, example: Example, samples: int) -> Json:
        """The request for so many samples."""
        body = self._content(example)
        body[self.limit_field] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.logprobs:
            body["logprobs"] = True
        return body | {"n": samples} if samples > 1 else body

    def _content(self, example: Example) -> Json:
        body: Json = {"messages": msgspec.to_builtins(example.messages)}
        if name := self.name(example):
            body["model"] = name
        for field in ("tools", "response_format"):
            if value := getattr(example, field):
                body[field] = value
        return body

    def bound_usd(self, example: Example, samples: int) -> float:
        """The most that a call may cost: a token holds a byte or more, and an answer no more tokens than allowed.

        0 where no price is known.

        Raises:
            ConfigurationError: the request holds an image or sound, whose tokens nothing bounds.
        """
        price = self.price(example)
        if price is None:
            return 0.0
        if any(isinstance(m.content, list) and not all("text" in p for p in m.content) for m in example.messages):
            raise ConfigurationError(
                f"request {example.id} holds an image or sound, whose cost can't be bounded beforehand; "
                "leave --budget out, or take such requests out"
            )
        content = (example.messages, example.tools, example.response_format)
        inputs = len(msgspec.json.encode(content)) + MARKUP * (len(example.messages) + 1)
        inputs += TOOLS_MARKUP if example.tools else 0
        dearest = max(price.input, price.cached_input)
        return (inputs * dearest + samples * self.max_tokens * price.output) / 1e6

    def bill(self, example: Example, response: Json, samples: tuple[Sample, ...]) -> Bill:
        """What a call cost, from the provider's own counts, or from estimates where it gave none."""
        told = response.get("usage")
        usage = parse_usage(told) if isinstance(told, dict) else None
        counted = usage is not None and usage.input_tokens > 0
        if usage is None or not counted:
            usages = [estimate_usage(example.messages, s.answer, example.tools) for s in samples]
            inputs = usages[0].input_tokens if usages else estimate_usage(example.messages, None).input_tokens
            usage = Usage(input_tokens=inputs, output_tokens=sum(u.output_tokens for u in usages))
        price = self.price(example)
        return Bill(usage=usage, counted=counted, cost_usd=None if price is None else cost_usd(usage, price))

    def adapt(self, field: object, body: Json) -> bool:
        """Leave out or rename a field of `body` that the provider does not know; whether asking anew can help."""
        if field not in ("max_tokens", "n", "logprobs") or field not in body:
            return False
        if field == "max_tokens":
            self.limit_field = "max_completion_tokens"
        elif field == "n":
            self.several = False
        else:
            self.logprobs = False
        return True
