"""What configuration says of one provider, and the names that it has for models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload
from urllib.parse import urlsplit

import msgspec

from tiercel.errors import ConfigurationError, DataError
from tiercel.providers.addresses import base_url, fixed_headers, header_key

__all__ = ["ProviderSettings", "model_of", "with_model"]

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """Where a provider is and how it is asked.

    Attributes:
        name: what configuration calls it; shown in errors, logs and metrics.
        url: base of its API, such as https://api.openai.com/v1; a bare https://host gets /v1. Of Azure the resource
            (https://NAME.openai.azure.com), to have the deployment named by the model, or its /openai/v1.
        kind: dialect and form of the key: a bearer token, Azure's `api-key` or Anthropic's `x-api-key`.
        api_key: None to send none. Never shown.
        model: takes the place of whatever model a request names; None to leave it.
        models: the provider's name for a model that a request names; names that are not in it pass unchanged.
        headers: sent with every request. Their values are never shown.
        timeout_s: seconds that an answer may take; of a stream, seconds until its next bytes.
        first_byte_s: seconds until a stream's first bytes; None for `timeout_s`. What comes whole comes late.
        api_version: of Azure's API; needed where the URL is a resource.
        responses: whether it speaks the Responses API itself.
        max_connections: at a time; further requests wait for one. None for no limit.

    Raises:
        ConfigurationError: one of them can't be.
    """

    name: str
    url: str
    kind: Literal["openai", "azure", "anthropic"] = "openai"
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    timeout_s: float = 600.0
    first_byte_s: float | None = None
    api_version: str | None = None
    responses: bool = False
    max_connections: int | None = None

    def __post_init__(self) -> None:
        whose = f"provider {self.name}: its"
        if not self.name.strip():
            raise ConfigurationError("a provider has no name; give each one, such as openai")
        if self.kind not in ("openai", "azure", "anthropic"):
            raise ConfigurationError(f"{whose} kind is {self.kind!r}; choose openai, azure or anthropic")
        for what, seconds in (("timeout_s", self.timeout_s), ("first_byte_s", self.first_byte_s)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ConfigurationError(f"{whose} {what} is {seconds}; give seconds above 0, such as 60")
        if self.max_connections is not None and self.max_connections < 1:
            raise ConfigurationError(f"{whose} max_connections is {self.max_connections}; give 1 or more")
        default = "" if self.kind == "azure" else "/v1"
        object.__setattr__(self, "url", base_url(self.url, whose=whose, default=default))
        object.__setattr__(self, "api_key", header_key(self.api_key, whose=whose))
        object.__setattr__(self, "headers", fixed_headers(self.headers, whose=whose))
        object.__setattr__(self, "model", self.model or None)
        if self.kind == "azure" and not self.url.endswith("/v1") and not self.api_version:
            raise ConfigurationError(f"{whose} api_version is missing; give one, such as 2024-10-21, or a URL in /v1")
        if self.kind != "azure" and self.api_version:
            raise ConfigurationError(f"{whose} api_version is Azure's alone; remove it, or set kind to azure")

    @property
    def host(self) -> str:
        """Host and, where it is not the usual one, port."""
        return urlsplit(self.url).netloc

    def named(self, model: str) -> str:
        """What this provider is asked for when a request names `model`."""
        return self.model or self.models.get(model, model)


class _Model(msgspec.Struct):
    model: str | None = None


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_model = msgspec.json.Decoder(_Model)


@overload
def with_model(body: bytes, settings: ProviderSettings) -> bytes: ...
@overload
def with_model(body: Json, settings: ProviderSettings) -> Json: ...
def with_model(body: bytes | Json, settings: ProviderSettings) -> bytes | Json:
    """A request with the name that the provider has for its model; every other value stays as it was written.

    Args:
        body: JSON text, or that text decoded. It is not changed.
        settings: of the provider.

    Returns:
        `body` itself where the name stays the same.

    Raises:
        DataError: `body` is no JSON object, or its model is no text.
    """
    if settings.model is None and not settings.models:
        return body
    if isinstance(body, dict):
        name = body.get("model")
        wanted = settings.named(name if isinstance(name, str) else "")
        return body if wanted == name or not wanted else {**body, "model": wanted}
    try:
        name = _model.decode(body).model
        wanted = settings.named(name or "")
        if wanted == name or not wanted:
            return body
        # Values stay raw: no number or text is read and written again.
        fields = _fields.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise DataError("the body is no JSON object with a model's name") from None
    fields["model"] = msgspec.Raw(msgspec.json.encode(wanted))
    return msgspec.json.encode(fields)


def model_of(body: bytes) -> str | None:
    """The model that a request names; None where it is no JSON object or names none."""
    try:
        return _model.decode(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
