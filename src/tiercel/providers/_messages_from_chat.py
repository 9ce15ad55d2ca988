"""A request for chat completions as one of Anthropic's Messages API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiercel.providers._fields import Fields, Json, of_request, shown
from tiercel.providers._messages_content import NO_BLOCK, block_of, content_of, parts_of, tool_use_of
from tiercel.providers._messages_to_chat import effort_of_budget

__all__ = ["messages_from_chat"]

_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "presence_penalty": (0,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields without a word in Anthropic's API, and the values that ask for nothing: all others are errors."""
_LEFT_OUT = (
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "seed",
    "store",
    "stream_options",
)
"""Fields without a word there that steer bookkeeping, speed or a best effort, not the answer's meaning."""
_TRANSLATED = (
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "output_config",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "service_tier",
    "stop",
    "stream",
    "temperature",
    "tool_choice",
    "tools",
    "user",
)
_KNOWN = (*_NEUTRAL, *_LEFT_OUT, *_TRANSLATED)


def messages_from_chat(body: Json, *, default_max_tokens: int) -> Json:
    """A request for chat completions as one of Anthropic's Messages API; `messages_form` says what becomes of what.

    Args:
        body: the request; the result shares parts of it.
        default_max_tokens: longest answer in tokens where the request names none: Anthropic's API wants one.

    Raises:
        DataError: a field is missing or of a wrong type, or asks for what Anthropic's API has no word for.
    """
    fields = of_request(body)
    for name, neutral in _NEUTRAL.items():
        if (value := body.get(name)) is not None and value not in neutral:
            raise fields.wrong(name, f"asks for something {NO_BLOCK}")
    longest = fields.whole("max_completion_tokens")
    longest = fields.whole("max_tokens") if longest is None else longest
    asked: Json = {
        "model": fields.need_text("model"),
        "max_tokens": default_max_tokens if longest is None else longest,
    }
    asked |= _conversation(fields)
    if stop := _stop(fields):
        asked["stop_sequences"] = stop
    if tools := fields.each("tools"):
        asked["tools"] = [_tool(tool) for tool in tools]
    if choice := _tool_choice(fields):
        asked["tool_choice"] = choice
    if user := fields.text("user") or fields.text("safety_identifier"):
        asked["metadata"] = {"user_id": user}
    if (temperature := fields.number("temperature")) is not None:
        if not 0 <= temperature <= 1:
            raise fields.wrong("temperature", "is not within 0 and 1, as Anthropic's API wants it")
        asked["temperature"] = temperature
    if (stream := fields.flag("stream")) is not None:
        asked["stream"] = stream
    return asked | _tier(fields) | _output(fields) | fields.others(*_KNOWN)


@dataclass(kw_only=True)
class _Turn:
    """Messages of one role that follow each other."""

    role: str
    blocks: list[Json] = field(default_factory=list[Json])
    extra: Json = field(default_factory=dict[str, Any])

    def message(self) -> Json:
        return {"role": self.role, "content": content_of(self.blocks)} | self.extra


def _conversation(fields: Fields) -> Json:
    """`system` and `messages`; instructions before the first turn are `system`, later ones stay in their place."""
    system: list[Json] = []
    turns: list[_Turn] = []
    names: dict[str, str] = {}
    if fields.list("messages") is None:
        raise fields.wrong("messages", "is missing")
    for message in fields.each("messages"):
        role = message.need_text("role")
        if role not in _ROLES:
            raise message.wrong("role", f"is {shown(role)}, {NO_BLOCK}")
        if role != "tool" and (name := message.text("name")) and names.setdefault(role, name) != name:
            raise message.wrong(
                "name", f"is another than before: several speakers of one role are something {NO_BLOCK}"
            )
        to, blocks = _ROLES[role], _blocks(message, role)
        if to == "system" and not turns:
            system += blocks
            continue
        if to == "assistant" and not blocks:
            continue  # an answer without a word
        if not turns or turns[-1].role != to:
            turns.append(_Turn(role=to))
        turns[-1].blocks += blocks
        turns[-1].extra |= {k: v for k, v in message.others(*_MESSAGE_FIELDS).items() if v and role != "tool"}
    found: Json = {"system": content_of(system)} if system else {}
    return found | {"messages": [turn.message() for turn in turns]}


_ROLES = {"system": "system", "developer": "system", "user": "user", "tool": "user", "assistant": "assistant"}
_MESSAGE_FIELDS = (
    "annotations",
    "audio",
    "content",
    "function_call",
    "name",
    "reasoning",
    "reasoning_content",
    "refusal",
    "role",
    "thinking_blocks",
    "tool_call_id",
    "tool_calls",
)


