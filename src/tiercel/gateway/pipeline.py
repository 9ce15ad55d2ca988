"""What happens to a request before its answer: recognised, permitted, found in the cache, answered small, escalated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tiercel.errors import StorageError
from tiercel.gateway.cache import cache_key
from tiercel.gateway.chat import breaks_tools, completion, stops_inside, why_frontier
from tiercel.gateway.costing import about_usage
from tiercel.gateway.counting import count_tokens
from tiercel.gateway.desk import DeskFull
from tiercel.gateway.escalation import Escalation
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.fronts import Asked, Front
from tiercel.gateway.sections import Tier
from tiercel.gateway.state import State
from tiercel.gateway.transcripts import usage_of
from tiercel.gateway.workloads import Workload
from tiercel.providers.chain import Chain
from tiercel.providers.tokens import estimate_usage
from tiercel.store.limits import Exceeded, Scope
from tiercel.types import Message, Usage

__all__ = ["Outcome", "Pipeline"]

Json = dict[str, Any]

NO_FRONTIER = (
    "this request needs the frontier ({reason}), and none is configured; start the server with --frontier-url "
    "(and --frontier-model), and put its key into the environment variable TIERCEL_FRONTIER_KEY, "
    "or name a [[provider]] in tiercel.toml"
)
LOCAL_ONLY = (
    "this request may not leave the machine, and no student may answer it ({reason}); ask without the restriction, "
    "or with a request that its workload's student is sure of"
)
NO_LIMITS = (
    "this request has a budget or a rate limit, and the store that keeps it does not answer now; try again in a moment"
)
BUSY = "student busy"
ALL_BUSY = "more requests wait for this workload's student than it can answer soon; try again in a moment"
TOO_LONG = "the student did not answer within request_timeout_s"
_NEVER = {"x-should-retry": "false"}
"""Asking again would not help, and OpenAI's clients would do so after a 429 or a 5xx."""
_LONGEST_WAIT_S = 86_400
"""What Retry-After says where no wait helps: the header is expected with every 429."""


class Outcome(Struct, frozen=True, kw_only=True):
    """An answer: whole, or as events that are still to come."""

    body: bytes = b""
    events: AsyncGenerator[bytes] | None = None


