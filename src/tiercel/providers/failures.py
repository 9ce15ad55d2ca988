"""What can go wrong between this program and a provider: one error, and what a provider's own refusal says.

Texts name the provider and never a key or what was asked. What a provider says of an error may quote the request:
it is kept apart, in `detail`, for the one who asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from copy import copy
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tiercel.errors import ProviderError

__all__ = ["Attempt", "Failure", "Outcome", "UpstreamError", "error_detail", "retry_after"]

Json = dict[str, Any]
Failure = Literal["refused", "timed out", "unreachable", "unreadable"]
Outcome = Failure | Literal["answered", "cancelled", "skipped"]

_LONGEST_TEXT = 2_000
"""Characters of an error's message that are passed on."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One try to get an answer from one provider."""

    provider: str
    """Name of the provider."""
    outcome: Outcome
    """`skipped`: nothing was sent, since the provider rests after failures or can't serve the request."""
    status: int | None = None
    """HTTP status; None when no response came."""
    seconds: float = 0.0
    """Until the answer was whole, a stream's first event had come, or it failed."""

    def __str__(self) -> str:
        return f"{self.provider} ({self.status if self.outcome == 'refused' else self.outcome})"


class UpstreamError(ProviderError):
    """A provider refused a request, failed, or did not answer.

    Attributes:
        failure: what went wrong; "refused" is any HTTP status but 2xx, or an error in place of an answer.
        detail: `message`, `type`, `param` and `code` of the error as the provider worded it, without the key. None
            where there is none, or where it speaks of the key itself (401). It may quote the request: do not log it.
        billable: whether the provider may charge for what it did not deliver.
        headers: of the provider's answer, those that may be passed on; none where it gave no answer.
        tried: the attempts that led here, where several were made.
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
        headers: Mapping[str, str] | None = None,
        tried: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(message, provider=provider, status=status, retry_after=retry_after)
        self.failure: Failure = failure
        self.detail = detail
        self.billable = billable
        self.headers = dict(headers or {})
        self.tried = tried

    def after(self, tried: tuple[Attempt, ...]) -> UpstreamError:
        """The same error, with all that was tried before it was given up."""
        found = copy(self)
        found.tried = tried
        if len(tried) > 1:
            found.args = (f"{self}; tried: {', '.join(map(str, tried))}",)
        return found

    def __reduce__(self) -> tuple[Any, tuple[str, Json]]:
        names = ("provider", "failure", "status", "retry_after", "detail", "billable", "headers", "tried")
        return _upstream_error, (str(self), {name: getattr(self, name) for name in names})


def _upstream_error(message: str, state: Json) -> UpstreamError:
    return UpstreamError(message, **state)


def error_detail(raw: bytes, secrets: Iterable[str]) -> Json | None:
    """What the body of an error says, in OpenAI's words.

    Args:
        raw: JSON in which `error` is an object or a text, or that is the error itself.
        secrets: texts that are taken out of it.

    Returns:
        `message`, `type`, `param` and `code`, each a text, a number or None; None where it says nothing.
    """
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    found = found.get("error", found) if isinstance(found, dict) else None
    if isinstance(found, str):
        found = {"message": found}
    if not isinstance(found, dict) or not isinstance(found.get("message"), str):
        return None
    detail: Json = {}
    for name in ("message", "type", "param", "code"):
        value = found.get(name)
        if isinstance(value, str):
            for secret in secrets:
                value = value.replace(secret, "[key]")
            value = value[:_LONGEST_TEXT]
        detail[name] = value if isinstance(value, str | int) else None
    return detail


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After-Ms` or `Retry-After` (seconds or a date); None where they name none."""
    milliseconds, seconds_or_date = headers.get("Retry-After-Ms"), headers.get("Retry-After")
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
