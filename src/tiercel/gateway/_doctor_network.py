"""Checks of what is beyond this program: its port, and the providers, each asked for its list of models."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tiercel.gateway.finding import Finding, found
from tiercel.gateway.sections import Provider, Settings

__all__ = ["port", "providers"]

PATIENCE_S = 10.0
"""Seconds that a provider has for its list of models."""
SKEW_S = 90.0
"""Seconds between two clocks from which on one is wrong, and not only slow."""
LARGEST = 4_000_000
"""Bytes of a list of models that are read."""


def port(settings: Settings) -> Finding:
    """See that the gateway can listen where the settings say, or already does."""
    host, number = settings.server.host, settings.server.port
    shown = f"{host}:{number}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return found("port", "error", f"{host} is no address of this machine; set host in [server]")
    except OSError as error:
        return _taken(settings, shown, error)
    return found("port", "ok", f"{shown} is free" if number else "any free one will be taken")


def _taken(settings: Settings, shown: str, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        running = asyncio.run(_running(settings))
        if running:
            return found("port", "ok", f"{shown} is held by a running Tiercel {running}")
        return found("port", "error", f"{shown} is held by another program; stop it, or set port in [server]")
    if error.errno == errno.EACCES:
        return found("port", "error", f"{shown} needs privileges; set a port from 1024 on in [server]")
    why = (error.strerror or type(error).__name__).lower()
    return found("port", "error", f"can't listen at {shown} ({why}); set host and port in [server]")


async def _running(settings: Settings) -> str | None:
    """The version of the gateway that holds the port; None where another program does."""
    import aiohttp

    host = settings.server.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
            session.get(f"http://{host}:{settings.server.port}/healthz", allow_redirects=False) as response,
        ):
            state = json.loads(await response.content.read(65_536))
            return str(state["version"]) if {"status", "version"} <= set(state) else None
    except (aiohttp.ClientError, OSError, ValueError, TypeError, TimeoutError):
        return None


def providers(settings: Settings, *, offline: bool) -> Iterator[Finding]:
    """Ask all providers for their models at once; each gets one line."""
    if offline:
        yield from (found(f"provider {p.name}", "skipped", "not asked with --offline") for p in settings.providers)
    elif settings.providers:
        yield from asyncio.run(_ask_all(settings.providers))


async def _ask_all(asked: tuple[Provider, ...]) -> list[Finding]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return list(await asyncio.gather(*(_ask(session, provider) for provider in asked)))


async def _ask(session: Any, provider: Provider) -> Finding:
    import aiohttp

    check = f"provider {provider.name}"
    url, started = models_url(provider), time.perf_counter()
    host = urlsplit(url).netloc
    try:
        # A redirect could carry the key to another host.
        async with session.get(url, headers=_headers(provider), allow_redirects=False) as response:
            body = await response.content.read(LARGEST)
            took = (time.perf_counter() - started) * 1000
            status, skew = response.status, _skew(response.headers)
    except TimeoutError:
        return found(check, "error", f"{host} does not answer within {PATIENCE_S:g} s; check url and the network")
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
        return found(check, "error", f"{host} has a certificate that this machine does not trust; check url and clock")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return found(check, "error", f"{host} can't be reached ({_why(error)}); check url and the network")
    if skew is not None and abs(skew) > SKEW_S and status < 400:
        text = f"{host} answers; its clock and this machine's are {abs(skew):,.0f} s apart; set this machine's clock"
        return found(check, "warning", text)
    return _judged(provider, check, host, status, body, took)


def _judged(provider: Provider, check: str, host: str, status: int, body: bytes, took: float) -> Finding:
    if status in (401, 403):
        source = provider.key_env or provider.key_file or "no key"
        return found(check, "error", f"{host} does not take the key ({status}, {source}); put a valid one there")
    if 300 <= status < 400:
        return found(check, "error", f"{host} redirects to elsewhere, which is not followed; give the final url")
    if status in (404, 405):
        return found(check, "warning", f"{host} answers, and lists no models ({status}); check the path of url")
    if status >= 400:
        return found(check, "warning", f"{host} answers with {status}; try again later")
    names = _names(body)
    if names is None:
        return found(check, "warning", f"{host} answers, but not with a list of models; check the path of url")
    if provider.model and names and provider.model not in names and provider.kind != "azure":
        return found(check, "warning", f"{host} answers, and does not list {provider.model}; check model")
    return found(check, "ok", f"{host} answers, {len(names)} models, {took:.0f} ms")


def models_url(provider: Provider) -> str:
    """Where a provider lists its models."""
    from tiercel.providers.openai_compatible import FrontierSettings

    parts = urlsplit(provider.url)
    if provider.kind == "azure" and not parts.path.rstrip("/").endswith("/v1"):
        return f"{parts.scheme}://{parts.netloc}/openai/models?api-version={provider.api_version}"
    return f"{FrontierSettings(url=provider.url).url}/models"


def _headers(provider: Provider) -> dict[str, str]:
    headers = {name: value.reveal() for name, value in provider.headers.items()}
    if provider.kind == "anthropic":
        headers["anthropic-version"] = "2023-06-01"
    if provider.api_key is not None:
        key = provider.api_key.reveal()
        name = {"anthropic": "x-api-key", "azure": "api-key"}.get(provider.kind, "authorization")
        headers[name] = f"Bearer {key}" if name == "authorization" else key
    return headers


def _names(body: bytes) -> list[str] | None:
    try:
        listed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        return None
    return [item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _skew(headers: Mapping[str, str]) -> float | None:
    """Seconds by which a server's clock is ahead of this machine's; None where it does not say."""
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp() - time.time()
    except (KeyError, ValueError, TypeError):
        return None


def _why(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    return str(getattr(cause, "strerror", None) or type(error).__name__).lower()
