"""Token counts where a log has none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from tiercel.types import Answer, Message, Usage

__all__ = ["IMAGE_TOKENS", "Image", "estimate_tokens", "estimate_usage", "images_in"]

_PIECE = re.compile(r"[A-Za-z]+|\d{1,3}|[^\sA-Za-z\d]")
PER_MESSAGE = 4
"""Tokens that chat markup adds to each message."""
IMAGE_TOKENS = 1_600
"""Of an image, whatever its bytes: Anthropic scales down what has more, OpenAI's largest have 1,536 patches, or 1,445
tokens in tiles. A few models count more (gpt-4o-mini by tiles, Claude from Opus 4.7 on)."""
LOW_DETAIL_TOKENS = 85
"""Of an image that OpenAI is to look at in low detail."""
_IMAGES = frozenset({"image", "image_url", "input_image", "computer_screenshot"})
"""Types of content parts that are images: Anthropic's, chat's and those of Responses."""


class Image(NamedTuple):
    """An image in a request."""

    tokens: int
    """That it is reckoned at."""
    size: int
    """Bytes of its content in the request: its base64, or its URL."""


def images_in(content: object) -> Iterator[Image]:
    """The images in a part of a request's JSON, whatever its dialect."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += [inner for inner in part if isinstance(inner, dict | list)]
        elif isinstance(part, dict):
            if isinstance(kind := part.get("type"), str) and kind in _IMAGES:
                yield _image(part)
            else:
                waiting += [inner for inner in part.values() if isinstance(inner, dict | list)]


def _image(part: dict[str, Any]) -> Image:
    held = part.get("image_url") or part.get("source")
    where = held if isinstance(held, dict) else {"url": held}
    low = "low" in (part.get("detail"), where.get("detail"))
    size = sum(len(text) for name in ("url", "data") if isinstance(text := where.get(name), str))
    return Image(LOW_DETAIL_TOKENS if low else IMAGE_TOKENS, size)


def estimate_tokens(text: str) -> int:
    """About how many tokens a byte-level BPE of 100,000 to 200,000 entries makes of `text`.

    A word up to seven letters counts as one, a longer one as one for each seven begun; other scripts one a character.
    """
    return sum(1 if len(p) <= 7 else math.ceil(len(p) / 7) for p in _PIECE.findall(text))


def estimate_usage(messages: Sequence[Message], answer: Answer | None, tools: object = None) -> Usage:
    """Estimated token counts of a request and its answer; tools count as the JSON that they are, images all alike."""
    inputs = sum(PER_MESSAGE + estimate_tokens(m.text) for m in messages)
    inputs += sum(image.tokens for m in messages if isinstance(m.content, list) for image in images_in(m.content))
    if tools:
        inputs += estimate_tokens(msgspec.json.encode(tools).decode())
    outputs = 0
    if answer:
        outputs = estimate_tokens(answer.text)
        outputs += sum(estimate_tokens(c.function.name + c.function.arguments) for c in answer.tool_calls)
    return Usage(input_tokens=inputs, output_tokens=outputs)
