"""OpenAI's chat completions as a gateway meets them: a request read, a student's answer written, an error worded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tiercel.datasets.templates import ANY_TOOLS, WorkloadKey, signature_of
from tiercel.errors import DataError
from tiercel.providers.tokens import estimate_usage
from tiercel.tasks.json_schema import schema_violation
from tiercel.types import Answer, Message, ToolCall

__all__ = [
    "ChatRequest",
    "breaks_tools",
    "chat_request",
    "completion",
    "stops_inside",
    "why_frontier",
]

Json = dict[str, Any]

_BEYOND = ("functions", "function_call", "audio", "web_search_options")
"""Fields that ask for what no student does."""


class _Message(Struct):
    role: str
    content: str | list[Json] | None = None


class _Tool(Struct):
    function: Json | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Fields(Struct):
    """The fields that a gateway looks at; all others are the frontier's business."""

    messages: Annotated[list[_Message], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    modalities: list[str] | None = None


class ChatRequest(Struct, frozen=True, kw_only=True, dict=True):
    """A request that has the form of one."""

    body: Json
    """As it came."""
    stream: bool
    include_usage: bool
    """Whether a stream ends with the token counts."""

    @cached_property
    def messages(self) -> tuple[Message, ...] | None:
        """None where a message holds what a student has no word for, such as a call of a custom tool."""
        try:
            return msgspec.convert(self.body["messages"], tuple[Message, ...])
        except msgspec.ValidationError:
            return None


def chat_request(body: Json) -> ChatRequest:
    """Read a request's body.

    Raises:
        DataError: a field is missing or of a wrong type; the message names it and repeats no content.
    """
    try:
        fields = msgspec.convert(body, _Fields)
    except msgspec.ValidationError as error:
        raise DataError(str(error)) from None
    options = fields.stream_options
    return ChatRequest(
        body=body,
        stream=bool(fields.stream),
        include_usage=bool(options and options.include_usage),
    )


def why_frontier(request: ChatRequest, key: WorkloadKey) -> str | None:
    """Why a student of the workload `key` can't stand in for the frontier, whatever it would answer; None if it can."""
    body, messages = request.body, request.messages
    if (body.get("n") or 1) != 1:
        return "several choices"
    if body.get("logprobs") or body.get("top_logprobs"):
        return "logprobs"
    if any(body.get(name) for name in _BEYOND) or set(body.get("modalities") or ()) - {"text"}:
        return "not text"
    names, _, shape = signature_of(body.get("tools"), body.get("response_format")).rpartition("|")
    if not (names if key.tools == ANY_TOOLS else names == ",".join(key.tools)):
        return "other tools"
    if body.get("tool_choice") not in (None, "auto", "none"):
        return "tool choice"
    if shape != key.response_format:
        return "other response format"
    # Traffic is learned with its last assistant message as the answer: a request never ends with one, and has a user.
    if messages is None or messages[-1].role == "assistant" or not any(m.role == "user" for m in messages):
        return "another workload"
    return None


def breaks_tools(request: ChatRequest, calls: Iterable[ToolCall]) -> bool:
    """Whether a student's call does not fit the tools that the request offers.

    A workload knows its tools by name: their parameters may have changed since the student was trained.
    """
    functions = [t["function"] for t in request.body.get("tools") or () if t.get("function")]
    offered = {f.get("name"): f.get("parameters") for f in functions}
    for call in calls:
        if call.function.name not in offered:
            return True
        parameters = offered[call.function.name]
        try:
            arguments = msgspec.json.decode(call.function.arguments or "{}")
        except msgspec.DecodeError:
            return True
        if parameters is not None and schema_violation(arguments, parameters) is not None:
            return True
    return False


def stops_inside(request: ChatRequest, text: str) -> bool:
    """Whether a text of `stop` is in an answer: the frontier would have ended there."""
    stop = request.body.get("stop")
    wanted = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return any(isinstance(w, str) and w and w in text for w in wanted)


def completion(request: ChatRequest, answer: Answer, model: str, trace: str) -> Json:
    """A student's answer as a chat.completion object.

    Args:
        request: that is answered.
        answer: of the student.
        model: name that the answer bears.
        trace: id of the trace.
    """
    message: Json = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                # A tool's result refers to the id.
                "id": call.id or f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in answer.tool_calls
        ]
    reason = "tool_calls" if answer.tool_calls else "stop"
    usage = estimate_usage(request.messages or (), answer, request.body.get("tools"))
    return {
        "id": f"chatcmpl-{trace}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
    }
