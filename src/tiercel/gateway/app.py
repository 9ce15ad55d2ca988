"""The gateway as an aiohttp application: paths, headers, errors in each API's words, streams.

POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings
POST /v1/messages, /v1/messages/count_tokens
GET  /v1/models, /v1/models/ID, /healthz, /readyz, /metrics, /openapi.json

`Gateway` holds what all requests share; one configuration after the other is its `State`. Logs hold no content.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tiercel._version import __version__
from tiercel.errors import DataError, MissingExtraError, UnreadableAnswerError
from tiercel.gateway.chat import TOO_DEEP
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.fronts import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGE_COUNTS, MESSAGES, RESPONSES, Front
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.models import model_entry, model_list
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.pipeline import Pipeline
from tiercel.gateway.recorder import Recorder
from tiercel.gateway.sections import is_loopback
from tiercel.gateway.state import State
from tiercel.providers.failures import UpstreamError
from tiercel.store.key_secrets import is_misspelt
from tiercel.store.keys import KeyRing

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["Gateway"]

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_S = 60.0
"""Seconds that a request's body may take to come."""
_JSON = "application/json"
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_ERROR_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_TO_PROVIDER: dict[str, tuple[str, ...]] = {"messages": ("anthropic-beta",)}
"""Headers that are a part of an API's request: they go with it to a provider that speaks that API, and no others do."""
_LONGEST_HEADER = 1_000
_TIERS = {"auto": None, "student": "student", "frontier": "frontier"}

_log = logging.getLogger("tiercel.gateway")


