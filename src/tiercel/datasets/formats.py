"""Rows of other systems' logs, turned into rows of the data contract.

Recognised by their fields, one row at a time: LiteLLM (logged payloads and spend logs), Langfuse (observations as
exported by its interface, its API and its blob storage), OpenAI (stored completions, evaluation items, batch files).
Each reader takes a decoded row and returns a contract row, or raises `DataError` saying why the row is no traffic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tiercel.errors import DataError

__all__ = ["FORMATS", "BatchJoiner", "detect_format", "to_contract"]

Json = dict[str, Any]


def detect_format(row: Any) -> str:
    """The name of the format that `row` is written in; "tiercel" for the data contract and whatever is not known."""
    if not isinstance(row, dict):
        return "tiercel"
    if "custom_id" in row and ("body" in row or "response" in row):
        return "openai-batch"
    if row.get("object") == "chat.completion":
        return "openai-stored"
    if row.get("object") == "eval.run.output_item":
        return "openai-eval"
    if "call_type" in row and ("startTime" in row or "model_parameters" in row):
        return "litellm"
    if "input" in row and "output" in row and ("type" in row or "startTime" in row or "start_time" in row):
        return "langfuse"
    return "tiercel"


def to_contract(row: Any, name: str) -> Any:
    """`row` of the format `name` as a row of the data contract.

    Raises:
        DataError: the row is a failure, is not a chat, or its content was redacted or truncated by the logger.
    """
    return FORMATS[name](row)


def _loads(value: Any) -> Any:
    """The value itself, or what it says when it is JSON written into a string."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _refuse_damaged(*values: Any) -> None:
    text = json.dumps(values)
    if "litellm_truncated" in text:
        raise DataError("LiteLLM truncated this row's content; raise its limit on stored strings and export again")
    if "redacted-by-lite" in text:
        raise DataError("LiteLLM redacted this row's content; switch message logging on and export again")


def _refuse_unfinished(finish: Any) -> None:
    if finish in ("length", "content_filter"):
        raise DataError(f"the answer is not whole: finish_reason is {finish!r}")


def _first_message(response: Any) -> Json:
    choices = response.get("choices") if isinstance(response, dict) else None
    if not choices or not isinstance(choices[0], dict):
        raise DataError("the response holds no choices")
    _refuse_unfinished(choices[0].get("finish_reason"))
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise DataError("the response's first choice holds no message")
    if message.get("refusal"):
        raise DataError("the model refused this request")
    return _assistant(message)


def _assistant(message: Json) -> Json:
    calls = [
        {"id": call.get("id"), "function": _function(call.get("function") or call)}
        for call in (_loads(c) for c in message.get("tool_calls") or ())
        if isinstance(call, dict)
    ]
    return {"role": "assistant", "content": message.get("content")} | ({"tool_calls": calls} if calls else {})


def _function(function: Json) -> Json:
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"name": function.get("name", ""), "arguments": arguments}


def _prompt(messages: Any) -> list[Any]:
    if isinstance(messages, dict) and isinstance(messages.get("data"), list):
        messages = messages["data"]
    if not isinstance(messages, list) or not messages:
        raise DataError("the row holds no prompt: its list of messages is empty")
    keep = ("role", "content", "tool_calls", "tool_call_id", "name")
    prompt: list[Any] = []
    for message in messages:
        if not isinstance(message, dict):
            raise DataError("a message of the prompt is not an object")
        kept = {k: v for k, v in message.items() if k in keep and v is not None}
        if "content" not in kept and message.get("content_parts"):
            kept["content"] = message["content_parts"]
        prompt.append(kept)
    return prompt


def _litellm(row: Json) -> Json:
    if row.get("status") == "failure" or row.get("error_str"):
        raise DataError("LiteLLM logged a failed call")
    if row.get("call_type") not in ("completion", "acompletion", "", None):
        raise DataError(f"a {row['call_type']} call is not a chat completion")
    request = _loads(row.get("proxy_server_request")) or {}
    request = request.get("body", request) if isinstance(request, dict) else {}
    settings = _loads(row.get("model_parameters")) or {}
    messages = _loads(row.get("messages")) or request.get("messages")
    response = _loads(row.get("response"))
    _refuse_damaged(messages, response)
    if not response:
        raise DataError("the row holds no response: LiteLLM did not store prompts and responses")
    metadata = _loads(row.get("metadata")) or {}
    usage: Json = {"prompt_tokens": row.get("prompt_tokens"), "completion_tokens": row.get("completion_tokens")}
    details = (
        response.get("usage") if isinstance(response, dict) else None,
        metadata.get("usage_object"),
        metadata.get("additional_usage_values"),
    )
    for source in details:
        if isinstance(source, dict):
            usage = {**source, **{k: v for k, v in usage.items() if v is not None}}
    return {
        "id": row.get("id") or row.get("request_id"),
        "messages": [*_prompt(messages), _first_message(response)],
        "tools": settings.get("tools") or request.get("tools") or None,
        "response_format": settings.get("response_format") or request.get("response_format"),
        "usage": usage,
        "model": row.get("model"),
        "created": row.get("startTime"),
    }