class Pipeline:
    """Answers requests with what one configuration holds.

    Args:
        state: the configuration, loaded.
        sends_back: whether the frontier has to answer a workload, or a segment of it, whose bound is broken.
    """

    def __init__(self, state: State, sends_back: Callable[[Workload, str | None], bool]) -> None:
        self.state = state
        self._sends_back = sends_back

    async def answer(self, exchange: Exchange, front: Front, asked: Asked) -> Outcome:
        """The answer to a request; what was decided on the way stands in `exchange`.

        Raises:
            ApiError: the request gets none, and why.
            UpstreamError: no provider answered.
        """
        exchange.stream, exchange.requested = asked.stream, asked.model
        if asked.chat is not None:
            exchange.body = asked.chat.body
            exchange.user = _user(asked.chat.body)
            self._recognise(exchange, asked)
        self._permit(exchange)
        await self._reserve(exchange, asked, _rates(exchange))
        key = self._cache_key(exchange, asked)
        if key is not None and self.state.cache is not None and (kept := self.state.cache.get(key)):
            exchange.tier, exchange.reason = "cache", "asked before"
            exchange.confidence = None
            return self._told(exchange, front, asked, kept)
        if (said := await self._student(exchange, asked)) is not None:
            return self._told(exchange, front, asked, said)
        return await self._frontier(exchange, front, asked, key)

    async def count(self, exchange: Exchange, front: Front, asked: Asked) -> Outcome:
        """How many tokens a request has; it is not answered, and no limit is charged.

        Raises:
            ApiError: the caller may not ask.
            DataError: the request can't be counted.
            UpstreamError: the provider that counts did not answer.
        """
        if asked.chat is not None:
            exchange.body = asked.chat.body
            self._recognise(exchange, asked)
        self._permit(exchange)
        return Outcome(body=await count_tokens(self.state, exchange, front, asked))

    async def charge(self, exchange: Exchange) -> None:
        """Count a request that no tier answers, such as feedback, against the rates of its key.

        Raises:
            ApiError: there were too many, or the store that counts them does not answer.
        """
        if not (scopes := _rates(exchange)):
            return
        try:
            exceeded = await self.state.limiter.count(scopes, now=exchange.created)
        except StorageError:
            raise _unknown_limits() from None
        if exceeded is not None:
            raise _refused(exceeded)

    def _recognise(self, exchange: Exchange, asked: Asked) -> None:
        model = asked.model
        workload = self.state.workloads.named(model)
        if workload is None and model is not None and model.startswith("tiercel/"):
            raise ApiError(
                404, "there is no such workload; GET /v1/models lists them", code="model_not_found", param="model"
            )
        if workload is None and asked.chat is not None:
            workload = self.state.workloads.recognise(asked.chat)
        exchange.workload = workload

    def _permit(self, exchange: Exchange) -> None:
        """Whether the caller's key is for this workload."""
        key, workload = exchange.key, exchange.workload
        if key is not None and not key.may_use(workload.name if workload else None):
            raise ApiError(
                403, f"the key {key.id} is not for this workload", kind="permission_error", code="workload_not_allowed"
            )
        if key is not None and not key.capture:
            exchange.captured = False
        longest = workload.settings.max_input_tokens if workload else None
        if longest is not None and exchange.body is not None and (count := _input_tokens(exchange.body)) > longest:
            text = f"the request has about {count} tokens, and {longest} are allowed for its workload"
            raise ApiError(400, text, code="context_length_exceeded")

    async def _reserve(
        self, exchange: Exchange, asked: Asked, scopes: Sequence[Scope], chain: Chain | None = None
    ) -> None:
        """Ask the limits, those of money where a chain is to be paid; only who has some pays for it."""
        if not scopes:
            return
        state, usd = self.state, 0.0
        expected = about_usage(exchange.api, asked.body, exchange.body_bytes)
        if chain is not None:
            model = state.prices.frontier_model(exchange)
            usd = state.prices.about(model, state.sellers(chain, model), expected)
        tokens = expected.input_tokens + expected.output_tokens
        try:
            held = await state.limiter.reserve(
                scopes, usd=usd, tokens=tokens, now=exchange.created, lease_s=state.lease_s, held=exchange.held
            )
        except StorageError:
            raise _unknown_limits() from None
        if isinstance(held, Exceeded):
            raise _refused(held)
        exchange.held = held

    def _cache_key(self, exchange: Exchange, asked: Asked) -> bytes | None:
        if self.state.cache is None or exchange.body is None or exchange.forced is not None:
            return None
        if not _may(exchange, "cache"):
            return None
        mark = self.state.cache_mark(exchange.workload)
        return cache_key(exchange.tenant, exchange.api, asked.body, exchange.headers, mark)

    async def _student(self, exchange: Exchange, asked: Asked) -> Json | None:
        """The student's answer as a chat completion; None, and the reason why, where it is the frontier's turn."""
        workload = exchange.workload
        exchange.reason = "another workload"
        if workload is None or workload.desk is None or asked.chat is None or workload.key is None:
            return None
        if exchange.forced == "frontier":
            exchange.reason = "asked for"
        elif not _may(exchange, "student"):
            exchange.reason = "not allowed"
        elif exchange.forced is None and self._sends_back(workload, None):
            exchange.reason = "bound broken"
        elif (why := why_frontier(asked.chat, workload.key)) is not None:
            exchange.reason = why
        else:
            return await self._ask_student(exchange, asked)
        return None

    async def _ask_student(self, exchange: Exchange, asked: Asked) -> Json | None:
        workload, chat = exchange.workload, asked.chat
        assert workload is not None and workload.desk is not None and chat is not None and chat.messages is not None
        metadata = chat.body.get("metadata")
        try:
            async with asyncio.timeout(self._seconds_left(exchange)):
                answered = await workload.desk.answer(chat.messages, metadata if isinstance(metadata, dict) else None)
        except DeskFull:
            exchange.reason = BUSY
            return None
        except TimeoutError:
            raise ApiError(504, TOO_LONG, kind="api_error", code="timed_out") from None
        exchange.compute_s += answered.latency_ms / 1000 * workload.cores
        exchange.confidence, exchange.reason = answered.confidence, answered.reason
        exchange.segment, said = answered.segment, answered.proposal
        if said is None or (answered.tier != "student" and exchange.forced != "student"):
            return None
        if exchange.forced is None and self._sends_back(workload, answered.segment):
            exchange.reason = "bound broken"
        elif said.tool_calls and chat.body.get("tool_choice") == "none":
            exchange.reason = "tool choice"
        elif said.tool_calls and breaks_tools(chat, said.tool_calls):
            exchange.reason = "changed tools"
        elif said.content and stops_inside(chat, said.content):
            exchange.reason = "stop text"
        else:
            if answered.tier != "student":
                exchange.reason = f"asked for, {answered.reason}"
            exchange.tier, exchange.model = "student", f"tiercel/{workload.name}"
            return completion(chat, said, exchange.model, exchange.id)
        return None

    def _seconds_left(self, exchange: Exchange) -> float:
        return exchange.seconds_left(self.state.settings.server.request_timeout_s)

    def _told(self, exchange: Exchange, front: Front, asked: Asked, said: Json) -> Outcome:
        """A whole chat completion in the client's dialect, as a stream where one is asked for."""
        exchange.status, exchange.answer = 200, said
        self.state.prices.settle_local(exchange, usage_of(said.get("usage")) or Usage())
        if asked.stream:
            return Outcome(body=front.streamed(said, asked))
        return Outcome(body=front.whole(said, asked))

    def _stays_here(self, exchange: Exchange, asked: Asked) -> bool:
        """Whether a request must not leave this machine."""
        if exchange.forced == "student" or (exchange.key is not None and exchange.key.local_only):
            return True
        if exchange.workload is not None:
            return exchange.workload.settings.local_only
        if not any(workload.settings.local_only for workload in self.state.workloads.known):
            return False
        # What can't be read can't be told from a workload that has to stay.
        return exchange.api != "embeddings" and (asked.chat is None or asked.chat.messages is None)

    async def _frontier(self, exchange: Exchange, front: Front, asked: Asked, cached_as: bytes | None) -> Outcome:
        workload = exchange.workload
        chain = self.state.chain(workload)
        stays = self._stays_here(exchange, asked)
        if exchange.reason == BUSY and (stays or chain is None or not _may(exchange, "frontier")):
            raise ApiError(503, ALL_BUSY, kind="api_error", code="student_busy", headers={"Retry-After": "1"})
        if stays:
            raise ApiError(
                503, LOCAL_ONLY.format(reason=exchange.reason), kind="api_error", code="local_only", headers=_NEVER
            )
        if not _may(exchange, "frontier"):
            text = f"this request needs the frontier ({exchange.reason}), which its key or workload may not ask"
            raise ApiError(403, text, kind="permission_error", code="tier_not_allowed")
        if chain is None:
            raise ApiError(
                503,
                NO_FRONTIER.format(reason=exchange.reason),
                kind="api_error",
                code="frontier_not_configured",
                headers=_NEVER,
            )
        await self._reserve(exchange, asked, _budgets(exchange), chain)
        exchange.tier = "frontier"
        escalation = Escalation(self.state, exchange, front, asked)
        await escalation.redact()
        limit = asyncio.get_running_loop().time() + self._seconds_left(exchange)
        reply = await escalation.send(chain, limit)
        if asked.stream:
            return Outcome(events=escalation.relay(reply, cached_as))
        return Outcome(body=escalation.whole(reply, cached_as))


