"""The gateway as an aiohttp application: paths, headers, errors in each API's words, streams.

POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings
POST /v1/messages, /v1/messages/count_tokens
GET  /v1/models, /v1/models/ID, /healthz, /readyz, /metrics, /openapi.json

`Gateway` holds what all requests share; one configuration after the other is its `State`. Logs hold no content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, cast

import msgspec

from tiercel._version import __version__
from tiercel.errors import DataError, MissingExtraError, StorageError, TiercelError, UnreadableAnswerError
from tiercel.gateway._whole_answer import WholeAnswer
from tiercel.gateway.admission import admit, admit_operator, demand_json, too_large
from tiercel.gateway.auditing import Auditor
from tiercel.gateway.bodies import TOO_DEEP
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.feedback import read_feedback
from tiercel.gateway.fronts import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGE_COUNTS, MESSAGES, RESPONSES, Front
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.models import model_entry, model_list
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.pipeline import Pipeline
from tiercel.gateway.recorder import Recorder
from tiercel.gateway.refusals import broken_stream, failed, from_upstream
from tiercel.gateway.state import State
from tiercel.providers.failures import UpstreamError
from tiercel.providers.reply_headers import request_id
from tiercel.store.keys import KeyRing

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["Gateway"]

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guarded = Callable[[web.Request, Exchange], Awaitable[web.StreamResponse]]

BODY_S = 60.0
"""Seconds that a request's body may take to come."""
BREATH_S = 0.003
"""Seconds that a request waits while the recorder is behind."""
_JSON = "application/json"
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_AT_ONCE = 65_536
"""Bytes that a connection takes without waiting for its reader."""

_log = logging.getLogger("tiercel.gateway")


