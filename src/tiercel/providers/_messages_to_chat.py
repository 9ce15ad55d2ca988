"""A request of Anthropic's Messages API as one for chat completions."""

from __future__ import annotations

from typing import Any

from tiercel.providers._fields import Fields, Json, of_request, shown
from tiercel.providers._messages_content import NO_CHAT_WORD, call_of, content_of, part_of, parts_of

__all__ = ["chat_from_messages", "effort_of_budget"]

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_TIERS = {"auto": "auto", "standard_only": "default"}
_KNOWN = (
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "output_format",
    "service_tier",
    "stop_sequences",
    "stream",
    "system",
    "tool_choice",
    "tools",
)
"""Fields that are translated; all others go across as they are, `temperature` and `top_k` among them."""


def chat_from_messages(body: Json) -> Json:
    """A request of Anthropic's Messages API as one for chat completions; `messages_form` says what becomes of what.

    Args:
        body: the request; the result shares parts of it.

    Raises:
        DataError: a field is missing or of a wrong type, or asks for what chat completions have no word for.
    """
    fields = of_request(body)
    for name in ("container", "mcp_servers"):
        if body.get(name):
            raise fields.wrong(name, f"is something {NO_CHAT_WORD}")
    chat: Json = {"model": fields.need_text("model"), "messages": _messages(fields)}
    if (longest := fields.whole("max_tokens")) is not None:
        chat["max_completion_tokens"] = longest
    if stop := fields.list("stop_sequences"):
        chat["stop"] = stop
    if tools := fields.each("tools"):
        chat["tools"] = [_tool(tool) for tool in tools]
    if choice := fields.inner("tool_choice"):
        chat |= _tool_choice(choice)
    if (stream := fields.flag("stream")) is not None:
        chat["stream"] = stream
    if stream:  # a stream of this API always ends with its token counts
        chat["stream_options"] = {"include_usage": True}
    return chat | _user(fields) | _output(fields) | _tier(fields) | fields.others(*_KNOWN)


def _messages(fields: Fields) -> list[Json]:
    found: list[Json] = []
    if system := parts_of(fields, "system"):
        found.append({"role": "system", "content": content_of([part_of(block) for block in system])})
    if fields.list("messages") is None:
        raise fields.wrong("messages", "is missing")
    for message in fields.each("messages"):
        role = message.need_text("role")
        extra = message.others("role", "content")
        if role == "assistant":
            found.append(_assistant(message) | extra)
        elif role == "user":
            found += _user_messages(message, extra)
        elif role == "system":
            found.append({"role": role, "content": content_of([part_of(b) for b in parts_of(message)])} | extra)
        else:
            raise message.wrong("role", f"is {shown(role)}; it must be user, assistant or system")
    return found


def _user_messages(message: Fields, extra: Json) -> list[Json]:
    """A user's turn; each result of a tool becomes a message of its own, in its place."""
    found: list[Json] = []
    parts: list[Json] = []
    for block in parts_of(message):
        if block.text("type") != "tool_result":
            parts.append(part_of(block))
            continue
        if parts:
            found.append({"role": "user", "content": content_of(parts)})
            parts = []
        found.append(_tool_result(block))
    if parts or not found:
        found.append({"role": "user", "content": content_of(parts)} | extra)
    return found


def _tool_result(block: Fields) -> Json:
    content = content_of([part_of(inner) for inner in parts_of(block)])
    known = ("type", "tool_use_id", "content")
    return {"role": "tool", "tool_call_id": block.need_text("tool_use_id"), "content": content} | block.others(*known)


def _assistant(message: Fields) -> Json:
    parts: list[Json] = []
    calls: list[Json] = []
    thinking: list[Fields] = []
    for block in parts_of(message):
        kind = block.text("type")
        if kind == "tool_use":
            calls.append(call_of(block))
        elif kind in ("thinking", "redacted_thinking"):
            thinking.append(block)
        else:
            parts.append(part_of(block))
    found: Json = {"role": "assistant", "content": content_of(parts) if parts or not calls else None}
    if thinking:
        found["reasoning_content"] = "".join(block.text("thinking") or "" for block in thinking)
        found["thinking_blocks"] = [block.raw for block in thinking]
    return found | ({"tool_calls": calls} if calls else {})


def _tool(tool: Fields) -> Json:
    kind = tool.text("type")
    if kind not in (None, "custom"):
        raise tool.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
    function: Json = {"name": tool.need_text("name")}
    if (description := tool.text("description")) is not None:
        function["description"] = description
    function["parameters"] = tool.need_inner("input_schema").raw
    if (strict := tool.flag("strict")) is not None:
        function["strict"] = strict
    known = ("type", "name", "description", "input_schema", "strict")
    return {"type": "function", "function": function} | tool.others(*known)


def _tool_choice(choice: Fields) -> Json:
    kind = choice.need_text("type")
    if kind == "tool":
        chosen: Any = {"type": "function", "function": {"name": choice.need_text("name")}}
    elif kind in _CHOICES:
        chosen = _CHOICES[kind]
    else:
        raise choice.wrong("type", f"is {shown(kind)}; it must be auto, any, tool or none")
    return {"tool_choice": chosen} | (
        {"parallel_tool_calls": False} if choice.flag("disable_parallel_tool_use") else {}
    )


def _user(fields: Fields) -> Json:
    metadata = fields.inner("metadata")
    if metadata is None:
        return {}
    user, others = metadata.text("user_id"), metadata.others("user_id")
    return ({"user": user} if user else {}) | ({"metadata": others} if others else {})


def _tier(fields: Fields) -> Json:
    tier = fields.text("service_tier")
    return {"service_tier": _TIERS.get(tier, tier)} if tier else {}


def _output(fields: Fields) -> Json:
    """Effort and format of the answer."""
    found: Json = {}
    config, thinking = fields.inner("output_config"), fields.inner("thinking")
    if effort := config and config.text("effort"):
        found["reasoning_effort"] = effort
    elif thinking and thinking.text("type") == "enabled":
        found["reasoning_effort"] = effort_of_budget(thinking.count("budget_tokens"))
    wanted = (config and config.inner("format")) or fields.inner("output_format")
    if wanted:
        if (kind := wanted.need_text("type")) != "json_schema":
            raise wanted.wrong("type", f"is {shown(kind)}; it must be json_schema")
        schema = {"name": "answer", "schema": wanted.need_inner("schema").raw, "strict": True}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    if others := config and config.others("effort", "format"):
        found["output_config"] = others
    return found


def effort_of_budget(tokens: int) -> str:
    """The effort that a budget of thinking tokens comes nearest to."""
    return "low" if tokens <= 2048 else "medium" if tokens <= 8192 else "high"
