"""A chat completion that is there as a whole as a Response of OpenAI's Responses API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from tiercel.providers._fields import Fields, Json, of_answer
from tiercel.providers._pieces import Text, Thought, call_id, said

__all__ = [
    "ENDS",
    "call_item",
    "message_item",
    "reasoning_item",
    "refusal_part",
    "response_from_completion",
    "response_head",
    "response_id",
    "response_usage",
    "text_part",
]

ENDS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The finish_reasons of an answer that is incomplete, and the reason that a Response gives for it."""
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": None,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""Fields of a Response that repeat the request, and what stands there when it has none."""


def response_id() -> str:
    """An id for a Response whose provider gave none."""
    return f"resp_{uuid.uuid4().hex}"


def response_from_completion(completion: Json, *, request: Json | None = None) -> Json:
    """A chat completion as a Response.

    Args:
        completion: the answer.
        request: of the Responses API; the Response repeats its fields.

    Raises:
        UnreadableAnswerError: it is no chat completion of one choice, or says what a Response has no word for.
    """
    fields = of_answer(completion)
    choices = fields.each("choices")
    if len(choices) != 1:
        raise fields.wrong("choices", f"has {len(choices)} elements; a Response is made of one")
    reason = choices[0].text("finish_reason") or "stop"
    name = fields.text("id") or response_id()
    created = fields.number("created")
    found = response_head(name, fields.text("model") or "", request, created=created)
    status = "incomplete" if reason in ENDS else "completed"
    found |= {"status": status, "output": _output(choices[0], name, status)}
    found["incomplete_details"] = {"reason": ENDS[reason]} if reason in ENDS else None
    found["usage"] = response_usage(fields.inner("usage"))
    known = ("id", "object", "created", "model", "choices", "usage")
    return found | {key: value for key, value in fields.others(*known).items() if value is not None}


def response_head(name: str, model: str, request: Json | None, *, created: float | None) -> Json:
    """A Response that has just begun.

    Args:
        name: its id.
        model: that answers; where it is "", the one that was asked.
        request: whose fields are repeated.
        created: Unix time in seconds; None for now.
    """
    asked = request or {}
    found: Json = {
        "id": name,
        "object": "response",
        "created_at": time.time() // 1 if created is None else created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model or asked.get("model") or "",
        "output": [],
        "previous_response_id": None,
        "usage": None,
    }
    return found | {key: default if (v := asked.get(key)) is None else v for key, default in _ECHOED.items()}


def _output(choice: Fields, name: str, status: str) -> list[Json]:
    message = choice.need_inner("message")
    pieces = said(message, choice.inner("logprobs"))
    items: list[Json] = []
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    if thought:
        items.append(reasoning_item(f"rs_{name}_0", thought, "completed"))
    texts = [piece for piece in pieces if isinstance(piece, Text)]
    plain = [piece for piece in texts if not piece.refusal]
    refusal = "".join(piece.text for piece in texts if piece.refusal)
    content: list[Json] = []
    if plain:
        logprobs = [token for piece in plain for token in piece.logprobs]
        content.append(text_part("".join(piece.text for piece in plain), logprobs, message.each("annotations")))
    if refusal:
        content.append(refusal_part(refusal))
    calls = message.each("tool_calls")
    if content or not (calls or items):
        items.append(message_item(f"msg_{name}_{len(items)}", content or [text_part("")], "completed"))
    items += [_call(call, f"fc_{name}_{len(items) + i}") for i, call in enumerate(calls)]
    items[-1]["status"] = status  # what was cut off is the last
    return items


def _call(call: Fields, name: str) -> Json:
    if call.text("type") not in (None, "", "function"):
        raise call.wrong("type", "is not function: other calls have no word in this API")
    function = call.need_inner("function")
    extra = call.others("index", "id", "type", "function")
    arguments = function.text("arguments") or ""
    return call_item(name, call.text("id") or call_id(), function.need_text("name"), arguments, "completed") | extra


def text_part(text: str, logprobs: Sequence[Json] = (), annotations: Sequence[Fields] = ()) -> Json:
    """A content part of text."""
    found: list[Json] = [_annotation(annotation) for annotation in annotations]
    return {"type": "output_text", "text": text, "annotations": found, "logprobs": [_token(t) for t in logprobs]}


def _annotation(annotation: Fields) -> Json:
    """A chat completion nests what a Response has flat."""
    cited = annotation.inner("url_citation")
    return {"type": "url_citation"} | cited.raw if cited else annotation.raw


def _token(token: Json) -> Json:
    """A token's log probability; a Response always has the bytes, which a chat completion may leave out."""
    fields = of_answer(token, "logprobs.content[0]")
    top = [_with_bytes(other) for other in fields.each("top_logprobs")]
    return _with_bytes(fields) | {"top_logprobs": top}


def _with_bytes(token: Fields) -> Json:
    text = token.need_text("token")
    if token.number("logprob") is None:
        raise token.wrong("logprob", "is missing")
    return token.raw | {"bytes": token.list("bytes") or list(text.encode("utf-8", "replace"))}


def refusal_part(text: str) -> Json:
    """A content part that says why the model will not answer."""
    return {"type": "refusal", "refusal": text}


def message_item(name: str, content: list[Json], status: str) -> Json:
    """An output item of text."""
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def reasoning_item(name: str, text: str, status: str) -> Json:
    """An output item of reasoning."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(name: str, call: str, function: str, arguments: str, status: str) -> Json:
    """An output item that calls a function."""
    item = {"id": name, "type": "function_call", "call_id": call, "name": function, "arguments": arguments}
    return item | {"status": status}


def response_usage(usage: Fields | None) -> Json | None:
    """Token counts as a Response gives them; None where the completion has none."""
    if usage is None:
        return None
    prompt, completion = usage.inner("prompt_tokens_details"), usage.inner("completion_tokens_details")
    inputs, outputs = usage.count("prompt_tokens"), usage.count("completion_tokens")
    return {
        "input_tokens": inputs,
        "input_tokens_details": {
            "cached_tokens": prompt.count("cached_tokens") if prompt else 0,
            "cache_write_tokens": prompt.count("cache_write_tokens") if prompt else 0,
        },
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": completion.count("reasoning_tokens") if completion else 0},
        "total_tokens": usage.count("total_tokens") or inputs + outputs,
    }
