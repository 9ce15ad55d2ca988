"""A recorded answer as OpenAI's legacy completion, whole or as events: the prompt is the user's message of a chat.

What the recorded answer calls has no word there; its text is played alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from tiercel.errors import DataError
from tiercel.providers.completions_form import CompletionTexts, chat_from_completions, text_from_completion
from tiercel.providers.recordings import Recorded
from tiercel.providers.replay_form import CHAT, Asked, Dialect, Event
from tiercel.types import Answer

__all__ = ["COMPLETIONS"]

_PREFIX = b"data: "
_DONE = b"data: [DONE]\n\n"


def _read(raw: bytes) -> Asked:
    try:
        body: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DataError("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise DataError("the body is no JSON object")
    return CHAT.read(msgspec.json.encode(chat_from_completions({"model": "", **body})))


def _text_of(recorded: Recorded) -> Recorded:
    return replace(recorded, answer=Answer(content=recorded.answer.text))


def _whole(asked: Asked, recorded: Recorded) -> bytes:
    return msgspec.json.encode(text_from_completion(msgspec.json.decode(CHAT.whole(asked, _text_of(recorded)))))


def _events(asked: Asked, recorded: Recorded) -> Iterator[Event]:
    texts = CompletionTexts()
    for event, tokens in CHAT.events(asked, _text_of(recorded)):
        if event != _DONE:
            for told in texts.feed(msgspec.json.decode(event.removeprefix(_PREFIX))):
                yield _PREFIX + msgspec.json.encode(told) + b"\n\n", tokens
    yield _DONE, 0


COMPLETIONS = Dialect(read=_read, whole=_whole, events=_events, error=CHAT.error)