def _blocks(message: Fields, role: str) -> list[Json]:
    blocks = [block_of(part) for part in parts_of(message)]
    # Anthropic's API refuses blocks of empty text, and they say nothing.
    blocks = [block for block in blocks if block != {"type": "text", "text": ""}]
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.need_text("tool_call_id")}
        extra = message.others("role", "tool_call_id", "content", "name")
        return [result | {"content": content_of(blocks)} | extra]
    if role != "assistant":
        return blocks
    for name in ("audio", "function_call"):
        if message.raw.get(name):
            raise message.wrong(name, f"is something {NO_BLOCK}")
    if refusal := message.text("refusal"):
        blocks.append({"type": "text", "text": refusal})
    calls = [tool_use_of(call) for call in message.each("tool_calls")]
    return [*_thinking(message), *blocks, *calls]


def _thinking(message: Fields) -> list[Json]:
    """The thinking that Anthropic's API signed: it takes back no other."""
    blocks = message.each("thinking_blocks")
    return [b.raw for b in blocks if b.text("signature") or b.text("type") == "redacted_thinking"]


def _tool(tool: Fields) -> Json:
    if (kind := tool.need_text("type")) != "function":
        raise tool.wrong("type", f"is {shown(kind)}, {NO_BLOCK}")
    function = tool.need_inner("function")
    schema = function.inner("parameters")
    found: Json = {"name": function.need_text("name")}
    if (description := function.text("description")) is not None:
        found["description"] = description
    found["input_schema"] = schema.raw if schema else {"type": "object", "properties": {}}
    if (strict := function.flag("strict")) is not None:
        found["strict"] = strict
    return found | tool.others("type", "function")


def _tool_choice(fields: Fields) -> Json | None:
    chosen = fields.raw.get("tool_choice")
    alone = fields.flag("parallel_tool_calls") is False
    if isinstance(chosen, dict):
        choice = fields.need_inner("tool_choice")
        if (kind := choice.need_text("type")) != "function":
            raise choice.wrong("type", f"is {shown(kind)}, {NO_BLOCK}")
        found: Json = {"type": "tool", "name": choice.need_inner("function").need_text("name")}
    else:
        word = fields.text("tool_choice")
        if word is None and not (alone and fields.raw.get("tools")):
            return None
        if word is not None and word not in _CHOICES:
            raise fields.wrong("tool_choice", f"is {shown(word)}; it must be auto, required, none or a function")
        found = {"type": _CHOICES[word or "auto"]}
    return found | ({"disable_parallel_tool_use": True} if alone and found["type"] != "none" else {})


def _stop(fields: Fields) -> list[Any]:
    stop = fields.raw.get("stop")
    if isinstance(stop, str):
        return [stop]
    texts = fields.list("stop") or []
    if not all(isinstance(text, str) for text in texts):
        raise fields.wrong("stop", "is neither text nor a list of texts")
    return texts


def _tier(fields: Fields) -> Json:
    tier = fields.text("service_tier")
    if tier is None:
        return {}
    if tier not in _TIERS:
        raise fields.wrong("service_tier", f"is {shown(tier)}, {NO_BLOCK}")
    return {"service_tier": _TIERS[tier]}


def _output(fields: Fields) -> Json:
    """Thinking, effort and format of the answer."""
    given = fields.inner("output_config")
    config: Json = dict(given.raw) if given else {}
    found: Json = {}
    effort, thinking = fields.text("reasoning_effort"), fields.inner("thinking")
    if effort == "none" and thinking is None:
        found["thinking"] = {"type": "disabled"}
    elif effort and effort != "none" and not _is_of_budget(effort, thinking):
        config["effort"] = "low" if effort == "minimal" else effort
        if thinking is None:
            found["thinking"] = {"type": "adaptive"}
    if wanted := fields.inner("response_format"):
        kind = wanted.need_text("type")
        if kind == "json_schema":
            schema = wanted.need_inner("json_schema").need_inner("schema").raw
            config["format"] = {"type": "json_schema", "schema": schema}
        elif kind != "text":
            raise wanted.wrong("type", f"is {shown(kind)}, which Anthropic's API has no word for; give a json_schema")
    return found | ({"output_config": config} if config else {})


def _is_of_budget(effort: str, thinking: Fields | None) -> bool:
    """Whether the effort only repeats a budget of thinking tokens."""
    if thinking is None or thinking.text("type") != "enabled":
        return False
    return effort == effort_of_budget(thinking.count("budget_tokens"))
