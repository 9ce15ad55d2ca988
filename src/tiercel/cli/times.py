"""Times on the command line: spans such as 30m, 12h, 7d or 8w, and dates in UTC; one form and one error for all."""

from __future__ import annotations

import datetime as dt
import re

from tiercel.errors import ConfigurationError

__all__ = ["moment"]

_SPAN = re.compile(r"(\d{1,5})([mhdw])", re.ASCII)
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def moment(value: str | None, option: str, now: float, *, ahead: bool = False) -> float | None:
    """Unix time in seconds that an option means; None where it was left out.

    Args:
        value: a span such as 7d, or an ISO 8601 date or time, in UTC unless it says otherwise.
        option: its name, for the error.
        now: Unix time in seconds.
        ahead: whether a span leads on from `now`, and not back.

    Raises:
        ConfigurationError: it is neither.
    """
    if value is None:
        return None
    if span := _SPAN.fullmatch(value.strip()):
        seconds = int(span[1]) * _SECONDS[span[2]]
        return now + seconds if ahead else now - seconds
    try:
        found = dt.datetime.fromisoformat(value.strip())
        return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option} {value[:40]!r} is no time; give a span such as 30m, 12h, 7d or 8w, or a date such as 2026-01-31"
        ) from None
