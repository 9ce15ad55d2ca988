"""A client of any API that speaks OpenAI's chat completions: one answer, or a stream relayed as it comes.

`FrontierSettings` says where it is, `OpenAICompatible` asks it. Whatever goes wrong on the way is an `UpstreamError`,
whose text names the host and never the key or what was asked.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tiercel.errors import ConfigurationError
from tiercel.providers.addresses import base_url, header_key
from tiercel.providers.failures import Failure, UpstreamError
from tiercel.providers.upstream import ProviderSettings, Upstream, with_model

__all__ = ["Failure", "FrontierSettings", "OpenAICompatible", "UpstreamError"]

Json = dict[str, Any]

_ENDPOINT = "/chat/completions"


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
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigurationError(f"the frontier's timeout is {self.timeout_s}; give seconds above 0, such as 60")
        object.__setattr__(self, "url", base_url(self.url))
        object.__setattr__(self, "api_key", header_key(self.api_key))
        object.__setattr__(self, "model", self.model or None)

    @property
    def endpoint(self) -> str:
        """The URL that is posted to."""
        return self.url + _ENDPOINT

    @property
    def host(self) -> str:
        """Host and, where it is not the usual one, port."""
        return urlsplit(self.url).netloc


class OpenAICompatible:
    """Asks one API; all requests share one pool of connections. Close it, or use it with `async with`.

    Args:
        settings: where it is.
    """

    def __init__(self, settings: FrontierSettings) -> None:
        self.settings = settings
        host = settings.host
        self._upstream = Upstream(
            ProviderSettings(
                name=host,
                url=settings.endpoint,  # its base is then as it is, with no /v1 put to it
                api_key=settings.api_key,
                model=settings.model,
                timeout_s=settings.timeout_s,
            ),
            called=f"the frontier {host}",
        )

    async def __aenter__(self) -> OpenAICompatible:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def complete(self, body: Json) -> Json:
        """The answer to a chat completion request, as the provider wrote it.

        Args:
            body: the request; its model is replaced when the settings name one.

        Raises:
            UpstreamError: there is no answer.
        """
        async with self._upstream.send(_ENDPOINT, self._body(body)) as reply:
            raw = await reply.read()
        try:
            answer = msgspec.json.decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._upstream.error(
                "answered with something that is no JSON object", "unreadable", status=reply.status, billable=True
            )
        return answer

    async def stream(self, body: Json) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer's server-sent events as they come; no more is read while the caller is busy.

        Args:
            body: as for `complete`, with `stream` set.

        Raises:
            UpstreamError: there is no answer, or, later, no more of it.
        """
        request = self._upstream.send(_ENDPOINT, self._body(body), stream=True)
        async with request as reply, aclosing(reply.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    def _body(self, body: Json) -> bytes:
        return msgspec.json.encode(with_model(body, self._upstream.settings))
