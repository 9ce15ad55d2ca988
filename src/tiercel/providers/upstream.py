"""One provider: where it is and how it is asked, over connections that are kept and used again.

`ProviderSettings` says where it is, `Upstream` sends bytes to it and hands back the bytes that come. Nothing is read
into them on the way: dialects, model names and retries are the caller's. Whatever goes wrong is an `UpstreamError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from tiercel.errors import DataError, MissingExtraError
from tiercel.providers.failures import Failure, UpstreamError, error_detail, retry_after
from tiercel.providers.provider_settings import ProviderSettings, model_of, with_model
from tiercel.providers.reply_headers import passed_on
from tiercel.providers.sealing import Seal, sealed_texts

try:
    import aiohttp
    from multidict import CIMultiDict
    from yarl import URL

    from tiercel.providers._wire import Answer, Target, Wire
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["ProviderSettings", "Reply", "Sending", "Upstream", "with_model"]

CONNECT_S = 10.0
"""Seconds that a connection may take to open, where the whole request has more."""
KEEP_S = 60.0
"""Seconds that an idle connection is kept."""
LARGEST_ANSWER = 256 * 2**20
"""Bytes of an answer that is read whole; a provider that sends more is cut off."""
ANTHROPIC_VERSION = "2023-06-01"
_LONGEST_ERROR = 65_536
"""Bytes of an error's body that are read."""
_SHORTEST_SECRET = 8
"""Characters of a header's value from which on it is taken out of what a provider says."""
_KEPT_TARGETS = 64
_NO_STREAM = frozenset({"application/json", "text/html"})
_IN_DEPLOYMENT = frozenset({"/chat/completions", "/completions", "/embeddings"})
"""What Azure serves below a deployment; the rest names its model in the body alone."""


