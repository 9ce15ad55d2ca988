"""Chat completion chunks put together to one completion, and a completion taken apart into chunks.

`assemble(chunks_of(completion))` is the completion again. Fields that nobody knows are kept: a list grows with every
chunk, of anything else the last value that is not null stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tiercel.errors import UnreadableAnswerError
from tiercel.providers._fields import Fields, Json, of_answer
from tiercel.providers._pieces import CallParts

__all__ = ["assemble", "chunks_of"]

_TEXTS = ("reasoning", "reasoning_content", "content", "refusal")
"""Fields of a delta whose text comes in pieces, in the order in which they are said."""
_PARTED: dict[str, tuple[str, ...]] = {"audio": ("data", "transcript"), "function_call": ("name", "arguments")}
"""Objects of a delta, and their fields whose text comes in pieces."""
_EVERYWHERE = ("id", "created", "model", "service_tier", "system_fingerprint")
"""Fields of a completion that each of its chunks repeats."""


def assemble(chunks: Iterable[Json]) -> Json:
    """The completion that chunks of a stream make up, less the event [DONE].

    A choice that no chunk ended has the finish_reason None: the stream was cut.

    Args:
        chunks: in the order they came, of any number of choices.

    Raises:
        UnreadableAnswerError: there is none, one is no chunk of a chat completion, or one is an error.
    """
    head: Json = {}
    choices: dict[int, _Choice] = {}
    empty = True
    for chunk in chunks:
        empty = False
        fields = of_answer(chunk, "the chunk")
        if fields.raw.get("error") is not None:
            raise UnreadableAnswerError("the provider's stream holds an error")
        for name, value in fields.others("choices", "object").items():
            if value not in (None, "") or name not in head:
                head[name] = value
        for choice in fields.each("choices"):
            choices.setdefault(choice.whole("index") or 0, _Choice()).add(choice)
    if empty:
        raise UnreadableAnswerError("the provider's stream is empty")
    whole = [{"index": index} | choices[index].whole() for index in sorted(choices)]
    return head | {"object": "chat.completion", "choices": whole}


class _Choice:
    """One choice, as its chunks come."""

    def __init__(self) -> None:
        self._message = _Growing(_TEXTS)
        self._logprobs: _Growing | None = None
        self._calls = CallParts()
        self._objects: dict[str, _Growing] = {}
        self._others = _Growing(())

    def add(self, choice: Fields) -> None:
        if logprobs := choice.inner("logprobs"):
            self._logprobs = self._logprobs or _Growing(())
            self._logprobs.add_all(logprobs.raw)
        known = ("index", "delta", "logprobs") if logprobs else ("index", "delta")
        self._others.add_all(choice.others(*known))
        delta = choice.inner("delta")
        if delta is None:
            return
        for name, value in delta.raw.items():
            if name == "tool_calls" and value:
                for part in delta.each(name):
                    self._calls.add(part)
            elif name in _PARTED and value:
                fields = delta.need_inner(name)
                self._objects.setdefault(name, _Growing(_PARTED[name])).add_all(fields.raw)
            else:
                self._message.add(name, value)

    def whole(self) -> Json:
        message = {"role": "assistant", "content": None} | self._message.whole()
        message |= {name: parts.whole() for name, parts in self._objects.items()}
        if len(self._calls):
            message["tool_calls"] = self._calls.whole()
        logprobs = {"logprobs": self._logprobs.whole()} if self._logprobs else {}
        return {"message": message, "finish_reason": None} | self._others.whole() | logprobs


class _Growing:
    """An object whose fields come in pieces.

    Args:
        texts: fields whose texts are joined; lists always are.
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts
        self._values: Json = {}
        self._pieces: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}

    def add_all(self, fields: Json) -> None:
        for name, value in fields.items():
            self.add(name, value)

    def add(self, name: str, value: Any) -> None:
        if value is None:
            self._values.setdefault(name, None)
        elif isinstance(value, list) and name not in self._pieces:
            self._lists.setdefault(name, []).extend(value)
        elif isinstance(value, str) and name in self._texts and name not in self._lists:
            self._pieces.setdefault(name, []).append(value)
        elif name in self._texts:
            raise UnreadableAnswerError(f"{name} of the stream is not text in every chunk, or not in any")
        else:
            self._values[name] = value

    def whole(self) -> Json:
        return self._values | self._lists | {name: "".join(pieces) for name, pieces in self._pieces.items()}


