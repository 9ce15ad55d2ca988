"""The data contract: one JSON object a line, read into an `Example` and written back.

A row that breaks the contract raises `DataError` with the path of what is wrong, never half an example.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.errors import DataError
from tiercel.types import Answer, Example, Message, Response, Usage

__all__ = ["content_key", "decode_row", "encode_example", "example_from", "parse_time", "parse_usage"]

MOST_TOKENS = 2**50
"""A count beyond is none; it is passed over as one that is missing."""


class _Row(Struct, kw_only=True):
    messages: list[Message]
    id: str | int | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    reference: Any = None
    responses: list[Response] | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    created: float | str | None = None
    metadata: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


def decode_row(line: bytes) -> Any:
    """The JSON value of one line.

    Raises:
        DataError: the line is no JSON (cut in half, NaN, broken UTF-8), with the byte where it breaks.
    """
    try:
        return _decoder.decode(line)
    except RecursionError:
        raise DataError("not valid JSON: nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        detail = str(error).removeprefix("JSON is malformed: ")
        raise DataError(f"not valid JSON: {detail}") from None


def example_from(row: Any) -> Example:
    """An example from one decoded row of the data contract.

    Raises:
        DataError: the row breaks the contract; the message names the field.
    """
    try:
        parsed = msgspec.convert(row, _Row)
    except msgspec.ValidationError as error:
        raise DataError(str(error)) from None
    _check_tools(parsed.tools or ())
    messages = tuple(parsed.messages)
    if not messages:
        raise DataError("`messages` is empty")
    answer = None
    if messages[-1].role == "assistant":
        last, messages = messages[-1], messages[:-1]
        answer = Answer(content=last.text if last.content is not None else None, tool_calls=last.tool_calls or ())
        if not (answer.text.strip() or answer.tool_calls):
            raise DataError("the last assistant message has neither text nor tool calls")
    if not any(m.role == "user" for m in messages):
        raise DataError("`messages` holds no user message")
    example = Example(
        id="" if parsed.id is None else str(parsed.id),
        messages=messages,
        answer=answer,
        reference=_reference(parsed.reference),
        responses=tuple(parsed.responses or ()),
        tools=parsed.tools or None,
        response_format=parsed.response_format,
        usage=parse_usage(parsed.usage),
        model=parsed.model,
        created=parse_time(parsed.created),
        metadata=parsed.metadata,
    )
    for response in example.responses:
        if response.score is not None and not 0 <= response.score <= 1:
            raise DataError(f"`responses` of {response.model}: score {response.score} is outside [0, 1]")
    if example.id:
        return example
    return msgspec.structs.replace(example, id=f"row-{content_key(example).hex()}")


def _check_tools(tools: Sequence[dict[str, Any]]) -> None:
    for number, tool in enumerate(tools):
        for kind in ("function", "custom"):
            if tool.get(kind) is not None and not isinstance(tool[kind], dict):
                raise DataError(f"`tools`: the {kind} of tool {number + 1} is no object")


def content_key(example: Example) -> bytes:
    """Eight bytes that stand for what was asked and answered; the same for exact duplicates whatever their id."""
    parts = (example.messages, example.tools, example.response_format, example.answer, example.reference)
    return hashlib.blake2b(_encoder.encode(parts), digest_size=8).digest()


def encode_example(example: Example) -> bytes:
    """The line of the data contract for `example`, without its newline."""
    messages: list[Any] = list(example.messages)
    if example.answer:
        messages.append({"role": "assistant", **_content(example.answer)})
    row: dict[str, Any] = {"id": example.id, "messages": messages}
    if example.reference:
        row["reference"] = _content(example.reference) if example.reference.tool_calls else example.reference.text
    for name in ("responses", "tools", "response_format", "usage", "model", "created", "metadata"):
        value = getattr(example, name)
        if value is not None and value != ():
            row[name] = value
    return _encoder.encode(row)


def _content(answer: Answer) -> dict[str, Any]:
    return {"content": answer.content} | ({"tool_calls": answer.tool_calls} if answer.tool_calls else {})


def _reference(value: Any) -> Answer | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Answer(content=value)
    if isinstance(value, dict) and ("content" in value or "tool_calls" in value):
        try:
            message = msgspec.convert({"role": "assistant", **value}, Message)
        except msgspec.ValidationError as error:
            raise DataError(f"`reference`: {error}") from None
        return Answer(
            content=message.text if message.content is not None else None, tool_calls=message.tool_calls or ()
        )
    return Answer(content=_encoder.encode(value).decode())


def parse_usage(usage: dict[str, Any] | None) -> Usage | None:
    """Token counts from any of the forms that providers and loggers use.

    Understood: OpenAI's chat (`prompt_tokens`, `prompt_tokens_details.cached_tokens`) and responses forms
    (`input_tokens`, `input_tokens_details.cached_tokens`), Anthropic's (`cache_read_input_tokens`, which its
    `input_tokens` leaves out), Langfuse's (`input`, `input_cached_tokens`) and this project's own. What can be no count
    (negative, NaN, beyond `MOST_TOKENS`) is taken for missing.
    """
    if not usage:
        return None

    def count(*names: str) -> int:
        for name in names:
            value: Any = usage
            for step in name.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            # NaN is within no bounds, and an integer of 400 digits is compared without becoming a float.
            if isinstance(value, (int, float)) and 0 <= value <= MOST_TOKENS:
                return int(value)
        return 0

    inputs = count("prompt_tokens", "input_tokens", "input")
    cached = count(
        "cached_input_tokens",
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "cached_tokens",
    )
    apart = count("cache_read_input_tokens", "input_cached_tokens") if not cached else 0
    return Usage(
        input_tokens=inputs + apart + count("cache_creation_input_tokens"),
        cached_input_tokens=cached + apart,
        output_tokens=count("completion_tokens", "output_tokens", "output"),
        reasoning_tokens=count(
            "reasoning_tokens",
            "completion_tokens_details.reasoning_tokens",
            "output_tokens_details.reasoning_tokens",
        ),
    )


def parse_time(value: float | str | None) -> float | None:
    """Unix seconds from a number or an ISO 8601 text; a text without a zone is taken as UTC.

    Raises:
        DataError: the text is no time.
    """
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
        if not math.isfinite(seconds):
            raise DataError(f"`created` is no time: {value!r}")
        return seconds
    except ValueError as error:
        if isinstance(error, DataError):
            raise
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError:
        raise DataError(f"`created` is no time: {value!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
