"""Checks of what configuration says of a provider: its URL, its key, its headers.

What is wrong is said without repeating it, since it may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from tiercel.errors import ConfigurationError

__all__ = ["base_url", "fixed_headers", "header_key"]

_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/responses")
"""Ends of a URL that name one endpoint rather than the base of all."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?")
_OWN = re.compile(
    "accept|accept-encoding|api-key|authorization|connection|content-length|content-type|cookie|expect|host|keep-alive|"
    "proxy-authorization|te|trailer|transfer-encoding|upgrade|x-api-key"
)
"""Headers that the client of a provider sets itself."""


def base_url(url: str, *, whose: str = "the frontier's", default: str = "/v1") -> str:
    """The base of an API's URL, without a slash at its end.

    Args:
        url: https://host gets `default`; any other path is taken as it is, less an endpoint such as /chat/completions.
        whose: begins the text of an error.
        default: path where the URL has none.

    Raises:
        ConfigurationError: it is no URL, or holds what is not sent.
    """
    hint = "give its base, such as https://api.openai.com/v1"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{whose} URL can't be read; {hint}") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{whose} URL does not begin with http:// or https://; {hint}")
    if not host or any(c.isspace() for c in parts.netloc + parts.path):
        raise ConfigurationError(f"{whose} URL names no host, or has a blank in it; {hint}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"{whose} URL holds a user, a query or a fragment, which are not sent; {hint}")
    path = parts.path.rstrip("/")
    ending = next((e for e in _ENDPOINTS if path.endswith(e)), "")
    path = path.removesuffix(ending) if ending else path or default
    return SplitResult(parts.scheme, parts.netloc, path.rstrip("/"), "", "").geturl()


def header_key(key: str | None, *, whose: str = "the frontier's") -> str | None:
    """A key without the blanks around it; None for none.

    Raises:
        ConfigurationError: no header can carry it.
    """
    key = (key or "").strip()
    if not all("!" <= c <= "~" for c in key):
        raise ConfigurationError(
            f"{whose} key holds blanks or other characters that no header can carry; "
            "check the environment variable that sets it"
        )
    return key or None


def fixed_headers(headers: Mapping[str, str], *, whose: str) -> dict[str, str]:
    """Extra headers from configuration.

    Raises:
        ConfigurationError: a name or a value can't be, or the header is one that the program sets itself.
    """
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{whose} headers hold a name that no header can have; use letters and dashes")
        if _OWN.fullmatch(name.lower()):
            raise ConfigurationError(f"{whose} header {name} is set by tiercel itself; remove it (a key is `api_key`)")
        if not _VALUE.fullmatch(value.strip()):
            raise ConfigurationError(f"{whose} header {name} has an empty value, or one that no header can carry")
        checked[name] = value.strip()
    return checked
