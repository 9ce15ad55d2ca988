"""Answers that are there as a whole: a chat completion as a message of Anthropic's API, and back; token counts."""

from __future__ import annotations

import time
import uuid

from tiercel.providers._fields import Fields, Json, of_answer, shown
from tiercel.providers._messages_content import NO_CHAT_WORD, call_of, tool_use_of
from tiercel.providers._pieces import Signed, Text, Thought, call_id, said

__all__ = [
    "completion_from_message",
    "completion_usage",
    "finish_reason",
    "message_from_completion",
    "message_id",
    "message_usage",
    "stop_of",
]

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_FINISH_REASONS = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "stop",
    "refusal": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
_SERVICE_TIERS = {"standard": "default", "priority": "priority"}
_COUNTS = (
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "input_tokens",
    "output_tokens",
    "output_tokens_details",
    "service_tier",
)


def message_id() -> str:
    """An id for a message whose provider gave none."""
    return f"msg_{uuid.uuid4().hex[:24]}"


def message_from_completion(completion: Json) -> Json:
    """A chat completion as a message of Anthropic's API.

    Where the completion has no `usage`, all counts are 0, since that API has no message without them: whoever knows
    better puts an estimate into the completion first.

    Raises:
        UnreadableAnswerError: it is no chat completion of one choice, or says what that API has no word for.
    """
    fields = of_answer(completion)
    choices = fields.each("choices")
    if len(choices) != 1:
        raise fields.wrong("choices", f"has {len(choices)} elements; a message is made of one")
    choice = choices[0]
    message = choice.need_inner("message")
    content, refusal = _spoken(message)
    content += [tool_use_of(call, call_id()) for call in message.each("tool_calls")]
    calls = any(block["type"] == "tool_use" for block in content)
    found: Json = {
        "id": fields.text("id") or message_id(),
        "type": "message",
        "role": "assistant",
        "model": fields.text("model") or "",
        "content": content,
    }
    found |= stop_of(choice.text("finish_reason") or "", choice.raw, calls=calls, refusal=refusal)
    found["usage"] = message_usage(fields.inner("usage"))
    return found | fields.others("id", "object", "created", "model", "choices", "usage", "service_tier")


def _spoken(message: Fields) -> tuple[list[Json], str]:
    """The blocks before the tool calls, and the text of a refusal."""
    pieces = said(message)
    signed = [block for piece in pieces if isinstance(piece, Signed) for block in piece.blocks]
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    # What a model other than Anthropic's thought has no signature, and can be told from theirs by that.
    blocks = signed or ([{"type": "thinking", "thinking": thought, "signature": ""}] if thought else [])
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text) and not piece.refusal)
    refusal = "".join(piece.text for piece in pieces if isinstance(piece, Text) and piece.refusal)
    extra = {name: value for name in ("citations", "annotations") if (value := message.raw.get(name))}
    blocks += [{"type": "text", "text": told} for told in (text, refusal) if told]
    if extra and text:
        blocks[-2 if refusal else -1] |= extra
    return blocks, refusal


def stop_of(reason: str, choice: Json, *, calls: bool, refusal: str) -> Json:
    """Why a message ended, from a choice's finish_reason.

    Args:
        reason: the finish_reason; "" where there is none.
        choice: further fields of the choice; `stop_sequence` and `stop_details` are taken over.
        calls: whether the answer calls tools: some providers then say "stop".
        refusal: the model's own words why it will not answer; "" where it does.
    """
    sequence, details = choice.get("stop_sequence"), choice.get("stop_details")
    if refusal:
        details = {"type": "refusal", "category": None, "explanation": refusal}
        stop = "refusal"
    elif isinstance(sequence, str):
        stop = "stop_sequence"
    elif calls and reason not in ("length", "content_filter"):
        stop = "tool_use"
    else:
        stop = _STOP_REASONS.get(reason, "end_turn")
    found: Json = {"stop_reason": stop, "stop_sequence": sequence if isinstance(sequence, str) else None}
    return found | ({"stop_details": details} if details else {})