def chunks_of(completion: Json, *, include_usage: bool = True) -> Iterator[Json]:
    """The chunks that stream a completion that is there as a whole.

    Args:
        completion: a chat completion, of any number of choices.
        include_usage: whether a last chunk holds the token counts, as `stream_options.include_usage` asks for; the
            inverse of `assemble` needs them.

    Raises:
        UnreadableAnswerError: it is no chat completion.
    """
    fields = of_answer(completion)
    choices = [(choice.whole("index") or 0, choice) for choice in fields.each("choices")]
    deltas = [(index, part) for index, choice in choices for part in _parts(choice)]
    head = {name: value for name, value in completion.items() if name in _EVERYWHERE}
    head["object"] = "chat.completion.chunk"
    rest = fields.others("choices", "object", "usage", *_EVERYWHERE)
    counts = include_usage and "usage" in completion
    if counts:
        head["usage"] = None
    chunks = [head | {"choices": [{"index": index} | part]} for index, part in deltas]
    if counts or not chunks:
        chunks.append(head | {"choices": []} | ({"usage": completion["usage"]} if counts else {}))
    chunks[0] |= rest
    return iter(chunks)


def _parts(choice: Fields) -> list[Json]:
    """One choice as the choices of its chunks, without their index."""
    message = choice.need_inner("message")
    logprobs = choice.inner("logprobs")
    silent = {"logprobs": None} if "logprobs" in choice.raw else {}
    told = {"logprobs": logprobs.raw} if logprobs else silent
    texts = {name: text for name in _TEXTS if isinstance(text := message.raw.get(name), str) and text}
    thoughts = _thoughts(message)
    if thoughts:
        del texts["reasoning_content"]
    first = message.others("tool_calls", *texts, *(("thinking_blocks", "reasoning_content") if thoughts else ()))
    if isinstance(message.raw.get("content"), str):
        first["content"] = ""
    deltas: list[Json] = [{"role": "assistant"} | first]
    deltas += thoughts
    deltas += [{name: texts[name]} for name in _TEXTS if name in texts]
    if "tool_calls" in message.raw:
        calls = [{"index": i} | call.raw for i, call in enumerate(message.each("tool_calls"))]
        deltas += [{"tool_calls": [call]} for call in calls] or [{"tool_calls": message.raw["tool_calls"]}]
    where = next((i for i, delta in enumerate(deltas) if delta.get("content")), 0)
    parts = [{"delta": d, **(told if i == where else silent), "finish_reason": None} for i, d in enumerate(deltas)]
    end = choice.others("index", "message", "logprobs", "finish_reason")
    parts.append({"delta": {}, **silent, "finish_reason": choice.raw.get("finish_reason")} | end)
    return parts


def _thoughts(message: Fields) -> list[Json]:
    """The deltas of thinking blocks, each after the text that it signs; none where text and blocks differ."""
    blocks = message.raw.get("thinking_blocks")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return []
    texts = [block.raw.get("thinking") or "" for block in message.each("thinking_blocks")]
    whole = message.raw.get("reasoning_content")
    if not whole or not all(isinstance(text, str) for text in texts) or "".join(texts) != whole:
        return []
    deltas: list[Json] = []
    for text, block in zip(texts, blocks, strict=True):
        deltas += [{"reasoning_content": text}] if text else []
        deltas.append({"thinking_blocks": [block]})
    return deltas
