"""What llama.cpp has to know of a tokenizer, read from the tokenizer's own files.

llama.cpp's converter tells byte-level BPE tokenizers apart by a hash of what they make of a sample, so that it refuses
each that is newly trained, and each known one to which a token was added. What counts is the pattern that cuts text
before the merges: where that is one that llama.cpp has, its name is all that is needed. The parity gate has the last
word on both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["leading_space", "pre_tokenizer_of"]

Json = dict[str, Any]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    (_WORDS + r"\p{N}" + _REST, False): "qwen2",
    (_WORDS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_WORDS + r"\p{N}{1,3}" + _REST, False): "dbrx",
}
"""llama.cpp's names by pattern, and by whether whole words of the vocabulary go before merges."""


def pre_tokenizer_of(folder: Path) -> str | None:
    """llama.cpp's name for how the byte-level BPE tokenizer of `folder` cuts text; None where it is not known."""
    try:
        told: Json = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if told.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    cutter: Json = told.get("pre_tokenizer") or {}
    whole_words = bool((told.get("model") or {}).get("ignore_merges"))
    steps: list[Json] = cutter.get("pretokenizers") or [cutter]
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return "gpt-2" if last.get("use_regex", True) and not whole_words else None
    first = steps[0]
    if len(steps) > 2 or first.get("type") != "Split" or last.get("use_regex", True) or first.get("invert"):
        return None
    return _PATTERNS.get(((first.get("pattern") or {}).get("Regex", ""), whole_words))


def leading_space(folder: Path, tokenizer: Any) -> bool | None:
    """Whether a SentencePiece tokenizer puts a space before text that follows a special token; None for other kinds."""
    if not (folder / "tokenizer.model").is_file():
        return None
    sign = tokenizer.bos_token or tokenizer.eos_token
    if not sign:
        return None
    pieces: list[str] = tokenizer.tokenize(f"{sign}a", add_special_tokens=False)
    return len(pieces) > 1 and pieces[1].startswith("▁")
