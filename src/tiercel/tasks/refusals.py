"""Answers that decline to answer, told by how they begin; English only."""

from __future__ import annotations

import re

__all__ = ["is_refusal"]

_OPENING = r"(?:(?:i(?:'m| am) (?:really |very |so )?)?sorry|i apologi[sz]e|apologies|unfortunately|regrettably)"
_LINK = r"(?:[\s,.:;!-]*(?:but|however)?[\s,]*(?:as an ai(?: language)?(?: model| assistant)?)?[\s,]*)"
_CANNOT = (
    r"i(?:'m| am) (?:unable|not able|not allowed|not permitted) to"
    r"|i (?:can't|cannot|can not|won't|will not|must decline to)"
)
_DEED = (
    r"(?: \w+ly)? (?:help|assist|comply|fulfil+|do that|do this|engage|participate|continue|answer|respond"
    r"|(?:provide|generate|create|produce|write|share|discuss|complete|support|process|classify|translate)"
    r" (?:that|this|these|those|such|any|the requested|your request|content|information|assistance))\b"
)
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:{_OPENING}{_LINK})?(?:{_CANNOT}){_DEED}",
        rf"{_OPENING}{_LINK}(?:i(?:'m| am) not comfortable|this (?:request|content) (?:violates|goes against))",
        r"as an ai(?: language)?(?: model| assistant)?,? (?:i (?:can't|cannot|do not|don't|am unable)|i'm unable)",
        r"(?:this|your) (?:request|content|prompt) (?:violates|was (?:blocked|flagged|rejected)|goes against)",
        r"i must (?:respectfully )?decline\b|i(?:'m| am) going to (?:have to )?decline\b",
    )
)


def is_refusal(text: str) -> bool:
    """Whether `text` begins as a model begins that declines.

    What an answer says later on does not count: a support reply may well say that something can't be done.
    """
    start = " ".join(text[:400].replace("\u2019", "'").casefold().split()).lstrip("\"'*_# ")
    return any(pattern.match(start) for pattern in _PATTERNS)
