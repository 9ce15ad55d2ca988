"""Several providers in order: who is asked, who is asked again, and who takes over.

The first whose breaker lets it is asked, and asked again where that may help and its budget allows; then the next one.
A stream is handed over once its first event has come; from then on nobody takes over. What the client itself did wrong
is said at once. Breakers and budgets belong to a `Link`, which several chains may share.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from tiercel.errors import ConfigurationError
from tiercel.providers.answer_check import FirstEvent, Verdict, check_object, status_of
from tiercel.providers.failures import Attempt, Outcome, UpstreamError, error_detail
from tiercel.providers.resilience import Breaker, RetryBudget, backoff
from tiercel.providers.upstream import Reply, Upstream

__all__ = ["Chain", "ChainReply", "ChainRequest", "Link", "Prepared"]

_TRY_AGAIN = frozenset({408, 409, 425, 429})
_ANOTHERS_TURN = frozenset({401, 402, 403, 404, 405, 407, 501})
"""The key, the account, the model or the endpoint is wrong here, and may be right elsewhere."""
_TICK_S = 0.001
"""Seconds by which a timer may be early."""


class Prepared(NamedTuple):
    """A request in the words of one provider."""

    path: str
    """Of the endpoint, from the provider's base on."""
    body: bytes | None
    """JSON text; None for a GET."""
    headers: Mapping[str, str] | None = None
    """That go with it to this provider."""


class ChainRequest(Struct, frozen=True, kw_only=True):
    """What is asked.

    Attributes:
        prepare: puts it into the words of a provider; None where that provider can't serve it. It is called once a
            provider; what it raises ends the request.
        stream: whether server-sent events are expected.
        deadline: moment of the loop's clock by which the answer must be whole, or a stream must have begun.
    """

    prepare: Callable[[Upstream], Prepared | None]
    stream: bool = False
    deadline: float | None = None