def _langfuse(row: Json) -> Json:
    def field(*names: str) -> Any:
        return next((row[n] for n in names if row.get(n) not in (None, "")), None)

    if (kind := row.get("type", "GENERATION")) != "GENERATION":
        raise DataError(f"a Langfuse {kind} is not a generation")
    if row.get("level") == "ERROR":
        raise DataError("Langfuse logged a failed generation")
    asked, told = _loads(row.get("input")), _loads(row.get("output"))
    tools = None
    if isinstance(asked, dict) and "messages" in asked:
        tools, asked = asked.get("tools") or None, asked["messages"]
    elif isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if not tools and isinstance(definitions := _loads(row.get("tool_definitions")), list):
        tools = [_loads(d) for d in definitions] or None
    if isinstance(told, dict) and "choices" in told:
        answer = _first_message(told)
    elif isinstance(told, dict) and ("content" in told or "tool_calls" in told):
        answer = _assistant(told)
    elif told in (None, "") and row.get("tool_calls"):
        answer = _assistant({"tool_calls": _loads(row["tool_calls"])})
    elif told in (None, ""):
        raise DataError("the generation has no output")
    else:
        answer = {
            "role": "assistant",
            "content": told if isinstance(told, str) else json.dumps(told, ensure_ascii=False),
        }
    settings = _loads(field("modelParameters", "model_parameters")) or {}
    return {
        "id": row.get("id"),
        "messages": [*_prompt(asked), answer],
        "tools": tools,
        "response_format": _loads(settings.get("response_format")) if isinstance(settings, dict) else None,
        "usage": _loads(field("usageDetails", "usage_details", "usage")),
        "model": field("model", "provided_model_name"),
        "created": field("startTime", "start_time"),
    }


def _openai_stored(row: Json) -> Json:
    messages = row.get("messages") or row.get("input")
    if not messages:
        raise DataError("a stored completion holds no prompt: put the list from its /messages under `messages`")
    return {
        "id": row.get("id"),
        "messages": [*_prompt(messages), _first_message(row)],
        "tools": row.get("tools") or None,
        "response_format": row.get("response_format"),
        "usage": row.get("usage"),
        "model": row.get("model"),
        "created": row.get("created"),
        "metadata": row.get("metadata") or None,
    }


def _openai_eval(row: Json) -> Json:
    sample = row.get("sample")
    if not isinstance(sample, dict) or not sample.get("output"):
        raise DataError("the evaluation item has no sample")
    if isinstance(error := sample.get("error"), dict) and (error.get("code") or error.get("message")):
        raise DataError("the evaluation's sample failed")
    _refuse_unfinished(sample.get("finish_reason"))
    return {
        "id": row.get("id"),
        "messages": [*_prompt(sample.get("input")), _assistant(sample["output"][-1])],
        "usage": sample.get("usage"),
        "model": sample.get("model"),
        "created": row.get("created_at"),
    }


class BatchJoiner:
    """Joins the input and the output file of OpenAI's batch API, which share nothing but `custom_id`.

    The halves that still wait for the other are held in memory: at most one file's worth, whichever comes first.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[str, Json]] = {}
        self._failed: set[str] = set()

    def join(self, row: Json) -> Json | None:
        """The contract row once both halves are there; None while one is missing.

        Raises:
            DataError: the request failed, or the same half came twice.
        """
        key, side = str(row["custom_id"]), "request" if "body" in row else "response"
        if side == "response" and (row.get("error") or (row.get("response") or {}).get("status_code") != 200):
            if self.waiting.pop(key, None) is None:
                self._failed.add(key)
            raise DataError(f"a request of the batch failed: {key!r}")
        if key in self._failed:
            return None
        other = self.waiting.get(key)
        if other is None:
            self.waiting[key] = (side, row)
            return None
        if other[0] == side:
            raise DataError(f"a custom_id stands twice among the {side}s: {key!r}")
        del self.waiting[key]
        asked, told = (other[1], row) if side == "response" else (row, other[1])
        body, answer = asked["body"], told["response"]["body"]
        return {
            "id": key,
            "messages": [*_prompt(body.get("messages")), _first_message(answer)],
            "tools": body.get("tools") or None,
            "response_format": body.get("response_format"),
            "usage": answer.get("usage"),
            "model": answer.get("model") or body.get("model"),
            "created": answer.get("created"),
        }


def _as_is(row: Any) -> Any:
    return row


FORMATS: dict[str, Callable[[Any], Any]] = {
    "tiercel": _as_is,
    "litellm": _litellm,
    "langfuse": _langfuse,
    "openai-stored": _openai_stored,
    "openai-eval": _openai_eval,
}
"""Readers by the name of their format; `openai-batch` needs a `BatchJoiner` and is not among them."""
