"""What went wrong, as the error that a client gets.

Content stays out of the log, also out of its tracebacks: they name the lines that failed, not the values.
"""

from __future__ import annotations

import logging
import math
import traceback

from tiercel.errors import UnreadableAnswerError
from tiercel.gateway.exchange import ApiError
from tiercel.providers.failures import UpstreamError

__all__ = ["broken_stream", "failed", "from_upstream"]

_ERROR_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_LONGEST_WAIT_S = 86_400

_log = logging.getLogger("tiercel.gateway")


def failed(error: Exception) -> ApiError:
    """The error that stands for a mistake of the gateway's own, which is logged."""
    _log.error("a request failed: %s", type(error).__name__)
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("it failed here:\n%s", "".join(traceback.format_tb(error.__traceback__)).rstrip())
    return ApiError(500, "the server failed", kind="api_error")


def broken_stream(error: Exception) -> tuple[str, ApiError]:
    """What broke a stream off after its first byte: in a word for the record, and as the error that ends it."""
    if isinstance(error, UpstreamError):
        return error.failure, from_upstream(error)
    if isinstance(error, UnreadableAnswerError):
        return "unreadable", ApiError(502, str(error), kind="api_error", code="frontier_unreadable")
    if isinstance(error, TimeoutError):
        return "too long", ApiError(504, "the answer took too long as a whole", kind="api_error", code="timed_out")
    return "failed", failed(error)


def from_upstream(error: UpstreamError) -> ApiError:
    """What a provider's failure means to a client; what the provider said is passed on to it alone."""
    upstream = error.status or 0
    refused = error.failure == "refused"
    if refused and 400 <= upstream < 500:
        status = upstream
    else:
        status = 504 if error.failure == "timed out" or (refused and upstream == 504) else 502
    detail = error.detail or {}
    text = detail.get("message") or str(error)
    if upstream in (401, 407):
        text = f"{error}: it does not take this server's key, which the environment sets (not the client)"
    kind = detail.get("type") or _ERROR_KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    failure = error.failure.replace(" ", "_")
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(min(math.ceil(error.retry_after), _LONGEST_WAIT_S))
    if status >= 500 and len(error.tried) > 1:
        headers["x-should-retry"] = "false"  # tried again already: a client's tries would multiply that
    return ApiError(
        status,
        text,
        kind=kind,
        code=detail.get("code") or f"frontier_{failure}",
        param=detail.get("param"),
        headers=headers,
        reason=f"frontier {error.failure}",
    )