class Gateway:
    """Handlers, and what they share.

    Args:
        state: the configuration to begin with.
        recorder: is told of every exchange.
        metrics: are served at /metrics.
        keys: virtual keys; None where there are none.
    """

    def __init__(
        self, state: State, recorder: Recorder[Exchange, Any], metrics: Metrics, keys: KeyRing | None = None
    ) -> None:
        self.state = state
        self.recorder = recorder
        self.metrics = metrics
        self.keys = keys
        self.draining = False
        """Whether each connection is to be closed after its next answer."""
        self.in_flight = 0
        self._pipeline = Pipeline(state)
        self._openapi = b""

    def adopt(self, state: State) -> None:
        """Answer requests that come from now on with another configuration; those under way keep theirs."""
        old, self.state, self._pipeline, self._openapi = self.state, state, Pipeline(state), b""
        old.retire(state)

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
            app.router.add_post(path, self._answering(front))
        app.router.add_get("/v1/models", self._guarded(self._models))
        app.router.add_get("/v1/models/{model:.+}", self._guarded(self._model))
        app.router.add_get("/metrics", self._guarded(self._metrics))
        app.router.add_get("/openapi.json", self._closing(self._openapi_document))
        app.router.add_get("/healthz", self._closing(self._health))
        app.router.add_get("/readyz", self._closing(self._ready))
        paths: dict[str, set[str]] = {}
        for route in app.router.routes():
            paths.setdefault(str(route.resource.canonical if route.resource else ""), set()).add(route.method)

        async def elsewhere(request: web.Request) -> web.Response:
            allowed = paths.get("/v1/models/{model}" if request.path.startswith("/v1/models/") else request.path)
            front = MESSAGES if request.path.startswith("/v1/messages") else CHAT
            if allowed:
                allow = {"Allow": ", ".join(sorted(allowed))}
                return _error(front, ApiError(405, f"{request.path} takes {allow['Allow']}", headers=allow))
            text = "there is nothing at this path; this server has " + ", ".join(sorted(paths))
            return _error(front, ApiError(404, text, code="not_found"))

        app.router.add_route("*", "/{path:.*}", self._closing(elsewhere))
        return app

    def _answering(self, front: Front) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            exchange = Exchange(api=front.api)
            state, pipeline = self.state, self._pipeline
            state.enter()
            self.in_flight += 1
            try:
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
            self._admit(request, exchange, state)
            if request.content.is_eof():
                raw = await request.read()
            else:
                async with asyncio.timeout(BODY_S):
                    raw = await request.read()
            exchange.body_bytes = len(raw)
            asked = front.read(raw, state.settings.server.max_depth)
            outcome = await (pipeline.count if front.only_counts else pipeline.answer)(exchange, front, asked)
            if outcome.events is not None:
                return await self._stream(request, exchange, front, outcome.events)
            exchange.first_byte_s = exchange.elapsed()
            headers = _EVENTS if exchange.stream else {"Content-Type": _JSON}
            response = web.Response(body=outcome.body, headers=headers)
        except ApiError as error:
            response = _refuse(exchange, front, error)
        except DataError as error:
            response = _refuse(exchange, front, ApiError(400, str(error)))
        except RecursionError:
            response = _refuse(exchange, front, ApiError(400, TOO_DEEP))
        except UpstreamError as error:
            response = _refuse(exchange, front, _from_upstream(error))
        except UnreadableAnswerError as error:
            text = f"the frontier's answer can't be passed on: {error}"
            response = _refuse(exchange, front, ApiError(502, text, kind="api_error", code="frontier_unreadable"))
        except web.HTTPRequestEntityTooLarge:
            response = _refuse(exchange, front, _too_large(state))
        except TimeoutError:
            response = _refuse(exchange, front, ApiError(408, f"the body did not come within {BODY_S:g} s"))
        except ConnectionError:
            raise
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG))
            response = _refuse(exchange, front, ApiError(500, "the server failed", kind="api_error"))
        self._name(exchange, response)
        return response

    def _admit(self, request: web.Request, exchange: Exchange, state: State) -> None:
        """Who asks, and what the headers ask for.

        Raises:
            ApiError: the caller has no key and needs one, or a header is wrong.
        """
        headers = request.headers
        secret = _secret(headers.get("Authorization"), headers)
        key = self.keys.find(secret) if secret and self.keys is not None else None
        if key is None and (state.needs_keys or (secret and secret.startswith("tcl-"))):
            what = "a key is needed"
            if secret:
                strange = "this key is not known here, or no longer valid"
                what = "this key is misspelt" if is_misspelt(secret) else strange
            text = f"{what}; send one that `tiercel keys create` made, as `Authorization: Bearer tcl-...`"
            raise ApiError(401, text, kind="authentication_error", code="invalid_api_key")
        exchange.key = key
        if key is None and (origin := headers.get("Origin")) and not is_loopback(urlsplit(origin).hostname or ""):
            # A page of another site, opened in a browser on this machine, must not spend its owner's money.
            raise ApiError(403, "a page of another site asked, without a key", kind="permission_error", code="origin")
        if request.method == "POST" and request.content_type not in (_JSON, "text/json"):
            raise ApiError(415, f"the body's type is not {_JSON}; send `Content-Type: {_JSON}`", code="content_type")
        exchange.traceparent = headers.get("traceparent")
        tier = headers.get("x-tiercel-tier")
        if tier is not None:
            if tier not in _TIERS:
                raise ApiError(400, f"x-tiercel-tier is none of {', '.join(_TIERS)}", param="x-tiercel-tier")
            exchange.forced = _TIERS[tier]
        exchange.headers = _to_provider(exchange.api, headers)
        if headers.get("x-tiercel-capture", "").lower() in ("off", "false", "0", "no"):
            exchange.captured = False

    async def _stream(
        self, request: web.Request, exchange: Exchange, front: Front, events: AsyncGenerator[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_EVENTS)
        async with aclosing(events):
            data = await anext(events, b"")  # what fails before the first byte still gets a status of its own
            exchange.status, exchange.first_byte_s = 200, exchange.elapsed()
            self._name(exchange, response)
            await response.prepare(request)
            end = b""
            try:
                while data:
                    await response.write(data)
                    end = data[-4:]
                    data = await anext(events, b"")
            except (UpstreamError, UnreadableAnswerError) as error:
                failure = error.failure if isinstance(error, UpstreamError) else "unreadable"
                _log.warning("%s broke off a stream: %s", exchange.provider, failure)
                exchange.reason = f"stream {failure}"
                if end.endswith((b"\n\n", b"\r\n\r\n")):
                    told = (
                        _from_upstream(error)
                        if isinstance(error, UpstreamError)
                        else ApiError(502, str(error), kind="api_error", code="frontier_unreadable")
                    )
                    await response.write(front.stream_error(told))
                elif request.transport is not None:
                    request.transport.abort()  # half an event was sent: only a broken connection says so
        return response

    def _name(self, exchange: Exchange, response: web.StreamResponse) -> None:
        """Say on every answer, errors and streams included, who gave it and why."""
        headers = response.headers
        headers["x-tiercel-id"] = exchange.id
        # Client libraries show this one: the provider's, which its support asks for, or else the trace's.
        name = "request-id" if exchange.api == "messages" else "x-request-id"
        headers[name] = exchange.request_id or exchange.id
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

    def _guarded(self, handler: Handler) -> Handler:
        """A handler for callers that may ask at all."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._admit(request, Exchange(api="chat"), self.state)
            except ApiError as error:
                return _error(MESSAGES if "anthropic-version" in request.headers else CHAT, error)
            return await handler(request)

        return self._closing(handle)

    def _closing(self, handler: Handler) -> Handler:
        """A handler whose connection ends with its answer while the gateway drains."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            if self.draining:
                response.force_close()
            return response

        return handle

    async def _models(self, request: web.Request) -> web.Response:
        """GET /v1/models: the workloads, and the models that providers are told to answer with."""
        found = model_list(self.state.models(), anthropic="anthropic-version" in request.headers)
        return web.Response(body=msgspec.json.encode(found), content_type=_JSON)

    async def _model(self, request: web.Request) -> web.Response:
        """GET /v1/models/ID: one of those."""
        anthropic = "anthropic-version" in request.headers
        found = next((m for m in self.state.models() if m[0] == request.match_info["model"]), None)
        if found is None:
            text = "no such model is known here; GET /v1/models lists them, and providers may know others"
            front = MESSAGES if anthropic else CHAT
            return _error(front, ApiError(404, text, code="model_not_found", param="model"))
        return web.Response(body=msgspec.json.encode(model_entry(found, anthropic=anthropic)), content_type=_JSON)

    async def _metrics(self, _: web.Request) -> web.Response:
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

    async def _ready(self, _: web.Request) -> web.Response:
        """GET /readyz: requests are welcome, and what answers them."""
        state = {
            "status": "draining" if self.draining else "ready",
            "workloads": {w.name: w.fingerprint or None for w in self.state.workloads.known},
            "providers": [p.name for p in self.state.settings.providers],
            "capture": {"waiting": self.recorder.waiting, "dropped": self.recorder.dropped},
        }
        body = msgspec.json.encode(state)
        return web.Response(status=503 if self.draining else 200, body=body, content_type=_JSON)


def _secret(authorization: str | None, headers: Any) -> str | None:
    if authorization is not None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
    return headers.get("x-api-key") or headers.get("api-key")


def _too_large(state: State) -> ApiError:
    return ApiError(413, f"the body is larger than {state.settings.server.max_body_mb:g} MB", code="body_too_large")


def _to_provider(api: str, headers: Any) -> dict[str, str] | None:
    """The headers that go along with a request to a provider that speaks its API.

    Raises:
        ApiError: one of them can't be sent on.
    """
    found: dict[str, str] = {}
    for name in _TO_PROVIDER.get(api, ()):
        if values := headers.getall(name, None):
            found[name] = ",".join(values)
            if len(found[name]) > _LONGEST_HEADER or not (found[name].isascii() and found[name].isprintable()):
                raise ApiError(400, f"{name} is too long, or holds more than ASCII text", param=name)
    return found or None


def _refuse(exchange: Exchange, front: Front, error: ApiError) -> web.Response:
    exchange.status, exchange.reason = error.status, exchange.reason if exchange.tier != "none" else error.reason
    exchange.first_byte_s = exchange.elapsed()
    return _error(front, error)


def _error(front: Front, error: ApiError) -> web.Response:
    return web.Response(status=error.status, body=front.error(error), content_type=_JSON, headers=error.headers)


def _from_upstream(error: UpstreamError) -> ApiError:
    upstream = error.status or 0
    refused = error.failure == "refused"
    if refused and 400 <= upstream < 500:
        status = upstream
    else:
        status = 504 if error.failure == "timed out" or (refused and upstream == 504) else 502
    detail = error.detail or {}
    text = detail.get("message") or str(error)
    if upstream in (401, 407):
        text = f"{error}: it does not take this server's key, which the environment sets (not the client)"
    kind = detail.get("type") or _ERROR_KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    failure = error.failure.replace(" ", "_")
    return ApiError(
        status,
        text,
        kind=kind,
        code=detail.get("code") or f"frontier_{failure}",
        param=detail.get("param"),
        headers={} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))},
        reason=f"frontier {error.failure}",
    )
