"""An OpenAI-compatible server for one bundle: the student answers where the gate is sure, the frontier the rest.

POST /v1/chat/completions   whole or as a stream; every answer says in x-tiercel-* headers who gave it and why
GET  /v1/models             the student, and the frontier's model where the settings name one
GET  /healthz               that it is up, and what it serves

`serve` blocks until it is told to stop; `make_app` is for other servers and for tests. Logs hold no content.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from contextvars import ContextVar
from pathlib import Path

import msgspec

from tiercel._version import __version__
from tiercel.errors import ConfigurationError, DataError, MissingExtraError
from tiercel.flows.bundle import Answered, Bundle, load
from tiercel.gateway.chat import (
    TOO_DEEP,
    breaks_tools,
    completion,
    error_object,
    event_stream,
    read_request,
    stops_inside,
    why_frontier,
)
from tiercel.providers.openai_compatible import FrontierSettings, OpenAICompatible, UpstreamError
from tiercel.types import Answer, Message

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["make_app", "serve"]

LARGEST_BODY = 10 * 1024 * 1024
LARGEST_BATCH = 32
DRAIN_S = 30.0
"""Seconds that requests in flight get to end once the server is told to stop."""
NO_FRONTIER = (
    "this request needs the frontier ({reason}), and none is configured; start the server with --frontier-url "
    "(and --frontier-model), and put its key into the environment variable TIERCEL_FRONTIER_KEY"
)

_log = logging.getLogger("tiercel.gateway")
_JSON = "application/json"
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_answered: ContextVar[Answered | None] = ContextVar("answered", default=None)
"""What was decided on the request of this task; aiohttp runs each request in a task of its own."""
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class _Desk:
    """Has a bundle answer off the event loop; requests that come while it is busy are answered together next.

    Args:
        bundle: that answers.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._waiting: deque[tuple[Sequence[Message], asyncio.Future[Answered]]] = deque()
        self._busy = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tiercel-student")

    async def answer(self, messages: Sequence[Message]) -> Answered:
        """What the bundle says to a request."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if not self._busy:
            self._next()
        return await future

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        batch: list[tuple[Sequence[Message], asyncio.Future[Answered]]] = []
        while self._waiting and len(batch) < LARGEST_BATCH:
            messages, future = self._waiting.popleft()
            if not future.done():  # its client may be gone
                batch.append((messages, future))
        self._busy = bool(batch)
        if not batch:
            return
        job = asyncio.get_running_loop().run_in_executor(self._executor, self._work, [m for m, _ in batch])

        def done(job: asyncio.Future[list[Answered]]) -> None:
            for (_, future), answered in zip(batch, job.result(), strict=True):
                if not future.done():
                    future.set_result(answered)
            self._next()

        job.add_done_callback(done)

    def _work(self, requests: list[Sequence[Message]]) -> list[Answered]:
        try:
            return self._bundle.answer_many(requests)
        except Exception as error:
            if len(requests) > 1:  # only the one that fails is to be passed on
                return [self._work([request])[0] for request in requests]
            _log.error("the student failed: %s", type(error).__name__)
            return [_passed_on("student failed")]


def _passed_on(reason: str) -> Answered:
    return Answered(tier="frontier", answer=None, confidence=0.0, latency_ms=0.0, reason=reason)


class _Gateway:
    """The handlers and what they share.

    Args:
        bundle: that answers.
        frontier: that answers the rest; None for none.
    """

    def __init__(self, bundle: Bundle, frontier: OpenAICompatible | None) -> None:
        self.key = bundle.manifest.reader.key
        self.fingerprint = self.key.fingerprint
        self.name = f"tiercel/{self.fingerprint}"
        self.created = int((bundle.folder / "manifest.json").stat().st_mtime)
        self.frontier = frontier
        self.desk = _Desk(bundle)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        asked = read_request(await request.read())
        reason = why_frontier(asked, self.key)
        if reason is None and asked.messages is not None:
            answered = await self.desk.answer(asked.messages)
        else:
            answered = _passed_on(reason or "another workload")
        if answered.tool_calls and asked.body.get("tool_choice") == "none":
            answered = _passed_on("tool choice")
        elif answered.tool_calls and breaks_tools(asked, answered.tool_calls):
            answered = _passed_on("changed tools")
        elif answered.answer and stops_inside(asked, answered.answer):
            answered = _passed_on("stop text")
        _answered.set(answered)
        if answered.tier == "student":
            answer = Answer(content=answered.answer, tool_calls=answered.tool_calls)
            if asked.stream:
                return web.Response(body=event_stream(asked, answer, self.name), headers=_EVENTS)
            return web.Response(body=completion(asked, answer, self.name), content_type=_JSON)
        if self.frontier is None:
            # Asking again would not help, and OpenAI's clients would do so after a 503.
            text = NO_FRONTIER.format(reason=answered.reason)
            return _error(503, text, "api_error", "frontier_not_configured", headers={"x-should-retry": "false"})
        if asked.stream:
            return await self._relay(request, self.frontier, asked.body)
        completed = await self.frontier.complete(asked.body)
        return web.Response(body=msgspec.json.encode(completed), content_type=_JSON)

    async def _relay(
        self, request: web.Request, frontier: OpenAICompatible, body: dict[str, object]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_EVENTS)
        async with aclosing(frontier.stream(body)) as chunks:
            chunk = await anext(chunks, b"")  # what fails before the first byte still gets a status of its own
            await response.prepare(request)
            end = b""
            try:
                while chunk:
                    await response.write(chunk)
                    end = (end + chunk)[-4:]
                    chunk = await anext(chunks, b"")
            except UpstreamError as error:
                _log.warning("the frontier broke off a stream: %s", error.failure)
                if end.endswith((b"\n\n", b"\r\n\r\n")):
                    await response.write(b"data: " + error_object(str(error), "api_error", _code(error)) + b"\n\n")
                elif request.transport is not None:
                    request.transport.abort()  # half an event was sent: only a broken connection says so
        return response

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models."""
        names = [(self.name, "tiercel")]
        if self.frontier is not None and self.frontier.settings.model:
            names.append((self.frontier.settings.model, "frontier"))
        data = [{"id": n, "object": "model", "created": self.created, "owned_by": owner} for n, owner in names]
        return web.Response(body=msgspec.json.encode({"object": "list", "data": data}), content_type=_JSON)

    async def health(self, _: web.Request) -> web.Response:
        """GET /healthz."""
        state = {
            "status": "ok",
            "version": __version__,
            "bundle": self.fingerprint,
            "frontier": self.frontier is not None,
        }
        return web.Response(body=msgspec.json.encode(state), content_type=_JSON)

    async def name_tier(self, _: web.Request, response: web.StreamResponse) -> None:
        """Say on every response to a chat, errors and streams included, who was to answer and why."""
        answered = _answered.get()
        if answered is not None:
            response.headers["x-tiercel-tier"] = answered.tier
            response.headers["x-tiercel-confidence"] = f"{answered.confidence:.4f}"
            response.headers["x-tiercel-reason"] = answered.reason
            response.headers["x-tiercel-bundle"] = self.fingerprint


