"""Token counts where a log has none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from tiercel.types import Answer, Message, Usage

__all__ = ["estimate_tokens", "estimate_usage"]

_PIECE = re.compile(r"[A-Za-z]+|\d{1,3}|[^\sA-Za-z\d]")
PER_MESSAGE = 4
"""Tokens that chat markup adds to each message."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a byte-level BPE of 100,000 to 200,000 entries makes of `text`.

    A word up to seven letters counts as one, a longer one as one for each seven begun; other scripts one a character.
    """
    return sum(1 if len(p) <= 7 else math.ceil(len(p) / 7) for p in _PIECE.findall(text))


def estimate_usage(messages: Sequence[Message], answer: Answer | None, tools: object = None) -> Usage:
    """Estimated token counts of a request and its answer; tools count as the JSON that they are."""
    inputs = sum(PER_MESSAGE + estimate_tokens(m.text) for m in messages)
    if tools:
        inputs += estimate_tokens(msgspec.json.encode(tools).decode())
    outputs = 0
    if answer:
        outputs = estimate_tokens(answer.text)
        outputs += sum(estimate_tokens(c.function.name + c.function.arguments) for c in answer.tool_calls)
    return Usage(input_tokens=inputs, output_tokens=outputs)