def _may(exchange: Exchange, tier: Tier) -> bool:
    """Whether a tier may answer, by the caller's key and by the workload's settings."""
    allowed = (
        exchange.key.tiers if exchange.key else None,
        exchange.workload.settings.tiers if exchange.workload else None,
    )
    return all(tiers is None or tier in tiers for tiers in allowed)


def _input_tokens(body: Json) -> int:
    try:
        messages = msgspec.convert(body.get("messages"), tuple[Message, ...])
    except msgspec.ValidationError:
        return 0
    return estimate_usage(messages, None, body.get("tools")).input_tokens


def _user(body: Json) -> str | None:
    """Whom a request names as its end user."""
    metadata = body.get("metadata")
    for name in (
        body.get("safety_identifier"),
        body.get("user"),
        isinstance(metadata, dict) and metadata.get("user_id"),
    ):
        if isinstance(name, str) and name:
            return name
    return None


def _rates(exchange: Exchange) -> list[Scope]:
    """Limits of requests and tokens a minute that a request counts against, whoever answers it."""
    return [s for s in _scopes(exchange, rates=True) if s.limited]


def _budgets(exchange: Exchange) -> list[Scope]:
    """Budgets that a request to the frontier is paid from."""
    return [s for s in _scopes(exchange, rates=False) if s.limited]


def _scopes(exchange: Exchange, *, rates: bool) -> Iterator[Scope]:
    owners: list[tuple[Literal["key", "workload"], str, Any]] = []
    if exchange.key is not None:
        owners.append(("key", exchange.key.id, exchange.key))
    if exchange.workload is not None:
        owners.append(("workload", exchange.workload.name, exchange.workload.settings))
    for kind, name, owner in owners:
        if rates:
            yield Scope(
                kind=kind,
                name=name,
                requests_per_minute=owner.requests_per_minute,
                tokens_per_minute=owner.tokens_per_minute,
            )
        else:
            yield Scope(kind=kind, name=name, budget_usd=owner.budget_usd, period=owner.period)


def _unknown_limits() -> ApiError:
    return ApiError(503, NO_LIMITS, kind="api_error", code="limits_unavailable", headers={"Retry-After": "1"})


def _refused(exceeded: Exceeded) -> ApiError:
    wait = exceeded.retry_after_s
    budget = exceeded.limit == "budget_usd"
    if exceeded.too_large and exceeded.limit == "tokens_per_minute":
        scope, asked = exceeded.scope, f"this request is reckoned at {exceeded.asked:.0f} tokens"
        text = f"{asked}, and {scope.kind} {scope.name} may have {exceeded.value:.0f} per minute"
        return ApiError(400, f"{text}; ask for less, or have the limit raised", code="request_exceeds_limit")
    # A client that tries again by itself would only be refused again, where the wait is long.
    headers = {} if wait is not None and wait <= 60 else dict(_NEVER)
    headers["Retry-After"] = str(math.ceil(wait)) if wait is not None else str(_LONGEST_WAIT_S)
    return ApiError(
        429,
        exceeded.message,
        kind="insufficient_quota" if budget else "rate_limit_exceeded",
        code="budget_exceeded" if budget else "rate_limit_exceeded",
        headers=headers,
    )
