"""How many tokens a request has, for clients that ask before they send it.

A provider that speaks the client's dialect counts exactly. Where there is none, or the request must not leave this
machine as it is, the count is an estimate.
"""

from __future__ import annotations

import asyncio

import msgspec

from tiercel.errors import DataError
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.fronts import Asked, Front
from tiercel.gateway.permissions import why_kept
from tiercel.gateway.state import State
from tiercel.providers.chain import ChainRequest, Prepared
from tiercel.providers.failures import UpstreamError
from tiercel.providers.tokens import estimate_usage
from tiercel.providers.upstream import Upstream

__all__ = ["count_tokens"]

_NOT_THERE = (404, 405, 501)
"""What a provider says that speaks the dialect and does not count."""


async def count_tokens(state: State, exchange: Exchange, front: Front, asked: Asked) -> bytes:
    """The answer to a request for a count; how it came about stands in `exchange`.

    Raises:
        DataError: there is only the estimate, and the request has no form in which one can be made.
        UpstreamError: the provider that counts did not answer.
    """
    # What may leave only redacted is not sent as it is.
    stays = state.redactor is not None or why_kept(exchange, asked, state.workloads) is not None
    chain = None if stays else state.chain(exchange.workload)
    if chain is not None and any(front.speaks(link.upstream.settings) for link in chain.links):
        model = asked.model
        if model is None or model.startswith("tiercel/"):
            model = state.prices.frontier_model(exchange)

        def prepared(upstream: Upstream) -> Prepared | None:
            name = upstream.settings.named(model or "")
            if not front.speaks(upstream.settings) or not name or not state.takes(upstream.settings.name, model or ""):
                return None
            raw = asked.raw if name == asked.model else msgspec.json.encode({**asked.body, "model": name})
            return Prepared(front.path, raw, exchange.headers)

        deadline = asyncio.get_running_loop().time() + state.settings.server.request_timeout_s
        try:
            reply = await chain.send(ChainRequest(prepare=prepared, deadline=deadline))
        except UpstreamError as error:
            if error.status not in _NOT_THERE:
                raise
        else:
            exchange.told, exchange.reason = reply.headers, "counted"
            return reply.body or b""
    if asked.chat is None or asked.chat.messages is None:
        raise DataError(asked.why_not or "a message holds what can't be counted here")
    exchange.reason = "estimated"
    usage = estimate_usage(asked.chat.messages, None, asked.chat.body.get("tools"))
    return msgspec.json.encode({"input_tokens": usage.input_tokens})
