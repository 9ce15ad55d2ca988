"""Rationales: a teacher says why an answer is right, and decoders learn to say it too, beside the answer.

A rationale is asked for after the answer and in a request of its own, so that asking changes no answer. It is kept in
the row's metadata, where no student reads it as a request and none is asked for it when it serves.

Source: Hsieh et al., "Distilling step-by-step", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tiercel.flows.label_checks import obvious_fault
from tiercel.flows.teacher import Sample
from tiercel.types import Answer, Example, Message

__all__ = ["FIELD", "rationale_in", "rationale_of", "rationales_of", "said_of_rationales", "why", "with_rationale"]

FIELD = "rationale"
"""Of the metadata."""
LONGEST = 600
"""Characters of a rationale that are kept: an auxiliary target needs the reason, not an essay."""
QUESTION = (
    "Leave aside any form that was asked for above. In one or two plain sentences, say what in the request leads to "
    "this answer."
)


def why(example: Example) -> Example:
    """The request that asks for the rationale of an example's answer."""
    answer = example.answer or Answer()
    # Calls as text: an API wants each call of a chat to be followed by its result.
    calls = "\n".join(f"{call.function.name}({call.function.arguments})" for call in answer.tool_calls)
    asked = (Message(role="assistant", content=calls or answer.text), Message(role="user", content=QUESTION))
    # The name that the answer was asked by: providers write a dated one into it, which has no price.
    named = (example.metadata or {}).get("teacher")
    return msgspec.structs.replace(
        example,
        messages=(*example.messages, *asked),
        model=named if isinstance(named, str) else example.model,
        answer=None,
        tools=None,
        response_format=None,
    )


def rationale_in(samples: Sequence[Sample]) -> str | None:
    """The rationale that a teacher gave; None where it declined, was cut off or called a tool."""
    usable = [s for s in samples if obvious_fault(s) is None and not s.tool_calls]
    return _shortened(usable[0].answer.text) if usable else None


def _shortened(text: str) -> str | None:
    """White space as single spaces, and no more than `LONGEST` characters, cut at a word."""
    words = " ".join(text.split())
    return (words if len(words) <= LONGEST else words[:LONGEST].rpartition(" ")[0]) or None


def rationale_of(metadata: dict[str, Any] | None) -> str | None:
    """The rationale in a row's metadata."""
    found = (metadata or {}).get(FIELD)
    return _shortened(found) if isinstance(found, str) else None


def rationales_of(metadata: Sequence[dict[str, Any] | None]) -> list[str] | None:
    """The rationale of each row, empty where it has none; None where no row has one."""
    found = [rationale_of(m) or "" for m in metadata]
    return found if any(found) else None


def said_of_rationales(rationales: Sequence[str] | None) -> str:
    """What a report notes of them."""
    return f"; also learnt to say why, from {sum(map(bool, rationales)):,} rationales" if rationales else ""


def with_rationale(example: Example, rationale: str) -> Example:
    """The example with a rationale in its metadata."""
    return msgspec.structs.replace(example, metadata={**(example.metadata or {}), FIELD: rationale})
