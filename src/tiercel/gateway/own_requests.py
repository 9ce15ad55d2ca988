"""Requests that the gateway itself makes of the frontier: audits and anchors, and how their answers are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.errors import ConfigurationError
from tiercel.gateway.chat import chat_request
from tiercel.gateway.escalation import Escalation
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.fronts import CHAT, Asked
from tiercel.gateway.state import State
from tiercel.gateway.transcripts import completion_of
from tiercel.gateway.workloads import Workload
from tiercel.types import Answer, ToolCall

if TYPE_CHECKING:
    from tiercel.flows.bundle import Bundle

__all__ = ["answer_of", "ask_frontier", "message_answer", "own_exchange", "student_loss"]

Json = dict[str, Any]

_HOW_SENT = frozenset({"stream", "stream_options"})


def own_exchange(workload: Workload, body: Json, reason: str, *, captured: bool = True) -> Exchange:
    """An exchange that no client began.

    Args:
        workload: that it is about.
        body: chat request; how a client wanted the answer sent is left out.
        reason: that the ledger names.
        captured: whether its content may be stored as traffic.
    """
    body = {name: value for name, value in body.items() if name not in _HOW_SENT}
    exchange = Exchange(api="chat", workload=workload, body=body, tier="frontier", reason=reason, captured=captured)
    exchange.body_bytes = len(msgspec.json.encode(body))
    exchange.is_audit = True
    model = body.get("model")
    exchange.requested = model if isinstance(model, str) else None
    return exchange


async def ask_frontier(state: State, exchange: Exchange, record: Callable[[Exchange], None]) -> Answer | None:
    """Have the frontier answer; the exchange is recorded whatever comes of it.

    Args:
        state: the configuration.
        exchange: of `own_exchange`.
        record: takes it for the ledger.

    Returns:
        The answer; None where it says nothing that can be compared.

    Raises:
        ApiError: the request can't be asked.
        ConfigurationError: there is nobody to ask.
        UpstreamError: no provider answered.
    """
    body = exchange.body or {}
    model = body.get("model")
    state.enter()
    try:
        chain = state.chain(exchange.workload)
        if chain is None:
            raise ConfigurationError("there is no provider to ask; name one in tiercel.toml")
        asked = Asked(
            raw=msgspec.json.encode(body),
            body=body,
            chat=chat_request(body),
            model=model if isinstance(model, str) else None,
        )
        escalation = Escalation(state, exchange, CHAT, asked)
        await escalation.redact()
        limit = asyncio.get_running_loop().time() + state.settings.server.request_timeout_s
        escalation.whole(await escalation.send(chain, limit), None)
        completion = None if exchange.answer is None else completion_of(exchange.answer, exchange.answer_form)
        return None if completion is None else answer_of(completion)
    finally:
        exchange.latency_s = exchange.elapsed()
        record(exchange)
        state.leave()


def answer_of(completion: Json) -> Answer | None:
    """What a chat completion says, as answers are compared; None where it says nothing."""
    try:
        return message_answer(completion["choices"][0]["message"])
    except (LookupError, TypeError):
        return None


def message_answer(message: Any) -> Answer | None:
    """What an assistant's message says, as answers are compared; None where it says nothing."""
    try:
        calls = msgspec.convert(message.get("tool_calls") or [], tuple[ToolCall, ...])
        content = message.get("content")
    except (AttributeError, msgspec.ValidationError):
        return None
    if not calls and not isinstance(content, str):
        return None
    return Answer(content=content if isinstance(content, str) else None, tool_calls=calls)


def student_loss(bundle: Bundle, said: Answer, right: Answer) -> float:
    """The loss of an answer as the bundle's certificate measures it; `right` is taken to be right."""
    from tiercel.tasks.losses import loss_of

    manifest = bundle.manifest
    return float(loss_of(manifest.measure, manifest.task, said, right, getattr(bundle.student, "labels", None)))
