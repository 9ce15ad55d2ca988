"""What a check of an installation found."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Finding", "Verdict", "counted", "found"]

Verdict = Literal["ok", "warning", "error", "skipped"]


class Finding(Struct, frozen=True, kw_only=True):
    """The outcome of one check."""

    check: str
    """What was checked, such as `provider openai`."""
    verdict: Verdict
    """`skipped` says that it could not be checked here, and why."""
    text: str
    """One line without any secret; of a warning or an error, it ends with what to do."""


def found(check: str, verdict: Verdict, text: str) -> Finding:
    """A finding, its text on one line."""
    return Finding(check=check, verdict=verdict, text=" ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """A number of things, such as 1 error or 2 errors."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