def make_app(bundle: Bundle, frontier: FrontierSettings | None = None) -> web.Application:
    """The server as an aiohttp application; run it with `handler_cancellation`, so that clients who leave are noticed.

    Args:
        bundle: that answers.
        frontier: that answers the rest; None to refuse the rest with 503.
    """
    upstream = OpenAICompatible(frontier) if frontier else None
    gateway = _Gateway(bundle, upstream)

    async def resources(_: web.Application) -> AsyncIterator[None]:
        yield
        gateway.desk.close()
        if upstream is not None:
            await upstream.close()

    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_guard])
    app.router.add_post("/v1/chat/completions", gateway.chat)
    app.router.add_get("/v1/models", gateway.models)
    app.router.add_get("/healthz", gateway.health)
    app.on_response_prepare.append(gateway.name_tier)
    app.cleanup_ctx.append(resources)
    return app


def serve(bundle_folder: Path, host: str, port: int, frontier: FrontierSettings | None, threads: int | None) -> None:
    """Serve a bundle until SIGINT or SIGTERM; requests in flight are then answered, a second signal ends at once.

    Args:
        bundle_folder: a bundle, or the folder of a pilot that holds one.
        host: address to listen at.
        port: 0 for any that is free; the log names it.
        frontier: that answers the rest; None to refuse the rest with 503.
        threads: of an encoder; None for all cores.

    Raises:
        BundleError: there is no bundle, or it can't be read.
        ConfigurationError: the server can't listen there.
    """
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"--port is {port}; give one from 0 (any that is free) to 65535")
    bundle = load(bundle_folder, threads=threads)
    if not _log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _log.addHandler(handler)
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(make_app(bundle, frontier), host, port, bundle, frontier))


