"""What the head of a provider's answer tells the client: the provider's id of it, times, and what its limits leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["passed_on", "request_id"]

_NAMES = frozenset(
    (
        "apim-request-id",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "x-request-id",
    )
)
_BEGIN = ("x-ratelimit-", "anthropic-ratelimit-")
_IDS = ("x-request-id", "request-id", "apim-request-id")
_LONGEST = 200
"""Characters of a name, and of a value, that are passed on."""
_MOST = 40
"""Headers that are passed on; the largest providers send some fifteen."""


def passed_on(headers: Mapping[str, str], secrets: Sequence[str] = ()) -> dict[str, str]:
    """The headers that may be passed on, names in lower case: ids, times and rate limits.

    Args:
        headers: of the answer, as they came.
        secrets: texts that no header that is passed on may hold.
    """
    found: dict[str, str] = {}
    for title, value in headers.items():
        name = title.lower()
        known = name in _NAMES or name.startswith(_BEGIN)
        if known and len(name) <= _LONGEST and _is_fit(value, secrets) and len(found) < _MOST:
            found[name] = value
    return found


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of a request, from headers of `passed_on`; None where it gave none."""
    return next((headers[name] for name in _IDS if headers.get(name)), None)


def _is_fit(value: str, secrets: Sequence[str]) -> bool:
    if len(value) > _LONGEST or not (value.isascii() and value.isprintable()):
        return False
    return not any(secret in value for secret in secrets)