class Reply:
    """A provider's answer, status 2xx, before its body was read. Close it when you leave it early.

    Attributes:
        status: HTTP status.
    """

    __slots__ = ("_answer", "_first_by", "_seal", "_upstream", "status")

    def __init__(self, upstream: Upstream, answer: Answer, first_by: float | None) -> None:
        self._upstream = upstream
        self._answer = answer
        self._first_by = first_by
        self._seal = Seal(upstream.sealed) if upstream.sealed else None
        self.status = answer.status

    @property
    def content_type(self) -> str:
        """Without parameters; application/octet-stream where it named none."""
        return self._answer.content_type

    @property
    def headers(self) -> dict[str, str]:
        """The headers that may be passed on: ids, times and rate limits; names in lower case."""
        return passed_on(self._answer.headers, self._upstream.secrets)

    async def read(self) -> bytes:
        """The whole body, without the provider's key.

        Raises:
            UpstreamError: it broke off, took too long, or is too large.
        """
        raw = await self._whole()
        return raw if self._seal is None else self._seal.feed(raw) + self._seal.end()

    async def _whole(self) -> bytes:
        raw = bytearray()
        try:
            content = self._answer.content
            while len(raw) <= LARGEST_ANSWER and (chunk := await content.readany()):
                raw += chunk
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._upstream.mapped(error) from None
        if len(raw) > LARGEST_ANSWER:
            self.close()
            what = f"sent more than {LARGEST_ANSWER // 2**20} MB"
            raise self._upstream.error(what, "unreadable", status=self.status, billable=True)
        return bytes(raw)

    async def next(self) -> bytes:
        """The next bytes of the body, without the provider's key, as soon as there are some; none at its end.

        Raises:
            UpstreamError: it broke off, or was silent for too long.
        """
        if self._seal is None:
            return await self._next()
        while chunk := await self._next():
            if told := self._seal.feed(chunk):
                return told
        return self._seal.end()

    async def _next(self) -> bytes:
        try:
            if self._first_by is None:
                return await self._answer.content.readany()
            async with asyncio.timeout_at(self._first_by):
                chunk = await self._answer.content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._upstream.mapped(error) from None
        self._first_by = None
        return chunk

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body's bytes as they come; no more is read while the caller is busy.

        Raises:
            UpstreamError: as `next`.
        """
        while chunk := await self.next():
            yield chunk

    def close(self) -> None:
        """Let the connection go: back to the others where the body was read to its end, else it is closed at once."""
        self._answer.close()


class Sending:
    """A request on its way: `await` it, or use it with `async with`, which closes the reply at the end."""

    __slots__ = ("_asking", "_reply")

    def __init__(self, asking: Coroutine[Any, Any, Reply]) -> None:
        self._asking = asking

    def __await__(self) -> Generator[Any, Any, Reply]:
        return self._asking.__await__()

    async def __aenter__(self) -> Reply:
        self._reply = await self._asking
        return self._reply

    async def __aexit__(self, *_: object) -> None:
        self._reply.close()


class Upstream:
    """Asks one provider; all requests share one pool of connections. Close it, or use it with `async with`.

    Args:
        settings: where it is.
        called: the subject of its errors' texts; "provider NAME" when left out.
    """

    def __init__(self, settings: ProviderSettings, *, called: str | None = None) -> None:
        self.settings = settings
        self._called = called or f"provider {settings.name}"
        self._wire: Wire | None = None
        self._targets: dict[tuple[str, bool, bool], Target] = {}
        self._deployments = (
            settings.kind == "azure" and not settings.url.endswith("/v1") and "/deployments/" not in settings.url
        )
        self._json_headers = self._headers("application/json")
        self._event_headers = self._headers("text/event-stream")
        wait, opening = settings.timeout_s, min(CONNECT_S, settings.timeout_s)
        self._opening = aiohttp.ClientTimeout(connect=wait, sock_connect=opening)
        values = [settings.api_key or "", *settings.headers.values()]
        values += [word for value in settings.headers.values() for word in value.split()]
        secrets = {v for v in values if v and (v == settings.api_key or len(v) >= _SHORTEST_SECRET)}
        self.secrets = tuple(sorted(secrets, key=len, reverse=True))
        """What is taken out of all that the provider says of an error."""
        self.sealed = sealed_texts(settings.api_key, settings.headers)
        """What is taken out of its answers."""

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._wire is not None:
            await self._wire.close()
            self._wire = None
            self._targets.clear()

    def send(
        self,
        path: str,
        body: bytes | None,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Sending:
        """Send a request: POST, or GET where there is no body.

        Args:
            path: of the endpoint, from the base on: /chat/completions, /embeddings, /messages, /models ...
            body: JSON text; goes as it is.
            stream: whether server-sent events are expected.
            headers: sent besides the provider's own, which they can't replace; the caller has chosen them.
            deadline: moment of the loop's clock by which the answer must be whole, or a stream must have begun.

        Raises:
            UpstreamError: when awaited: there is no answer.
        """
        return Sending(self._send(path, body, stream, headers, deadline))

    async def _send(
        self, path: str, body: bytes | None, stream: bool, extra: Mapping[str, str] | None, deadline: float | None
    ) -> Reply:
        wire = self._wire or self._open()
        now = wire.loop.time()
        left = math.inf if deadline is None else deadline - now
        if left <= 0:
            raise self.error("was not asked: no time was left", "timed out")
        opening = self._opening if left >= self.settings.timeout_s - 1 else _opening(left)
        first_by = self._first_by(now, deadline) if stream else None
        try:
            target = None if extra else self._targets.get((path, stream, body is None))
            target = target or self._target(path, body, stream, extra, wire)
            if not stream:
                until = now + min(left, self.settings.timeout_s)
                answer = await wire.ask(target, body, opening=opening, until=until)
            else:
                # A stream may last; only its silences are limited.
                async with asyncio.timeout_at(first_by):
                    answer = await wire.ask(target, body, opening=opening, silence_s=self.settings.timeout_s)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self.mapped(error) from None
        if not 200 <= answer.status < 300:
            try:
                raise await self._refusal(answer)
            finally:
                answer.close()
        if stream and answer.content_type in _NO_STREAM:
            answer.close()
            raise self.error("did not stream its answer", "unreadable", status=answer.status)
        return Reply(self, answer, first_by)

    def _first_by(self, now: float, deadline: float | None) -> float | None:
        """Moment by which a stream must have begun; None for none."""
        wait = self.settings.first_byte_s
        if wait is None:
            return deadline
        return now + wait if deadline is None else min(now + wait, deadline)

    def error(self, what: str, failure: Failure, **more: Any) -> UpstreamError:
        """An error of this provider; `what` holds nothing that was sent to it."""
        return UpstreamError(f"{self._called} {what}", provider=self.settings.name, failure=failure, **more)

    def mapped(self, error: BaseException) -> UpstreamError:
        """What an error of the HTTP library means. The text of these may hold headers; their type says enough."""
        if isinstance(error, TimeoutError):
            sent = not isinstance(error, aiohttp.ConnectionTimeoutError)
            return self.error(f"did not answer within {self.settings.timeout_s:g} s", "timed out", billable=sent)
        sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
        return self.error(f"can't be reached ({type(error).__name__})", "unreachable", billable=sent)

    def _open(self) -> Wire:
        self._wire = Wire(self.settings.max_connections or 0, KEEP_S)
        return self._wire

    def _headers(self, accept: str) -> CIMultiDict[str]:
        settings = self.settings
        headers = CIMultiDict(settings.headers)
        headers["Content-Type"], headers["Accept"] = "application/json", accept
        if settings.kind == "anthropic":
            headers.setdefault("anthropic-version", ANTHROPIC_VERSION)
        if settings.api_key:
            name = {"openai": "Authorization", "azure": "api-key", "anthropic": "x-api-key"}[settings.kind]
            headers[name] = f"Bearer {settings.api_key}" if settings.kind == "openai" else settings.api_key
        return headers

    def _target(
        self, path: str, body: bytes | None, stream: bool, extra: Mapping[str, str] | None, wire: Wire
    ) -> Target:
        """An endpoint; kept for the next request unless it depends on this one."""
        headers = CIMultiDict(extra or {})
        headers.update(self._event_headers if stream else self._json_headers)
        url, depends = self._url(path, body)
        target = Target("GET" if body is None else "POST", url, headers, wire.loop)
        if not (depends or extra) and len(self._targets) < _KEPT_TARGETS:
            self._targets[path, stream, body is None] = target
        return target

    def _url(self, path: str, body: bytes | None) -> tuple[URL, bool]:
        """The URL of an endpoint, and whether it depends on the body."""
        settings, base = self.settings, self.settings.url
        depends = False
        if self._deployments:
            base = f"{base.removesuffix('/openai')}/openai"
            if path in _IN_DEPLOYMENT:
                model, depends = self._deployment(body), settings.model is None
                base += f"/deployments/{quote(model, safe='')}"
        query = f"?{urlencode({'api-version': settings.api_version})}" if settings.api_version else ""
        return URL(f"{base}{path}{query}", encoded=True), depends

    def _deployment(self, body: bytes | None) -> str:
        if self.settings.model:
            return self.settings.model
        model = model_of(body or b"")
        if not model or not model.strip("."):
            raise DataError("the request names no model, which Azure needs as the name of a deployment")
        return model

    async def _refusal(self, answer: Answer) -> UpstreamError:
        raw = bytearray()
        try:
            while len(raw) < _LONGEST_ERROR and (chunk := await answer.content.read(_LONGEST_ERROR)):
                raw += chunk
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        return self.error(
            f"answered {answer.status}",
            "refused",
            status=answer.status,
            retry_after=retry_after(answer.headers),
            headers=passed_on(answer.headers, self.secrets),
            # Of a wrong key providers repeat a part.
            detail=None if answer.status == 401 else error_detail(bytes(raw), self.secrets),
        )


@lru_cache(maxsize=1024)
def _opening_within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=seconds, sock_connect=min(CONNECT_S, seconds))


def _opening(left: float) -> aiohttp.ClientTimeout:
    """How long a connection may take where so many seconds are left; the library counts whole ones above five too."""
    return _opening_within(float(math.ceil(left)) if left > 5 else left)