async def _serve(app: web.Application, host: str, port: int, bundle: Bundle, frontier: FrontierSettings | None) -> None:
    foreign = _log.getChild("http")
    foreign.addFilter(_without_content)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, logger=foreign, shutdown_timeout=DRAIN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"can't listen at {host}:{port} ({why}); choose another --host or --port"
            ) from None
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_signal() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            stop.set()

        with suppress(NotImplementedError):  # Windows: a KeyboardInterrupt ends it
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, on_signal)
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        _log.info("serving %s at http://%s:%s/v1", bundle.folder, shown, address[1])
        _log.info("the frontier is %s", frontier.host if frontier else "not configured: what it has to answer gets 503")
        if frontier and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
            _log.warning("whoever reaches this address can use the frontier with this server's key")
        await stop.wait()
        _log.info("stopping; requests in flight have %g s", DRAIN_S)
    finally:
        await runner.cleanup()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever is raised into an error in OpenAI's form, and log one line a request."""
    started = time.perf_counter()
    status = 499  # the client left
    try:
        response = await _handled(request, handler)
        status = response.status
    finally:
        answered = _answered.get()
        if answered is not None or status >= 400:
            _log.info(
                "%s tier=%s reason=%r confidence=%.4f %.1f ms",
                status,
                answered.tier if answered else "none",
                answered.reason if answered else "not read",
                answered.confidence if answered else 0.0,
                (time.perf_counter() - started) * 1000,
            )
    return response


async def _handled(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except DataError as error:
        return _error(400, str(error), "invalid_request_error", None)
    except RecursionError:
        return _error(400, TOO_DEEP, "invalid_request_error", None)
    except UpstreamError as error:
        return _upstream_error(error)
    except web.HTTPRequestEntityTooLarge:
        text = f"the body is larger than {LARGEST_BODY // 1024 // 1024} MB"
        return _error(413, text, "invalid_request_error", "body_too_large")
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        text = f"{error.reason}: this server has POST /v1/chat/completions, GET /v1/models and GET /healthz"
        return _error(error.status, text, "invalid_request_error", None, headers=allow)
    except ConnectionError:
        raise
    except Exception as error:
        _log.error("a request failed: %s", type(error).__name__)
        return _error(500, "the server failed", "api_error", None)


def _upstream_error(error: UpstreamError) -> web.Response:
    upstream = error.status or 0
    refused = error.failure == "refused"
    if refused and 400 <= upstream < 500:
        status = upstream
    else:
        status = 504 if error.failure == "timed out" or (refused and upstream == 504) else 502
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    detail = error.detail or {}
    text = detail.get("message") or str(error)
    if upstream in (401, 407):
        text = f"{error}: it does not take this server's key, which the environment sets (not the client)"
    kind = detail.get("type") or _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return _error(status, text, kind, detail.get("code") or _code(error), detail.get("param"), headers=headers)


def _code(error: UpstreamError) -> str:
    return f"frontier_{error.failure.replace(' ', '_')}"


def _error(
    status: int,
    message: str,
    kind: str,
    code: str | None,
    param: str | None = None,
    *,
    headers: dict[str, str] | None = None,
) -> web.Response:
    body = error_object(message, kind, code, param)
    return web.Response(status=status, body=body, content_type=_JSON, headers=headers)


def _without_content(record: logging.LogRecord) -> bool:
    """Keep of an exception that aiohttp logs its type alone: its text may quote the request."""
    if record.exc_info and record.exc_info[0] is not None:
        record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
    record.exc_info, record.exc_text = None, None
    return True
