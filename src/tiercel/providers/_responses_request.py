"""A request of OpenAI's Responses API as one for chat completions."""

from __future__ import annotations

from typing import Any

from tiercel.providers._fields import Fields, Json, of_request, shown

__all__ = ["chat_from_responses"]

NO_CHAT_WORD = "which chat completions have no word for; send such requests to a provider that speaks Responses"
_STATE = "asks for what was stored before, and nothing is: send the whole conversation as input"
_REFUSED = {
    "background": "asks for an answer later, and chat completions give it at once; leave it out",
    "context_management": f"is something {NO_CHAT_WORD}",
    "conversation": _STATE,
    "previous_response_id": _STATE,
    "prompt": f"is something {NO_CHAT_WORD}",
    "store": "asks to keep the answer, and none is kept; set it to false",
}
"""Fields whose value, unless it asks for nothing, would change what is answered or what happens to it."""
_LEFT_OUT = ("include", "max_tool_calls", "stream_options", "truncation")
_TRANSLATED = (
    "input",
    "instructions",
    "max_output_tokens",
    "model",
    "reasoning",
    "stream",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
)
_KNOWN = (*_REFUSED, *_LEFT_OUT, *_TRANSLATED)
_ROLES = ("user", "assistant", "system", "developer")


def chat_from_responses(body: Json) -> Json:
    """A request of OpenAI's Responses API as one for chat completions; `responses_form` says what becomes of what.

    Args:
        body: the request; the result shares parts of it.

    Raises:
        DataError: a field is missing or of a wrong type, or asks for what chat completions have no word for.
    """
    fields = of_request(body)
    for name, why in _REFUSED.items():
        if body.get(name):
            raise fields.wrong(name, why)
    if fields.text("truncation") == "auto":
        raise fields.wrong("truncation", f"is auto, {NO_CHAT_WORD}; or leave it out")
    chat: Json = {"model": fields.need_text("model"), "messages": _Conversation(fields).messages}
    if (longest := fields.whole("max_output_tokens")) is not None:
        chat["max_completion_tokens"] = longest
    if tools := fields.each("tools"):
        chat["tools"] = [_tool(tool) for tool in tools]
    if (choice := _tool_choice(fields)) is not None:
        chat["tool_choice"] = choice
    if (stream := fields.flag("stream")) is not None:
        chat["stream"] = stream
    if stream:  # a stream of this API always ends with its token counts
        chat["stream_options"] = {"include_usage": True}
    return chat | _logprobs(fields) | _output(fields) | fields.others(*_KNOWN)


def _logprobs(fields: Fields) -> Json:
    top, wanted = fields.whole("top_logprobs"), fields.list("include") or []
    if top is None and "message.output_text.logprobs" not in wanted:
        return {}
    return {"logprobs": True} | ({} if top is None else {"top_logprobs": top})


def _output(fields: Fields) -> Json:
    """Effort, verbosity and format of the answer."""
    found: Json = {}
    if reasoning := fields.inner("reasoning"):
        if (mode := reasoning.text("mode")) not in (None, "standard"):
            raise reasoning.wrong("mode", f"is {shown(mode)}, {NO_CHAT_WORD}")
        if effort := reasoning.text("effort"):
            found["reasoning_effort"] = effort
    text = fields.inner("text")
    if text and (verbosity := text.text("verbosity")):
        found["verbosity"] = verbosity
    wanted = text.inner("format") if text else None
    kind = wanted.need_text("type") if wanted else "text"
    if wanted and kind == "json_schema":
        wanted.need_inner("schema")
        wanted.need_text("name")
        found["response_format"] = {"type": kind, "json_schema": wanted.others("type")}
    elif wanted and kind == "json_object":
        found["response_format"] = {"type": kind}
    elif wanted and kind != "text":
        raise wanted.wrong("type", f"is {shown(kind)}; it must be text, json_schema or json_object")
    return found


def _tool(tool: Fields) -> Json:
    if (kind := tool.need_text("type")) != "function":
        raise tool.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
    function: Json = {"name": tool.need_text("name")}
    for name in ("description", "parameters", "strict"):
        if (value := tool.raw.get(name)) is not None:
            function[name] = value
    return {"type": "function", "function": function} | tool.others(
        "type", *function, "description", "parameters", "strict"
    )


def _tool_choice(fields: Fields) -> Any:
    if not isinstance(fields.raw.get("tool_choice"), dict):
        word = fields.text("tool_choice")
        if word not in (None, "auto", "none", "required"):
            raise fields.wrong("tool_choice", f"is {shown(word)}; it must be auto, none, required or a function")
        return word
    choice = fields.need_inner("tool_choice")
    kind = choice.need_text("type")
    if kind == "function":
        return {"type": kind, "function": {"name": choice.need_text("name")}}
    if kind == "allowed_tools":
        tools = [_allowed(tool) for tool in choice.each("tools")]
        return {"type": kind, "allowed_tools": {"mode": choice.need_text("mode"), "tools": tools}}
    raise choice.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")


