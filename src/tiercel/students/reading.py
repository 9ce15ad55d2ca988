"""How a student reads a request before it is tokenized."""

from __future__ import annotations

import re

__all__ = ["merge_numbers"]

_NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def merge_numbers(text: str) -> str:
    """Every number as 0: where amounts say nothing of the answer, their many tokens only hide what does."""
    return _NUMBER.sub("0", text)
