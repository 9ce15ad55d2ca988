"""Errors of OpenAI's API as Anthropic's API words them, and back."""

from __future__ import annotations

from typing import Any

from tiercel.providers._fields import Json

__all__ = ["CUT_OFF", "anthropic_error", "openai_error", "status_of_error"]

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP status of each type of error of Anthropic's API."""
_TYPES = {status: kind for kind, status in _STATUSES.items()} | {408: "timeout_error", 503: "overloaded_error"}
_OPENAI_TYPES = {
    "insufficient_quota": "billing_error",
    "requests": "rate_limit_error",
    "server_error": "api_error",
    "tokens": "rate_limit_error",
}
"""Types of OpenAI's own that a stream may end with, where no status is there to go by."""
_CHAT_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CUT_OFF: Json = {
    "error": {
        "message": "the provider's stream ended before its answer did",
        "type": "api_error",
        "param": None,
        "code": None,
    }
}
"""What a stream without its closing events is said to end with, in OpenAI's words."""
_UNTOLD = "the provider gave no reason"


def anthropic_error(error: object, status: int | None = None) -> Json:
    """An error of OpenAI's API as one of Anthropic's.

    Args:
        error: the body {"error": {...}}, or anything: what can't be read gives an error without a reason.
        status: HTTP status; None within a stream, where the error's own words decide.
    """
    inner = _inner(error)
    kind = _kind(inner, status)
    found: Json = {"type": "error", "error": {"type": kind, "message": _message(inner)}}
    request_id = error.get("request_id") if isinstance(error, dict) else None
    return found | ({"request_id": request_id} if isinstance(request_id, str) else {})


def openai_error(error: object, status: int | None = None) -> Json:
    """An error of Anthropic's API as one of OpenAI's; the type that it had there becomes its `code`.

    Args:
        error: the body {"type": "error", "error": {...}}, or anything: what can't be read gives an error without a
            reason.
        status: HTTP status; None within a stream, where the error's own words decide.
    """
    inner = _inner(error)
    kind = _kind(inner, status)
    status = status or _STATUSES[kind]
    chat = _CHAT_TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return {"error": {"message": _message(inner), "type": chat, "param": None, "code": kind}}


def status_of_error(error: object) -> int:
    """The HTTP status that an error within a stream would have had."""
    return _STATUSES[_kind(_inner(error), None)]


def _inner(error: object) -> dict[str, Any]:
    found = error.get("error", error) if isinstance(error, dict) else error
    if isinstance(found, str):
        return {"message": found}
    return found if isinstance(found, dict) else {}


def _message(inner: dict[str, Any]) -> str:
    message = inner.get("message")
    return message if isinstance(message, str) and message else _UNTOLD


def _kind(inner: dict[str, Any], status: int | None) -> str:
    """The type that Anthropic's API has for it."""
    words = [word for name in ("code", "type") if isinstance(word := inner.get(name), str)]
    for word in words:
        # A type of its own that a translation carried here, unless the status says otherwise.
        if word in _STATUSES and (status is None or _STATUSES[word] == status or _TYPES.get(status) == word):
            return word
        if word == "api_error" and status == 503:  # unavailable for another reason than too much load
            return word
    if status is not None:
        return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return next((_OPENAI_TYPES[word] for word in words if word in _OPENAI_TYPES), "api_error")