class Gateway:
    """Handlers, and what they share.

    Args:
        state: the configuration to begin with.
        recorder: is told of every exchange.
        metrics: are served at /metrics.
        auditor: says which workloads a broken bound has sent back.
        keys: virtual keys; None where there are none.
    """

    def __init__(
        self,
        state: State,
        recorder: Recorder[Exchange, Any],
        metrics: Metrics,
        auditor: Auditor,
        keys: KeyRing | None = None,
    ) -> None:
        self.state = state
        self.recorder = recorder
        self.metrics = metrics
        self.auditor = auditor
        self.keys = keys
        self.draining = False
        """Whether each connection is to be closed after its next answer."""
        self.in_flight = 0
        self._pipeline = Pipeline(state, auditor.sends_back)
        self._openapi = b""

    def adopt(self, state: State) -> None:
        """Answer requests that come from now on with another configuration; those under way keep theirs."""
        state.keep_answers(self.state)
        old, self.state, self._openapi = self.state, state, b""
        self._pipeline = Pipeline(state, self.auditor.sends_back)
        old.retire()

    def app(self) -> web.Application:
        """The application; run it with `handler_cancellation`, so that clients who leave are noticed."""
        app = web.Application(client_max_size=int(self.state.settings.server.max_body_mb * 2**20))
        for path, front in (
            ("/v1/chat/completions", CHAT),
            ("/v1/completions", COMPLETIONS),
            ("/v1/responses", RESPONSES),
            ("/v1/messages", MESSAGES),
            ("/v1/messages/count_tokens", MESSAGE_COUNTS),
            ("/v1/embeddings", EMBEDDINGS),
        ):
            app.router.add_post(path, self._answering(front), expect_handler=_expected)
        app.router.add_post("/v1/feedback", self._guarded(self._feedback), expect_handler=_expected)
        for path, handler in (
            ("/v1/models", self._guarded(self._models)),
            ("/v1/models/{model:(?s:.+)}", self._guarded(self._model)),
            ("/v1/monitor", self._guarded(self._monitor, admit_operator)),
            ("/metrics", self._guarded(self._metrics, admit_operator)),
            ("/openapi.json", self._closing(self._openapi_document)),
            ("/healthz", self._closing(self._health)),
            ("/readyz", self._closing(self._ready)),
        ):
            app.router.add_get(path, handler, expect_handler=_expected)
        paths: dict[str, set[str]] = {}
        for route in app.router.routes():
            paths.setdefault(str(route.resource.canonical if route.resource else ""), set()).add(route.method)

        async def elsewhere(request: web.Request) -> web.Response:
            allowed = paths.get("/v1/models/{model}" if request.path.startswith("/v1/models/") else request.path)
            front = MESSAGES if request.path.startswith("/v1/messages") else CHAT
            if allowed and request.method not in allowed:
                allow = {"Allow": ", ".join(sorted(allowed))}
                return _error(front, ApiError(405, f"{request.path} takes {allow['Allow']}", headers=allow))
            text = "there is nothing at this path; this server has " + ", ".join(sorted(paths))
            return _error(front, ApiError(404, text, code="not_found"))

        app.router.add_route("*", "/{path:(?s:.*)}", self._closing(elsewhere), expect_handler=_expected)
        return app

    def _answering(self, front: Front) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            exchange = Exchange(api=front.api)
            state, pipeline = self.state, self._pipeline
            state.enter()
            self.in_flight += 1
            try:
                if self.recorder.is_behind:
                    # All cores are busy: the recorder's thread needs its share, or what was answered is not kept.
                    await asyncio.sleep(BREATH_S)
                return await self._answer(request, exchange, front, state, pipeline)
            finally:
                self.in_flight -= 1
                exchange.latency_s = exchange.elapsed()
                if not front.only_counts:
                    self.recorder.put(exchange)
                state.leave()

        return handle

    async def _answer(
        self, request: web.Request, exchange: Exchange, front: Front, state: State, pipeline: Pipeline
    ) -> web.StreamResponse:
        try:
            raw = await self._read(request, exchange, state)
            exchange.body_bytes = len(raw)
            asked = front.read(raw, state.settings.server.max_depth)
            outcome = await (pipeline.count if front.only_counts else pipeline.answer)(exchange, front, asked)
            if outcome.events is not None:
                return await self._stream(request, exchange, front, outcome.events)
            exchange.first_byte_s = exchange.elapsed()
            headers = _EVENTS if exchange.stream else {"Content-Type": _JSON}
            if len(outcome.body) > _AT_ONCE:
                response = web.Response(body=outcome.body, headers=headers)
                self._name(exchange, response)
                return await self._deliver(request, exchange, response)
            answer = WholeAnswer(outcome.body, dict(headers))
            self._name(exchange, answer)
            return cast("web.StreamResponse", answer)
        except ApiError as error:
            response = _refuse(exchange, front, error)
        except DataError as error:
            response = _refuse(exchange, front, ApiError(400, str(error)))
        except RecursionError:
            response = _refuse(exchange, front, ApiError(400, TOO_DEEP))
        except UpstreamError as error:
            if error.failure == "refused":
                exchange.told = error.headers
            response = _refuse(exchange, front, from_upstream(error))
        except UnreadableAnswerError as error:
            text = f"the frontier's answer can't be passed on: {error}"
            response = _refuse(exchange, front, ApiError(502, text, kind="api_error", code="frontier_unreadable"))
        except ConnectionError:
            raise
        except Exception as error:
            response = _refuse(exchange, front, failed(error))
        self._name(exchange, response)
        return response

    async def _read(self, request: web.Request, exchange: Exchange, state: State) -> bytes:
        """The body of a request that may be asked.

        Raises:
            ApiError: it may not, or its body is too large, too slow, or not what its head says.
        """
        server = state.settings.server
        most = int(server.max_body_mb * 2**20)
        admit(request, exchange, server, self.keys)
        demand_json(request, most)
        try:
            if request.content.is_eof():
                return await request.read()
            async with asyncio.timeout(BODY_S):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(most) from None
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {BODY_S:g} s", code="body_too_slow") from None
        except web.RequestPayloadError:
            raise ApiError(400, "the body breaks off, or its chunks can't be read", code="body_broken") from None

    async def _stream(
        self, request: web.Request, exchange: Exchange, front: Front, events: AsyncGenerator[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_EVENTS)
        async with aclosing(events):
            data = await anext(events, b"")  # what fails before the first byte still gets a status of its own
            exchange.status, exchange.first_byte_s = 200, exchange.elapsed()
            self._name(exchange, response)
            await response.prepare(request)
            sent = front.sent()
            try:
                async with asyncio.timeout(self._seconds_left(exchange)):
                    while data:
                        await response.write(data)
                        sent.feed(data)
                        data = await anext(events, b"")
            except Exception as error:
                if isinstance(error, ConnectionError) and not isinstance(error, TiercelError):
                    raise  # the client left
                what, told = broken_stream(error)
                _log.warning("%s broke off a stream: %s", exchange.provider, what)
                exchange.reason = f"stream {what}"
                waits = isinstance(error, TimeoutError) and _is_behind(request)
                if sent.whole and not waits:
                    await response.write(front.stream_error(told, sent))
                elif request.transport is not None:
                    request.transport.abort()  # half an event was sent: only a broken connection says so
        return response

    async def _deliver(self, request: web.Request, exchange: Exchange, response: web.Response) -> web.Response:
        """Send an answer that would stay in memory for as long as its client does not read it."""
        try:
            async with asyncio.timeout(self._seconds_left(exchange)):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            exchange.reason = "client too slow"
            if request.transport is not None:
                request.transport.abort()
        return response

    def _seconds_left(self, exchange: Exchange) -> float:
        return exchange.seconds_left(self.state.settings.server.request_timeout_s)

    def _name(self, exchange: Exchange, response: web.StreamResponse | WholeAnswer) -> None:
        """Say on every answer, errors and streams included, who gave it and why."""
        headers = response.headers
        headers["x-tiercel-id"] = exchange.id
        told, exchange.told = exchange.told, {}  # nobody needs them in the recorder's queue
        for name, value in told.items():
            headers.setdefault(name, value)
        # Client libraries show this one: the provider's, which its support asks for, or else the trace's.
        name = "request-id" if exchange.api == "messages" else "x-request-id"
        headers[name] = request_id(told) or exchange.id
        headers["x-tiercel-tier"] = exchange.tier
        headers["x-tiercel-reason"] = exchange.reason
        if exchange.workload is not None:
            headers["x-tiercel-workload"] = exchange.workload.name
            if exchange.bundle:
                headers["x-tiercel-bundle"] = exchange.bundle
        if exchange.confidence is not None:
            headers["x-tiercel-confidence"] = f"{exchange.confidence:.4f}"
        if exchange.cost_usd is not None:
            headers["x-tiercel-cost-usd"] = f"{exchange.cost_usd:.9f}"
            if exchange.frontier_cost_usd is not None:
                headers["x-tiercel-saved-usd"] = f"{max(0.0, exchange.frontier_cost_usd - exchange.cost_usd):.9f}"
        if self.draining:
            response.force_close()

    def _guarded(self, handler: Guarded, admitting: Callable[..., None] = admit) -> Handler:
        """A handler for callers that are admitted; it is told who asks."""

        async def handle(request: web.Request) -> web.StreamResponse:
            exchange = Exchange(api="chat")
            try:
                admitting(request, exchange, self.state.settings.server, self.keys)
                return await handler(request, exchange)
            except ApiError as error:
                return _error(MESSAGES if "anthropic-version" in request.headers else CHAT, error)

        return self._closing(handle)

    def _closing(self, handler: Handler) -> Handler:
        """A handler whose connection ends with its answer while the gateway drains."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            if self.draining:
                response.force_close()
            return response

        return handle

    async def _models(self, request: web.Request, exchange: Exchange) -> web.Response:
        """GET /v1/models: the caller's workloads, and the models that providers are told to answer with."""
        found = model_list(self.state.models(exchange.key), anthropic="anthropic-version" in request.headers)
        return web.Response(body=msgspec.json.encode(found), content_type=_JSON)

    async def _model(self, request: web.Request, exchange: Exchange) -> web.Response:
        """GET /v1/models/ID: one of those."""
        anthropic = "anthropic-version" in request.headers
        found = next((m for m in self.state.models(exchange.key) if m[0] == request.match_info["model"]), None)
        if found is None:
            text = "no such model is known here; GET /v1/models lists them, and providers may know others"
            front = MESSAGES if anthropic else CHAT
            return _error(front, ApiError(404, text, code="model_not_found", param="model"))
        return web.Response(body=msgspec.json.encode(model_entry(found, anthropic=anthropic)), content_type=_JSON)

    async def _feedback(self, request: web.Request, exchange: Exchange) -> web.Response:
        """POST /v1/feedback: what a person says of an answer."""
        try:
            said = read_feedback(await self._read(request, exchange, self.state))
            await self._pipeline.charge(exchange)
            told = await asyncio.to_thread(self.auditor.feedback, said, exchange.key)
        except DataError as error:
            raise ApiError(400, str(error)) from None
        except StorageError:
            text = "the record can't be written now; send the feedback again later"
            raise ApiError(503, text, kind="api_error", code="store_unavailable") from None
        return web.Response(status=202, body=msgspec.json.encode(told), content_type=_JSON)

    async def _monitor(self, *_: object) -> web.Response:
        """GET /v1/monitor: how the workloads stand whose answers are audited."""
        statuses = await asyncio.to_thread(self.auditor.statuses)
        return web.Response(body=msgspec.json.encode({"object": "list", "data": statuses}), content_type=_JSON)

    async def _metrics(self, *_: object) -> web.Response:
        """GET /metrics."""
        if not self.state.settings.telemetry.metrics:
            return _error(CHAT, ApiError(404, "metrics are switched off; set telemetry.metrics", code="not_found"))
        page = await asyncio.to_thread(self.metrics.page)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _openapi_document(self, _: web.Request) -> web.Response:
        """GET /openapi.json."""
        if not self._openapi:
            self._openapi = msgspec.json.encode(openapi_document(self.state.settings))
        return web.Response(body=self._openapi, content_type=_JSON)

    async def _health(self, _: web.Request) -> web.Response:
        """GET /healthz: the process is up."""
        return web.Response(body=msgspec.json.encode({"status": "ok", "version": __version__}), content_type=_JSON)

    async def _ready(self, request: web.Request) -> web.Response:
        """GET /readyz: requests are welcome, and, for those who may see the figures of all, what answers them."""
        state: Json = {"status": "draining" if self.draining else "ready", "version": __version__}
        with suppress(ApiError):
            admit_operator(request, Exchange(api="chat"), self.state.settings.server, self.keys)
            state["workloads"] = {w.name: w.version or None for w in self.state.workloads.known}
            state["providers"] = [p.name for p in self.state.settings.providers]
            state["capture"] = {"waiting": self.recorder.waiting, "dropped": self.recorder.dropped}
        body = msgspec.json.encode(state)
        return web.Response(status=503 if self.draining else 200, body=body, content_type=_JSON)


async def _expected(request: web.Request) -> None:
    """Invite the body of a client that waits for that; what else it may expect is not repeated to it."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        error = ApiError(417, "Expect is not 100-continue; leave it out", code="expectation")
        raise web.HTTPExpectationFailed(body=CHAT.error(error), content_type=_JSON)
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def _refuse(exchange: Exchange, front: Front, error: ApiError) -> web.Response:
    exchange.status, exchange.reason = error.status, exchange.reason if exchange.tier != "none" else error.reason
    exchange.first_byte_s = exchange.elapsed()
    return _error(front, error)


def _error(front: Front, error: ApiError) -> web.Response:
    return web.Response(status=error.status, body=front.error(error), content_type=_JSON, headers=error.headers)


def _is_behind(request: web.Request) -> bool:
    """Whether the client has not yet read what it was sent."""
    return request.transport is None or request.transport.get_write_buffer_size() > 0
