"""A probe of a decoder: what it says to made-up requests, by which an engine elsewhere is known to serve its model.

The requests are the program's own, so that a bundle holds none of the traffic. Whatever a model makes of them is its
own: another model, another template or other special tokens say something else, or say it with other probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from tiercel.engines.protocol import Engine, Generated, GenerationRequest
from tiercel.errors import ConfigurationError, ParityError
from tiercel.types import Message

__all__ = ["REQUESTS", "Probe", "probe_of", "require_same_model"]

MessagesOf = Callable[[str], tuple[Message, ...]]
REQUESTS = (
    "Please tell me about the two orders of last Monday.",
    "name 3 of them, not more",
    "Where is it now? I wrote twice - no answer!",
    "hello",
)
MOST_TOKENS = 16
MOST_GAP = 0.1
"""Nats by which the tokens' log probabilities may differ on average."""
CLOSE = 0.25
"""Nats between the two likeliest tokens up to which either may come first in another arithmetic."""


class Probe(Struct, frozen=True, kw_only=True):
    """One made-up request and what the bundle's own model says to it, greedily and freely."""

    request: str
    prompt: tuple[int, ...]
    """Token ids of the rendered prompt."""
    tokens: tuple[str, ...]
    """Of the answer, as text."""
    logprobs: tuple[float, ...]
    """Of each."""
    gaps: tuple[float, ...]
    """Between the likeliest token and the next, in nats."""


def probe_of(engine: Engine, messages: MessagesOf) -> tuple[Probe, ...]:
    """What the engine says to those of the made-up requests that fit it; `messages` puts around one what is asked."""
    found = list[Probe]()
    for request in REQUESTS:
        asked = messages(request)
        if engine.count_tokens(asked) + MOST_TOKENS > engine.context:
            continue
        told = _told(engine, asked)
        probe = Probe(
            request=request,
            prompt=tuple(engine.tokenize(engine.render(asked))),
            tokens=tuple(t.text for t in told.tokens),
            logprobs=tuple(t.logprob for t in told.tokens),
            gaps=tuple(t.alternatives[0].logprob - t.alternatives[-1].logprob for t in told.tokens),
        )
        found.append(probe)
    return tuple(found)


def require_same_model(engine: Engine, probes: Sequence[Probe], messages: MessagesOf) -> None:
    """Let nothing be served by an engine that has another model, or that can't tell what the gate needs.

    Args:
        engine: that would serve.
        probes: of the bundle.
        messages: puts around a request what is asked with it.

    Raises:
        ConfigurationError: it counts no tokens or reports no log probabilities, or the bundle has no probe.
        ParityError: it serves something else.
    """
    if not probes:
        raise ConfigurationError("the bundle holds no probe by which an engine could be checked; run the pilot again")
    if not engine.counts_exactly:
        raise ConfigurationError(
            f"{engine.name} does not count tokens, so that a request could be cut to its context unseen; serve the "
            "bundle's model with llama.cpp or vLLM"
        )
    for number, probe in enumerate(probes):
        asked = messages(probe.request)
        _check_prompt(engine, asked, probe, number)
        told = _told(engine, asked)
        if len(told.tokens) < min(1, len(probe.tokens)) or not all(t.alternatives for t in told.tokens):
            raise ConfigurationError(
                f"{engine.name} reports no log probabilities, which the bundle's gate needs; serve the bundle's model "
                "with llama.cpp or vLLM"
            )
        _check_answer(engine, probe, told, number)


def _told(engine: Engine, messages: tuple[Message, ...]) -> Generated:
    return engine.generate(GenerationRequest(messages=messages, max_tokens=MOST_TOKENS, logprobs=2))


def _check_prompt(engine: Engine, asked: tuple[Message, ...], probe: Probe, number: int) -> None:
    try:
        ids = tuple(engine.tokenize(engine.render(asked)))
    except ConfigurationError:
        return  # Servers that do not show their prompts are judged by what they say.
    if ids != probe.prompt:
        at = next((i for i, (a, b) in enumerate(zip(ids, probe.prompt, strict=False)) if a != b), -1)
        raise ParityError(
            f"{engine.name} does not serve the bundle's model: its prompt of probe {number} has {len(ids)} tokens, the "
            f"bundle's {len(probe.prompt)}, and they differ at {at}; serve the bundle's students/generator/model.gguf"
        )


def _check_answer(engine: Engine, probe: Probe, told: Generated, number: int) -> None:
    apart = list[float]()
    for token, text, logprob, gap in zip(told.tokens, probe.tokens, probe.logprobs, probe.gaps, strict=False):
        if token.text.strip() != text.strip():
            if gap <= CLOSE:
                break
            raise ParityError(
                f"{engine.name} does not serve the bundle's model: it answers probe {number} with {token.text!r} where "
                f"the bundle's model says {text!r}; serve the bundle's students/generator/model.gguf"
            )
        apart.append(abs(token.logprob - logprob))
    if apart and float(np.mean(apart)) > MOST_GAP:
        raise ParityError(
            f"{engine.name} does not serve the bundle's model: its log probabilities of probe {number} are off by "
            f"{np.mean(apart):.2f} nats on average, {MOST_GAP} is allowed; serve the bundle's "
            "students/generator/model.gguf, or the same weights in 8 bits or more"
        )