def _allowed(tool: Fields) -> Json:
    if (kind := tool.need_text("type")) != "function":
        raise tool.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
    return {"type": "function", "function": {"name": tool.need_text("name")}}


class _Conversation:
    """The items of a request's input, and its instructions, as chat messages.

    Items of one answer (reasoning, text, calls) are one message of the assistant.

    Args:
        fields: of the request.
    """

    def __init__(self, fields: Fields) -> None:
        self.messages: list[Json] = []
        self._answer: Json | None = None
        self._thoughts: dict[int, list[str]] = {}
        if instructions := fields.text("instructions"):
            self.messages.append({"role": "system", "content": instructions})
        given = fields.raw.get("input")
        if isinstance(given, str):
            self.messages.append({"role": "user", "content": given})
        elif given is None:
            raise fields.wrong("input", "is missing")
        else:
            for item in fields.each("input"):
                self._add(item)
        for place, texts in self._thoughts.items():
            self.messages[place]["reasoning_content"] = "".join(texts)

    def _add(self, item: Fields) -> None:
        kind = item.text("type") or "message"
        if kind == "message":
            self._message(item)
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            self._output(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "item_reference":
            raise item.wrong("type", f"is item_reference, which {_STATE}")
        else:
            raise item.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")

    def _message(self, item: Fields) -> None:
        role = item.need_text("role")
        if role not in _ROLES:
            raise item.wrong("role", f"is {shown(role)}; it must be one of {', '.join(_ROLES)}")
        if item.raw.get("content") is None:
            raise item.wrong("content", "is missing")
        content = _content(item, "content")
        extra = item.others("type", "role", "content", "id", "status", "phase")
        if role != "assistant":
            self._answer = None
            self.messages.append({"role": role, "content": content} | extra)
            return
        answer = self._answer
        if answer is None or answer["content"] is not None or "tool_calls" in answer:
            answer = self._new_answer()
        answer |= {"content": content} | extra

    def _call(self, item: Fields) -> None:
        function = {"name": item.need_text("name"), "arguments": item.need_text("arguments")}
        call = {"id": item.need_text("call_id"), "type": "function", "function": function}
        extra = item.others("type", "id", "call_id", "name", "arguments", "status")
        answer = self._new_answer() if self._answer is None else self._answer
        answer.setdefault("tool_calls", []).append(call | {k: v for k, v in extra.items() if v is not None})

    def _output(self, item: Fields) -> None:
        self._answer = None
        if item.raw.get("output") is None:
            raise item.wrong("output", "is missing")
        content = _content(item, "output")
        self.messages.append({"role": "tool", "tool_call_id": item.need_text("call_id"), "content": content})

    def _reasoning(self, item: Fields) -> None:
        """What was thought before an answer; what its maker encrypted is for the maker alone."""
        name = "content" if item.raw.get("content") else "summary"
        text = "".join(part.text("text") or "" for part in item.each(name))
        if text:
            answer = self._answer
            if answer is None or answer["content"] is not None or "tool_calls" in answer:
                answer = self._new_answer()
            self._thoughts.setdefault(len(self.messages) - 1, []).append(text)

    def _new_answer(self) -> Json:
        self._answer = {"role": "assistant", "content": None}
        self.messages.append(self._answer)
        return self._answer


def _content(item: Fields, name: str) -> str | list[Json]:
    if isinstance(item.raw[name], str):
        return item.raw[name]
    parts = [_part(part) for part in item.each(name)]
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts or ""


def _part(part: Fields) -> Json:
    kind = part.need_text("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.need_text("text")} | part.others("type", "text", "annotations", "logprobs")
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.need_text("refusal")}
    if kind == "input_image":
        if not (url := part.text("image_url")):
            raise part.wrong("file_id", f"is an image that was stored, {NO_CHAT_WORD}; or give its image_url")
        image: Json = {"url": url} | ({"detail": detail} if (detail := part.text("detail")) else {})
        return {"type": "image_url", "image_url": image} | part.others("type", "image_url", "detail", "file_id")
    if kind == "input_file":
        if part.raw.get("file_url"):
            raise part.wrong("file_url", f"is a file's URL, {NO_CHAT_WORD}; or give its file_data")
        names = ("file_data", "file_id", "filename")
        file = {name: text for name in names if (text := part.text(name))}
        return {"type": "file", "file": file} | part.others("type", *names, "file_url", "detail")
    raise part.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