def message_usage(usage: Fields | None) -> Json:
    """Token counts as Anthropic's API gives them: `input_tokens` are those that no cache was read or written for."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    prompt, completion = usage.inner("prompt_tokens_details"), usage.inner("completion_tokens_details")
    read = prompt.count("cached_tokens") if prompt else 0
    written = prompt.count("cache_write_tokens") if prompt else 0
    found: Json = {
        "input_tokens": max(0, usage.count("prompt_tokens") - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.count("completion_tokens"),
    }
    if thought := completion.count("reasoning_tokens") if completion else 0:
        found["output_tokens_details"] = {"thinking_tokens": thought}
    return found


def completion_from_message(message: Json, *, created: int | None = None) -> Json:
    """A message of Anthropic's API as a chat completion.

    Args:
        message: the answer.
        created: Unix time in seconds, which the message does not say; None for now.

    Raises:
        UnreadableAnswerError: it is no message, or holds blocks that chat completions have no word for.
    """
    fields = of_answer(message)
    answer, calls = _chat_message(fields)
    choice: Json = {"index": 0, "message": answer, "logprobs": None}
    choice["finish_reason"] = finish_reason(fields.text("stop_reason"), calls=calls)
    choice |= {name: value for name in ("stop_sequence", "stop_details") if (value := message.get(name))}
    found: Json = {
        "id": fields.text("id") or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()) if created is None else created,
        "model": fields.text("model") or "",
        "choices": [choice],
    }
    if usage := fields.inner("usage"):
        found["usage"] = completion_usage(usage)
        if tier := usage.text("service_tier"):
            found["service_tier"] = _SERVICE_TIERS.get(tier, tier)
    known = ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage")
    return found | {name: value for name, value in fields.others(*known).items() if value is not None}


def _chat_message(fields: Fields) -> tuple[Json, bool]:
    """The message of a completion, and whether it calls tools."""
    texts: list[str] = []
    citations: list[Json] = []
    thinking: list[Fields] = []
    calls: list[Json] = []
    if fields.list("content") is None:
        raise fields.wrong("content", "is missing")
    for block in fields.each("content"):
        kind = block.need_text("type")
        if kind == "text":
            texts.append(block.need_text("text"))
            citations += [citation.raw for citation in block.each("citations")]
        elif kind == "tool_use":
            calls.append(call_of(block))
        elif kind in ("thinking", "redacted_thinking"):
            thinking.append(block)
        else:
            raise block.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
    content = "".join(texts) if texts else None
    details = fields.inner("stop_details")
    refusal = details.text("explanation") if details else None
    found: Json = {"role": "assistant", "content": None if content == refusal else content, "refusal": refusal}
    if thinking:
        found["reasoning_content"] = "".join(block.text("thinking") or "" for block in thinking)
        found["thinking_blocks"] = [block.raw for block in thinking]
    if citations:
        found["citations"] = citations
    if calls:
        found["tool_calls"] = calls
    return found, bool(calls)


def finish_reason(stop: str | None, *, calls: bool) -> str:
    """A stop_reason as a finish_reason; without one, what the answer holds decides."""
    return _FINISH_REASONS.get(stop or "", "tool_calls" if calls else "stop")


def completion_usage(usage: Fields) -> Json:
    """Token counts as OpenAI's API gives them: `prompt_tokens` include what a cache was read or written for."""
    read, written = usage.count("cache_read_input_tokens"), usage.count("cache_creation_input_tokens")
    prompt, completion = usage.count("input_tokens") + read + written, usage.count("output_tokens")
    found: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    if details := usage.inner("output_tokens_details"):
        found["completion_tokens_details"] = {"reasoning_tokens": details.count("thinking_tokens")}
    return found | {name: value for name, value in usage.others(*_COUNTS).items() if value is not None}