class Link:
    """A provider with what protects it.

    Args:
        upstream: the provider; closed by whoever made it.
        breaker: the usual one when left out.
        budget: of retries; the usual one when left out.
        retries: after the first try; those of the chain when left out.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        breaker: Breaker | None = None,
        budget: RetryBudget | None = None,
        retries: int | None = None,
    ) -> None:
        self.upstream = upstream
        self.name = upstream.settings.name
        self.breaker = breaker or Breaker()
        self.budget = budget or RetryBudget()
        self.retries = retries


class ChainReply:
    """An answer: whole, or a stream whose first event has come. Use it with `async with`, or close it.

    Attributes:
        provider: who answered.
        status: HTTP status.
        body: the whole answer; None of a stream.
        attempts: all that were made, the last of them `answered`.
    """

    __slots__ = ("_link", "_reply", "_start", "_ticket", "attempts", "body", "provider", "status")

    def __init__(
        self, link: Link, ticket: int, reply: Reply, start: bytes, stream: bool, attempts: tuple[Attempt, ...]
    ) -> None:
        self._link = link
        self._ticket = ticket
        self._reply = reply
        self._start = start
        self.provider = link.name
        self.status = reply.status
        self.body = None if stream else start
        self.attempts = attempts

    @property
    def content_type(self) -> str:
        """Without parameters."""
        return self._reply.content_type

    @property
    def headers(self) -> dict[str, str]:
        """The provider's headers that may be passed on; names in lower case."""
        return self._reply.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The answer's bytes as they come, from its first one on.

        Raises:
            UpstreamError: it broke off, or was silent for too long; part of it has been passed on.
        """
        try:
            yield self._start
            if self.body is None:
                while chunk := await self._reply.next():
                    yield chunk
        except UpstreamError:
            self._link.breaker.failed(self._ticket)
            raise
        finally:
            self._reply.close()

    def close(self) -> None:
        """Let the connection go; a stream that was not read to its end is cut at once."""
        self._reply.close()

    async def __aenter__(self) -> ChainReply:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reply.close()


class Chain:
    """Providers in the order in which they are asked.

    Args:
        links: the providers; an `Upstream` gets a breaker and a budget of its own.
        retries: at one provider, after the first try.
        patience_s: seconds that one request may spend waiting before it is sent again.
        on_attempt: is told of each attempt as it ends, for metrics.
        rng: of the jitter.
        sleep: waits so many seconds.

    Raises:
        ConfigurationError: there is no provider, or retries or patience are below 0.
    """

    def __init__(
        self,
        links: Sequence[Link | Upstream],
        *,
        retries: int = 2,
        patience_s: float = 10.0,
        on_attempt: Callable[[Attempt], None] | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not links:
            raise ConfigurationError("a chain holds no provider; configure one, such as https://api.openai.com/v1")
        if retries < 0 or not patience_s >= 0:
            raise ConfigurationError(f"retries {retries} and patience_s {patience_s} must be 0 or more")
        self.links = tuple(link if isinstance(link, Link) else Link(link) for link in links)
        self.retries = retries
        self.patience_s = patience_s
        self.on_attempt = on_attempt
        self.rng = rng or random.Random()
        self.sleep = sleep

    def tries(self, link: Link) -> int:
        """How often a provider is asked at most."""
        return 1 + (self.retries if link.retries is None else link.retries)

    async def send(self, request: ChainRequest) -> ChainReply:
        """Have one of the providers answer. Cancelled, it closes the connection that it waits on.

        Raises:
            UpstreamError: the client's fault, or the last one's failure once all have failed; `tried` lists them.
        """
        return await _Walk(self, request).answer()


class _Walk:
    """One request on its way along a chain."""

    __slots__ = ("_attempts", "_chain", "_error", "_left", "_not_before", "_prepared", "_request", "_waited")

    def __init__(self, chain: Chain, request: ChainRequest) -> None:
        self._chain = chain
        self._request = request
        self._left = [chain.tries(link) for link in chain.links]
        self._not_before = [0.0] * len(chain.links)
        self._prepared: list[Prepared | None] = [None] * len(chain.links)
        self._attempts: list[Attempt] = []
        self._error: UpstreamError | None = None
        self._waited = 0.0

    async def answer(self) -> ChainReply:
        while (turn := await self._next()) is not None:
            place, ticket, prepared = turn
            link = self._chain.links[place]
            try:
                return await self._attempt(link, ticket, prepared)
            except UpstreamError as error:
                self._learn(link.breaker, ticket, error)
                verdict = _verdict(error)
                if self._error is None or verdict != "elsewhere":
                    # That one provider does not know a model says less than that another one failed at it.
                    self._error = error
                if verdict == "final":
                    raise error.after(tuple(self._attempts)) from None
                self._left[place] = self._left[place] - 1 if verdict == "again" else 0
                # A provider that asked for time is not waited for while another one may answer.
                if error.retry_after:
                    self._not_before[place] = time.monotonic() + error.retry_after
                elif self._left[place] and not link.breaker.wait():
                    failures = self._chain.tries(link) - self._left[place]
                    if not await self._pause(backoff(failures, None, self._chain.rng)):
                        self._left[place] = 0
        raise self._given_up()

    async def _next(self) -> tuple[int, int, Prepared] | None:
        """Place, ticket and request of the next attempt; None when there is none to be made."""
        chain = self._chain
        while not self._attempts or self._seconds_left() > _TICK_S:
            soonest = math.inf
            for place, link in enumerate(chain.links):
                if not self._left[place]:
                    continue
                rest = self._not_before[place]
                if rest and (rest := rest - time.monotonic()) > 0:
                    soonest = min(soonest, max(rest, link.breaker.wait()))
                    continue
                ticket = link.breaker.admit()
                if ticket is None:
                    soonest = min(soonest, link.breaker.wait())
                    continue
                prepared = self._turn(place, link, ticket)
                if prepared is not None:
                    return place, ticket, prepared
                link.breaker.released(ticket)
                self._left[place] = 0
            # Jitter keeps those that wait for the same provider from coming back together.
            if not await self._pause(backoff(1, soonest, chain.rng)):
                break
        return None

    def _turn(self, place: int, link: Link, ticket: int) -> Prepared | None:
        """The request for a provider whose turn it is; None where it has no further one."""
        prepared = self._prepared[place]
        if prepared is not None:
            return prepared if link.budget.take() else None
        try:
            prepared = self._prepared[place] = self._request.prepare(link.upstream)
        except BaseException:
            link.breaker.released(ticket)
            raise
        if prepared is not None:
            link.budget.request()
        return prepared

    async def _attempt(self, link: Link, ticket: int, prepared: Prepared) -> ChainReply:
        request, reply = self._request, None
        began = time.perf_counter()
        try:
            reply = await link.upstream.send(
                prepared.path,
                prepared.body,
                stream=request.stream,
                headers=prepared.headers,
                deadline=request.deadline,
            )
            start = await (self._begin(link.upstream, reply) if request.stream else _whole(link.upstream, reply))
        except BaseException as error:
            if reply is not None:
                reply.close()
            if isinstance(error, UpstreamError):
                self._record(link, error.failure, error.status, began)
            else:
                link.breaker.released(ticket)
                self._record(link, "cancelled", None, began)
            raise
        link.breaker.succeeded(ticket)
        self._record(link, "answered", reply.status, began)
        return ChainReply(link, ticket, reply, start, request.stream, tuple(self._attempts))

    async def _begin(self, upstream: Upstream, reply: Reply) -> bytes:
        """The bytes of a stream up to and with its first event."""
        settings, first = upstream.settings, FirstEvent()
        begin_by = asyncio.get_running_loop().time() + (settings.first_byte_s or settings.timeout_s)
        try:
            # Comments that keep a connection alive are bytes, but no beginning.
            async with asyncio.timeout_at(min(begin_by, self._request.deadline or math.inf)):
                while chunk := await reply.next():
                    if (verdict := first.feed(chunk)) is not None:
                        _demand(upstream, reply, verdict, first.data)
                        return bytes(first.held)
        except TimeoutError:
            raise upstream.error("did not begin its answer in time", "timed out", billable=True) from None
        raise upstream.error("ended a stream before its first event", "unreadable", status=reply.status, billable=True)

    def _learn(self, breaker: Breaker, ticket: int, error: UpstreamError) -> None:
        """Tell the breaker what an error says of the provider."""
        status = error.status or 0
        too_soon = error.failure == "timed out" and self._seconds_left() <= _TICK_S
        if status == 429 and error.retry_after:
            breaker.sent_away(ticket, error.retry_after)
        elif too_soon or (error.failure == "refused" and status in (408, 429)):
            breaker.released(ticket)  # a client in a hurry, or too many of them: the provider is well
        elif error.failure != "refused" or (status >= 500 and status != 501):
            breaker.failed(ticket)
        else:
            breaker.succeeded(ticket)

    def _seconds_left(self) -> float:
        deadline = self._request.deadline
        return math.inf if deadline is None else deadline - asyncio.get_running_loop().time()

    async def _pause(self, seconds: float) -> bool:
        """Wait, where patience and deadline allow it."""
        if self._waited + seconds > self._chain.patience_s or seconds >= self._seconds_left():
            return False
        self._waited += seconds
        await self._chain.sleep(seconds)
        return True

    def _record(self, link: Link, outcome: Outcome, status: int | None, began: float) -> None:
        seconds = time.perf_counter() - began
        attempt = Attempt(provider=link.name, outcome=outcome, status=status, seconds=seconds)
        self._attempts.append(attempt)
        if self._chain.on_attempt is not None:
            self._chain.on_attempt(attempt)

    def _given_up(self) -> UpstreamError:
        links = self._chain.links
        asked = {attempt.provider for attempt in self._attempts}
        skipped = tuple(Attempt(provider=link.name, outcome="skipped") for link in links if link.name not in asked)
        tried = (*self._attempts, *skipped)
        if self._error is not None:
            return self._error.after(tried)
        open_in = min(link.breaker.retry_in() for link in links)
        return UpstreamError(
            f"no provider takes this request now: {', '.join(link.name for link in links)}",
            provider=links[0].name,
            failure="unreachable",
            retry_after=open_in or None,
            tried=tried,
        )


def _verdict(error: UpstreamError) -> Literal["again", "elsewhere", "final"]:
    """What is done about an error."""
    status = error.status or 500
    if error.failure != "refused":
        return "again"
    if status == 429 and (error.detail or {}).get("code") == "insufficient_quota":
        return "elsewhere"
    if status in _ANOTHERS_TURN or status < 400:
        return "elsewhere"
    return "again" if status in _TRY_AGAIN or status >= 500 else "final"


async def _whole(upstream: Upstream, reply: Reply) -> bytes:
    raw = await reply.read()
    _demand(upstream, reply, check_object(raw), raw)
    return raw


def _demand(upstream: Upstream, reply: Reply, verdict: Verdict, raw: bytes) -> None:
    """Raise unless `raw` is the answer that a status of 200 promised."""
    if verdict == "sound":
        return
    if verdict == "broken":
        what = "answered with something that is no JSON object"
        raise upstream.error(what, "unreadable", status=reply.status, billable=True)
    detail = error_detail(raw, upstream.secrets)
    status = status_of(detail)
    detail = None if status == 401 else detail
    what = f"answered with an error ({status})"
    raise upstream.error(what, "refused", status=status, detail=detail, headers=reply.headers, billable=True)
