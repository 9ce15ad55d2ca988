"""A server that plays recorded answers, with their recorded latency, and faults on demand.

POST /v1/chat/completions   OpenAI's chat completions, whole or as a stream
POST /v1/completions        OpenAI's legacy completions: the prompt is looked for as a user's message
POST /v1/messages           Anthropic's messages, whole or as a stream
POST /v1/messages/count_tokens
POST /v1/embeddings         hashed words: the same vector for the same text, and no meaning
GET  /v1/models             the models that answered

It stands in for a provider in tests, documents and trials: no key, no cost, the same answers every time. Limits of a
request, such as `stop` or `max_tokens`, do not change what was recorded.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tiercel.errors import ConfigurationError, DataError, MissingExtraError
from tiercel.providers.faults import FAULTS, FaultDraw
from tiercel.providers.recordings import Question, Recorded, Recordings
from tiercel.providers.replay_completions import COMPLETIONS
from tiercel.providers.replay_form import CHAT, MESSAGES, Asked, Dialect, embeddings, openai_error
from tiercel.providers.tokens import estimate_usage
from tiercel.types import Answer, Example

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["FAULT_HEADER", "ReplayCounts", "ReplayServer", "ReplaySettings"]

FAULT_HEADER = "x-tiercel-fault"
"""Names the fault of one request, or `none`."""
LARGEST_BODY = 64 * 2**20
NOT_RECORDED = "no answer to this request is recorded; record one, or start the server with --fallback first or echo"
_JSON = "application/json"
_GARBAGE = b'<html>{"choices": [{"message"'
_BROKEN_STREAM = b'data: {"choices": [{"delta": {"content": "cut\n\ndata: \xff\n\n'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Pieces = Iterator[tuple[bytes, float]]
"""Bytes of an answer, and seconds from the request until each is sent."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How answers are played.

    Attributes:
        speed: recorded latencies are divided by it; infinite for none.
        tokens_per_second: of a stream, which then begins as much earlier as its tokens take; None to send the whole
            answer when its recorded latency is over.
        faults: probability of each, by name; see `FAULTS`.
        seed: of the faults.
        retry_after_s: seconds that a 429 names.
        slow_s: seconds between two bytes of a slow answer.
        fallback: what is played where nothing is recorded: the first answer, or the request's last user message. None
            for 404.

    Raises:
        ConfigurationError: one of them can't be.
    """

    speed: float = 1.0
    tokens_per_second: float | None = None
    faults: Mapping[str, float] = field(default_factory=dict[str, float])
    seed: int = 0
    retry_after_s: float = 1.0
    slow_s: float = 0.01
    fallback: Literal["first", "echo"] | None = None

    def __post_init__(self) -> None:
        if not self.speed > 0:
            raise ConfigurationError(f"--speed is {self.speed}; give a factor above 0, or inf for no latency")
        rate = self.tokens_per_second
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigurationError(f"--tokens-per-second is {rate}; give a number above 0")
        for name, seconds in (("--retry-after", self.retry_after_s), ("slow_s", self.slow_s)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigurationError(f"{name} is {seconds}; give seconds, 0 or more")
        if self.fallback not in (None, "first", "echo"):
            raise ConfigurationError(f"--fallback is {self.fallback!r}; choose first or echo, or leave it out")
        FaultDraw(self.faults)


@dataclass
class ReplayCounts:
    """What became of the requests.

    Attributes:
        answered: with what was recorded, or a fallback.
        missed: nothing was recorded.
        left: the client left before the end.
        faults: how often each was played.
    """

    answered: int = 0
    missed: int = 0
    left: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])


class ReplayServer:
    """Plays recorded answers: `async with ReplayServer(rows) as url`, where url ends in /v1.

    Args:
        rows: examples with answers.
        settings: how they are played.
        host: address to listen at.
        port: 0 for any that is free.

    Raises:
        DataError: no row has an answer.
        ConfigurationError: on entering: it can't listen there.
    """

    def __init__(
        self,
        rows: Sequence[Example],
        settings: ReplaySettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.settings = settings or ReplaySettings()
        self.recordings = Recordings(rows)
        if not len(self.recordings):
            raise DataError("there is no answer to play; give rows that end with an assistant message, or `responses`")
        self.counts = ReplayCounts()
        self._faults = FaultDraw(self.settings.faults, self.settings.seed)
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> str:
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_errors])
        app.router.add_post("/v1/chat/completions", self._player(CHAT))
        app.router.add_post("/v1/completions", self._player(COMPLETIONS))
        app.router.add_post("/v1/messages", self._player(MESSAGES))
        app.router.add_post("/v1/messages/count_tokens", self._counted(self._count))
        app.router.add_post("/v1/embeddings", self._counted(self._embed))
        app.router.add_get("/v1/models", self._models)
        # A client that leaves is noticed, and counted.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            why = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"can't listen at {self._host}:{self._port} ({why}); choose another --host or --port"
            ) from None
        return self.url

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI's clients; that of Anthropic's has no /v1."""
        if self._runner is None:
            raise ConfigurationError("the server does not run; use it with `async with`")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"

    def _player(self, dialect: Dialect) -> Handler:
        async def play(request: web.Request) -> web.StreamResponse:
            began = asyncio.get_running_loop().time()
            asked, refused = None, None
            try:
                asked = dialect.read(await request.read())
            except DataError as error:
                refused = str(error)
            fault = self._fault(request)
            if isinstance(fault, web.Response):
                return fault
            if fault is not None and (response := await self._fail(request, fault, dialect, asked)) is not None:
                return response
            if asked is None:
                return web.Response(status=400, body=dialect.error(400, refused or ""), content_type=_JSON)
            recorded = self._find(asked.question)
            if recorded is None:
                self.counts.missed += 1
                return web.Response(status=404, body=dialect.error(404, NOT_RECORDED), content_type=_JSON)
            pieces = self._pieces(dialect, asked, recorded)
            kind = "text/event-stream" if asked.stream else _JSON
            return await self._deliver(request, pieces, kind, began, fault)

        return self._counted(play)

    def _counted(self, play: Handler) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                return await play(request)
            except asyncio.CancelledError:
                self.counts.left += 1
                raise
            except ConnectionError:  # nobody is there to be told
                self.counts.left += 1
                return web.Response()

        return handler

    def _find(self, question: Question) -> Recorded | None:
        found = self.recordings.find(question)
        if found is None and self.settings.fallback == "first":
            found = self.recordings.first(question)
        if found is None and self.settings.fallback == "echo":
            echo = Answer(content=question.last_user)
            found = Recorded(answer=echo, model=question.model, usage=estimate_usage(question.messages, echo))
        return found

    def _pieces(self, dialect: Dialect, asked: Asked, recorded: Recorded) -> Pieces:
        whole = recorded.latency_s / self.settings.speed
        if not asked.stream:
            yield dialect.whole(asked, recorded), whole
            return
        events = list(dialect.events(asked, recorded))
        gap = 1 / self.settings.tokens_per_second if self.settings.tokens_per_second else 0.0
        at = max(0.0, whole - gap * sum(tokens for _, tokens in events))
        for event, tokens in events:
            at += tokens * gap
            yield event, at

    def _fault(self, request: web.Request) -> str | web.Response | None:
        """The fault of a request; a refusal where it names an unknown one."""
        named = request.headers.get(FAULT_HEADER)
        if named is None:
            return self._faults.draw()
        if named == "none":
            return None
        if named not in FAULTS:
            text = f"there is no fault of that name; choose from {', '.join(FAULTS)}, none"
            return web.Response(status=400, body=openai_error(400, text), content_type=_JSON)
        return named

    async def _fail(
        self, request: web.Request, fault: str, dialect: Dialect, asked: Asked | None
    ) -> web.StreamResponse | None:
        """Play a fault that needs no answer; None for those that spoil one."""
        self.counts.faults[fault] += 1
        if fault in ("429", "500"):
            text = (
                "too many requests (a fault on demand)" if fault == "429" else "the server failed (a fault on demand)"
            )
            headers = {"Retry-After": f"{self.settings.retry_after_s:g}"} if fault == "429" else None
            return web.Response(
                status=int(fault), body=dialect.error(int(fault), text), content_type=_JSON, headers=headers
            )
        if fault == "timeout":
            await asyncio.Event().wait()
        if fault == "garbage":
            if asked is not None and asked.stream:
                return web.Response(body=_BROKEN_STREAM, content_type="text/event-stream")
            return web.Response(body=_GARBAGE, content_type=_JSON)
        if fault == "reset" and request.transport is not None:
            # Closed with nothing to linger for, a socket is reset.
            found: socket.socket | None = request.transport.get_extra_info("socket")
            if found is not None:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
            return web.Response()
        return None

    async def _deliver(
        self, request: web.Request, pieces: Pieces, kind: str, began: float, fault: str | None
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"Content-Type": kind})
        parts = list(pieces)
        if kind == _JSON:
            response.content_length = sum(len(part) for part, _ in parts)
        if fault == "half":
            half = max(1, len(parts) // 2)
            parts = [(part[: len(part) // 2], at) for part, at in parts] if len(parts) == 1 else parts[:half]
        if fault == "slow":
            parts = [(bytes([byte]), at) for part, at in parts for byte in part]
        for number, (part, at) in enumerate(parts):
            due = began + at + (number * self.settings.slow_s if fault == "slow" else 0.0)
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not response.prepared:
                await response.prepare(request)
            await response.write(part)
        if fault == "half":
            if request.transport is not None:
                request.transport.close()
        else:
            self.counts.answered += 1
        return response

    async def _count(self, request: web.Request) -> web.StreamResponse:
        """The recorded number of a request's tokens, or an estimate."""
        try:
            question = MESSAGES.read(await request.read()).question
        except DataError as error:
            return web.Response(status=400, body=MESSAGES.error(400, str(error)), content_type=_JSON)
        recorded = self.recordings.find(question)
        usage = recorded.usage if recorded else estimate_usage(question.messages, None, question.tools)
        return web.Response(body=msgspec.json.encode({"input_tokens": usage.input_tokens}), content_type=_JSON)

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        if isinstance(fault, web.Response):
            return fault
        if fault is not None and (response := await self._fail(request, fault, CHAT, None)) is not None:
            return response
        try:
            body = embeddings(await request.read())
        except DataError as error:
            return web.Response(status=400, body=openai_error(400, str(error)), content_type=_JSON)
        began = asyncio.get_running_loop().time()
        return await self._deliver(request, iter([(body, 0.0)]), _JSON, began, fault)

    async def _models(self, _: web.Request) -> web.Response:
        names = self.recordings.models or ["replay"]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "replay"} for name in names]
        return web.Response(body=msgspec.json.encode({"object": "list", "data": data}), content_type=_JSON)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of the HTTP library in OpenAI's form."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        known = "chat/completions, completions, messages, embeddings and models"
        text = f"{error.status} {error.reason}: this server plays {known}"
        body = openai_error(error.status, text)
        return web.Response(status=error.status, body=body, content_type=_JSON)
