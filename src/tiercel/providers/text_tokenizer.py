"""Token counts by a model's own tokenizer, for providers that name none.

What is counted is text: of messages, of tool calls, and of tools as the JSON that they are; images are reckoned all
alike. The few tokens by which a
model's chat template joins them are not in a tokenizer.json, and not in the counts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tiercel.errors import ConfigurationError, MissingExtraError
from tiercel.providers.tokens import images_in
from tiercel.types import Answer, Message, ToolCall, Usage

__all__ = ["TextTokenizer", "read_tokenizer"]


class TextTokenizer:
    """Counts tokens.

    Args:
        tokenizer: of the library `tokenizers`; what it holds of truncation and padding is switched off.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        """Tokens of a text, without the special ones that a model wants around it."""
        if not text:
            return 0
        readable = text.encode("utf-8", "replace").decode()  # half a surrogate has no tokens
        return len(self._tokenizer.encode(readable, add_special_tokens=False).ids)

    def usage(self, messages: Sequence[Message], answer: Answer | None, tools: object = None) -> Usage:
        """Token counts of a request and its answer."""
        inputs = sum(self.count(m.text) + self._calls(m.tool_calls or ()) for m in messages)
        inputs += sum(image.tokens for m in messages if isinstance(m.content, list) for image in images_in(m.content))
        if tools:
            inputs += self.count(msgspec.json.encode(tools).decode())
        outputs = self.count(answer.text) + self._calls(answer.tool_calls) if answer else 0
        return Usage(input_tokens=inputs, output_tokens=outputs)

    def _calls(self, calls: Iterable[ToolCall]) -> int:
        return sum(self.count(call.function.name) + self.count(call.function.arguments) for call in calls)


def read_tokenizer(path: Path) -> TextTokenizer:
    """The tokenizer of a tokenizer.json; read once, and again when the file has changed.

    Raises:
        ConfigurationError: the file can't be read, or is none.
        MissingExtraError: `tokenizers` is not installed.
    """
    try:
        found = path.stat()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigurationError(f"{path} can't be read ({why}); give the tokenizer.json of the model") from None
    return _read(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _size: int) -> TextTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "serve") from None
    try:
        return TextTokenizer(Tokenizer.from_buffer(path.read_bytes()))
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigurationError(f"{path} can't be read ({why}); give the tokenizer.json of the model") from None
    except Exception:  # the library raises Exception itself
        raise ConfigurationError(
            f"{path} is no tokenizer.json of the library tokenizers; give that of the model"
        ) from None
