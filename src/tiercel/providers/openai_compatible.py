"""A client of any API that speaks OpenAI's chat completions: one answer, or a stream relayed as it comes.

`FrontierSettings` says where it is, `OpenAICompatible` asks it. Whatever goes wrong on the way is an `UpstreamError`,
whose text names the host and never the key or what was asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from tiercel.errors import ConfigurationError, MissingExtraError, ProviderError

try:
    import aiohttp
except ImportError:
    raise MissingExtraError("aiohttp", "serve") from None

__all__ = ["Failure", "FrontierSettings", "OpenAICompatible", "UpstreamError"]

Json = dict[str, Any]
Failure = Literal["refused", "timed out", "unreachable", "unreadable"]

CONNECT_S = 10.0
"""Seconds that a connection may take to open, where the whole request has more."""
_ENDPOINT = "/chat/completions"
_LONGEST_ERROR = 65_536
"""Bytes of an error's body that are read."""
_LONGEST_TEXT = 2_000
"""Characters of an error's message that are passed on."""


@dataclass(frozen=True, kw_only=True)
class FrontierSettings:
    """Where the frontier is and how it is asked.

    Attributes:
        url: base of the API, such as https://host/v1. A bare https://host gets /v1; any other path is taken as it is
            (https://openrouter.ai/api/v1), less a /chat/completions at its end (https://api.deepseek.com/chat/completions).
        model: takes the place of the model that a request names; None to leave it.
        api_key: sent as a bearer token; None to send none. Never shown.
        timeout_s: seconds that an answer may take; of a stream, seconds until its next bytes.

    Raises:
        ConfigurationError: the URL, the key or the timeout can't be.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        key = (self.api_key or "").strip()
        if not all("!" <= c <= "~" for c in key):
            raise ConfigurationError(
                "the frontier's key holds blanks or other characters that no header can carry; "
                "check the environment variable that sets it"
            )
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigurationError(f"the frontier's timeout is {self.timeout_s}; give seconds above 0, such as 60")
        object.__setattr__(self, "url", _base(self.url))
        object.__setattr__(self, "api_key", key or None)
        object.__setattr__(self, "model", self.model or None)

    @property
    def endpoint(self) -> str:
        """The URL that is posted to."""
        return self.url + _ENDPOINT

    @property
    def host(self) -> str:
        """Host and, where it is not the usual one, port."""
        return urlsplit(self.url).netloc


def _base(url: str) -> str:
    """The base of an API's URL; what is wrong with it is said without repeating it, since it may hold a secret."""
    hint = "give its base, such as https://api.openai.com/v1"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"the frontier's URL can't be read; {hint}") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"the frontier's URL does not begin with http:// or https://; {hint}")
    if not host or any(c.isspace() for c in parts.netloc + parts.path):
        raise ConfigurationError(f"the frontier's URL names no host, or has a blank in it; {hint}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"the frontier's URL holds a user, a query or a fragment, which are not sent; {hint}")
    path = parts.path.rstrip("/")
    path = path.removesuffix(_ENDPOINT) if path.endswith(_ENDPOINT) else path or "/v1"
    return SplitResult(parts.scheme, parts.netloc, path.rstrip("/"), "", "").geturl()


class UpstreamError(ProviderError):
    """The frontier refused a request, failed, or did not answer.

    Attributes:
        failure: what went wrong; "refused" is any HTTP status but 2xx.
        detail: `message`, `type`, `param` and `code` of the error as the provider worded it, without the key. None
            where there is none, or where it speaks of the key itself (401). It may quote the request: do not log it.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        failure: Failure,
        status: int | None = None,
        retry_after: float | None = None,
        detail: Json | None = None,
        billable: bool = False,
    ) -> None:
        super().__init__(message, provider=provider, status=status, retry_after=retry_after)
        self.failure: Failure = failure
        self.detail = detail
        self.billable = billable

    def __reduce__(self) -> tuple[object, ...]:
        names = ("provider", "failure", "status", "retry_after", "detail", "billable")
        return _upstream_error, (str(self), {name: getattr(self, name) for name in names})


def _upstream_error(message: str, state: dict[str, Any]) -> UpstreamError:
    return UpstreamError(message, **state)


class OpenAICompatible:
    """Asks one API; all requests share one pool of connections. Close it, or use it with `async with`.

    Args:
        settings: where it is.
    """

    def __init__(self, settings: FrontierSettings) -> None:
        self.settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> OpenAICompatible:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(self, body: Json) -> Json:
        """The answer to a chat completion request, as the provider wrote it.

        Args:
            body: the request; its model is replaced when the settings name one.

        Raises:
            UpstreamError: there is no answer.
        """
        timeout = aiohttp.ClientTimeout(total=self.settings.timeout_s, sock_connect=CONNECT_S)
        async with self._post(body, "application/json", timeout) as response:
            raw = await response.read()
        try:
            answer = msgspec.json.decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._error(
                "answered with something that is no JSON object", "unreadable", status=response.status, billable=True
            )
        return answer

    async def stream(self, body: Json) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer's server-sent events as they come; no more is read while the caller is busy.

        Args:
            body: as for `complete`, with `stream` set.

        Raises:
            UpstreamError: there is no answer, or, later, no more of it.
        """
        # A stream may last; only its silences are limited.
        silence = self.settings.timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_S, silence), sock_read=silence)
        async with self._post(body, "text/event-stream", timeout) as response:
            if response.content_type in ("application/json", "text/html"):
                raise self._error("did not stream its answer", "unreadable", status=response.status)
            async for chunk in response.content.iter_any():
                yield chunk

    @asynccontextmanager
    async def _post(
        self, body: Json, accept: str, timeout: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        settings = self.settings
        headers = {"Content-Type": "application/json", "Accept": accept}
        if settings.api_key:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        data = msgspec.json.encode(body | {"model": settings.model} if settings.model else body)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        try:
            # A redirect could carry the request, and with it the key, to another host.
            request = self._session.post(
                settings.endpoint, data=data, headers=headers, timeout=timeout, allow_redirects=False
            )
            async with request as response:
                if not 200 <= response.status < 300:
                    raise await self._refusal(response)
                yield response
        except ProviderError:
            raise
        except TimeoutError as error:
            sent = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise self._error(f"did not answer within {settings.timeout_s:g} s", "timed out", billable=sent) from None
        except (aiohttp.ClientError, OSError) as error:
            # The text of these may hold headers; their type says enough.
            sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
            raise self._error(f"can't be reached ({type(error).__name__})", "unreachable", billable=sent) from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> UpstreamError:
        raw = bytearray()
        try:
            while len(raw) < _LONGEST_ERROR and (chunk := await response.content.read(_LONGEST_ERROR)):
                raw += chunk
        except (aiohttp.ClientError, OSError):
            pass
        return self._error(
            f"answered {response.status}",
            "refused",
            status=response.status,
            retry_after=_retry_after(response.headers.get("Retry-After-Ms"), response.headers.get("Retry-After")),
            detail=None if response.status == 401 else self._detail(bytes(raw)),
        )

    def _detail(self, raw: bytes) -> Json | None:
        try:
            found = msgspec.json.decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        found = found.get("error", found) if isinstance(found, dict) else None
        if isinstance(found, str):
            found = {"message": found}
        if not isinstance(found, dict) or not isinstance(found.get("message"), str):
            return None
        key = self.settings.api_key
        detail: Json = {}
        for name in ("message", "type", "param", "code"):
            value = found.get(name)
            if isinstance(value, str):
                value = (value.replace(key, "[key]") if key else value)[:_LONGEST_TEXT]
            detail[name] = value if isinstance(value, str | int) else None
        return detail

    def _error(self, what: str, failure: Failure, **more: Any) -> UpstreamError:
        host = self.settings.host
        return UpstreamError(f"the frontier {host} {what}", provider=host, failure=failure, **more)


def _retry_after(milliseconds: str | None, seconds_or_date: str | None) -> float | None:
    """Seconds to wait, from the two headers that may say so."""
    try:
        if milliseconds:
            wait = float(milliseconds) / 1000
        elif seconds_or_date and seconds_or_date.strip()[:1].isalpha():
            wait = max(0.0, parsedate_to_datetime(seconds_or_date).timestamp() - time.time())
        else:
            wait = float(seconds_or_date or "")
    except ValueError:
        return None
    return wait if math.isfinite(wait) and wait >= 0 else None
