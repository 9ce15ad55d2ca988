"""Who may ask at all, decided from a request's head alone: before its body is read, and before it costs anything.

A browser is the one client that asks on behalf of strangers. Where no key is needed, pages of other sites are told
apart by `Origin`, and pages whose own name was made to lead to this machine (DNS rebinding) by `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tiercel.gateway._addresses import is_own_network
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.sections import Server, is_loopback
from tiercel.store.key_secrets import is_misspelt

if TYPE_CHECKING:
    from aiohttp import web
    from multidict import CIMultiDictProxy

    from tiercel.store.keys import KeyRing

__all__ = ["admit", "admit_operator", "demand_json", "too_large"]

_JSON = ("application/json", "text/json")
_TO_PROVIDER: dict[str, tuple[str, ...]] = {"messages": ("anthropic-beta",)}
"""Headers that are a part of an API's request: they go with it to a provider that speaks that API, and no others do."""
_LONGEST_HEADER = 1_000
_TIERS = {"auto": None, "student": "student", "frontier": "frontier"}


def admit(request: web.Request, exchange: Exchange, server: Server, keys: KeyRing | None) -> None:
    """Note in `exchange` who asks, and what the headers ask for.

    Args:
        request: its head.
        exchange: is told.
        server: whether keys are needed, and who can reach the gateway.
        keys: that are valid; None for none.

    Raises:
        ApiError: the caller has no key and needs one, or a header is wrong.
    """
    headers = request.headers
    secret = _secret(headers)
    key = keys.find(secret) if secret and keys is not None else None
    if key is None:
        if server.needs_keys or (secret and secret.startswith("tcl-")):
            what = "a key is needed"
            if secret:
                strange = "this key is not known here, or no longer valid"
                what = "this key is misspelt" if is_misspelt(secret) else strange
            text = f"{what}; send one that `tiercel keys create` made, as `Authorization: Bearer tcl-...`"
            raise ApiError(401, text, kind="authentication_error", code="invalid_api_key")
        _refuse_pages(headers, server)
    exchange.key = key
    exchange.headers = _to_provider(exchange.api, headers)
    exchange.traceparent = headers.get("traceparent")
    tier = headers.get("x-tiercel-tier")
    if tier is not None:
        if tier not in _TIERS:
            raise ApiError(400, f"x-tiercel-tier is none of {', '.join(_TIERS)}", param="x-tiercel-tier")
        exchange.forced = _TIERS[tier]
    if headers.get("x-tiercel-capture", "").lower() in ("off", "false", "0", "no"):
        exchange.captured = False


def admit_operator(request: web.Request, exchange: Exchange, server: Server, keys: KeyRing | None) -> None:
    """The same for who wants to see the figures of all: a key needs the permission, where one is needed or sent.

    Raises:
        ApiError: the caller is not admitted, or is no operator.
    """
    admit(request, exchange, server, keys)
    if exchange.key is not None and "operator" not in exchange.key.permissions:
        text = "this key may not see the figures of all; send one that was made with `--permission operator`"
        raise ApiError(403, text, kind="permission_error", code="operators_only")


def demand_json(request: web.Request, most_bytes: int) -> None:
    """Refuse a body that can't be read, before any of it is.

    Args:
        request: its head.
        most_bytes: that a body may have.

    Raises:
        ApiError: its type, its encoding or its length is wrong.
    """
    # A page of another site can send text without asking, but not JSON.
    if request.content_type not in _JSON:
        raise ApiError(415, f"the body's type is not {_JSON[0]}; send `Content-Type: {_JSON[0]}`", code="content_type")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # A few kilobytes that unpack to gigabytes would be paid for by everybody else.
        raise ApiError(415, "the body is compressed; send it as it is", code="content_encoding")
    length = request.content_length
    if length is not None and length > most_bytes:
        raise too_large(most_bytes)


def too_large(most_bytes: int) -> ApiError:
    """The refusal of a body with more than `most_bytes`."""
    return ApiError(413, f"the body is larger than {most_bytes / 2**20:g} MB", code="body_too_large")


def _secret(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("Authorization")
    if authorization is not None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
    return headers.get("x-api-key") or headers.get("api-key")


def _to_provider(api: str, headers: CIMultiDictProxy[str]) -> dict[str, str] | None:
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


def _refuse_pages(headers: Mapping[str, str], server: Server) -> None:
    """Refuse what a page of another site asks for, opened in a browser on this machine.

    It would spend its owner's money, and read what the gateway tells of itself.
    """
    origin = headers.get("Origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise ApiError(403, "a page of another site asked, without a key", kind="permission_error", code="origin")
    host = headers.get("Host", "")
    if not server.insecure_open and not _is_no_public_name(host):
        text = "a gateway without keys was asked by a public name, as a page of another site may do by rebinding it"
        hint = "ask by 127.0.0.1 or localhost, or set require_keys = true in [server] and send a key"
        raise ApiError(403, f"{text}; {hint}", kind="permission_error", code="host")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=64)
def _is_no_public_name(host: str) -> bool:
    """Whether the `Host` of a request is an address, or a name that nobody can register to lead elsewhere."""
    name = _host_of(f"//{host}")
    return not host or (bool(name) and (is_own_network(name) or _is_address(name)))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
