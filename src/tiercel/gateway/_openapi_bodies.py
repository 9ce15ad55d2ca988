"""JSON Schemas of what clients send, as far as the gateway itself reads it, and of what they get.

Every object is open: what the gateway does not read goes on to the provider as it came.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ANSWERS", "REQUESTS", "error_schemas"]

Json = dict[str, Any]


def _open(properties: Json, *required: str, about: str = "") -> Json:
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": True}
    if required:
        schema["required"] = list(required)
    return schema | ({"description": about} if about else {})


def _maybe(kind: str, about: str = "", **more: Any) -> Json:
    """A field that may also be null, which is the same as leaving it out."""
    return {"type": [kind, "null"], **more, **({"description": about} if about else {})}


_TEXT: Json = {"type": "string"}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_MODEL = "Name of a model; `tiercel/NAME` names a workload outright."
_STREAM = _maybe("boolean", "Whether the answer comes as server-sent events.")
_COUNT = _maybe("integer", minimum=1)
_SAMPLING: Json = {
    "temperature": _maybe("number"),
    "top_p": _maybe("number"),
    "seed": _maybe("integer"),
    "stop": {"type": ["string", "array", "null"], "items": _TEXT, "description": "Texts at which an answer ends."},
    "user": _maybe("string", "Who asks; stored as a keyed hash."),
}
_STREAM_OPTIONS = _maybe(
    "object",
    properties={"include_usage": _maybe("boolean", "Whether a stream ends with the counts of tokens.")},
    additionalProperties=True,
)

_CHAT_MESSAGE = _open(
    {
        "role": {"type": "string", "description": "system, developer, user, assistant or tool."},
        "content": {"type": ["string", "array", "null"], "items": {"type": "object"}},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_call_id": _maybe("string"),
        "name": _maybe("string"),
    },
    "role",
)
_CHAT_TOOL = _open({"type": _TEXT, "function": _maybe("object")})
_CHAT_REQUEST = _open(
    {
        "model": _maybe("string", _MODEL),
        "messages": {"type": "array", "minItems": 1, "items": _CHAT_MESSAGE},
        "stream": _STREAM,
        "stream_options": _STREAM_OPTIONS,
        "tools": {"type": ["array", "null"], "items": _CHAT_TOOL},
        "tool_choice": {"type": ["string", "object", "null"]},
        "response_format": _maybe("object"),
        "n": _maybe("integer", "How many answers; more than one goes to the frontier."),
        "logprobs": _maybe("boolean"),
        "top_logprobs": _maybe("integer"),
        "modalities": {"type": ["array", "null"], "items": _TEXT},
        "max_tokens": _COUNT,
        "max_completion_tokens": _COUNT,
        **_SAMPLING,
    },
    "messages",
)
_COMPLETION_REQUEST = _open(
    {
        "model": _maybe("string", _MODEL),
        "prompt": {"type": ["string", "array"], "description": "A text, a list of texts, or tokens."},
        "suffix": _maybe("string"),
        "stream": _STREAM,
        "stream_options": _STREAM_OPTIONS,
        "n": _maybe("integer"),
        "logprobs": _maybe("integer"),
        "max_tokens": _COUNT,
        **_SAMPLING,
    },
    "prompt",
)
_EMBEDDING_REQUEST = _open(
    {
        "model": {"type": "string"},
        "input": {"type": ["string", "array"], "description": "A text, a list of texts, or tokens."},
        "encoding_format": _maybe("string"),
        "dimensions": _COUNT,
        "user": _maybe("string"),
    },
    "model",
    "input",
)
_RESPONSE_REQUEST = _open(
    {
        "model": _maybe("string", _MODEL),
        "input": {"type": ["string", "array"], "items": {"type": "object"}},
        "instructions": _maybe("string"),
        "stream": _STREAM,
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_choice": {"type": ["string", "object", "null"]},
        "text": _maybe("object", "The form of the answer."),
        "previous_response_id": _maybe("string", "Only where the provider has /responses itself."),
        "store": _maybe("boolean"),
        "max_output_tokens": _COUNT,
        "temperature": _maybe("number"),
        "top_p": _maybe("number"),
        "user": _maybe("string"),
    },
    "input",
)
_ANTHROPIC_MESSAGE = _open(
    {
        "role": {"type": "string", "description": "user or assistant."},
        "content": {"type": ["string", "array"], "items": {"type": "object"}},
    },
    "role",
    "content",
)
_COUNTED: Json = {
    "model": {"type": "string", "description": _MODEL},
    "messages": {"type": "array", "minItems": 1, "items": _ANTHROPIC_MESSAGE},
    "system": {"type": ["string", "array"], "items": {"type": "object"}},
    "tools": _OBJECTS,
    "tool_choice": {"type": "object"},
}
_MESSAGE_REQUEST = _open(
    {
        **_COUNTED,
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": {"type": "boolean"},
        "stop_sequences": {"type": "array", "items": _TEXT},
        "temperature": {"type": "number"},
        "top_p": {"type": "number"},
        "top_k": {"type": "integer"},
        "metadata": _open({"user_id": _maybe("string", "Who asks; stored as a keyed hash.")}),
    },
    "model",
    "messages",
    "max_tokens",
)
_FEEDBACK_REQUEST = _open(
    {
        "id": {"type": "string", "minLength": 1, "description": "`x-tiercel-id` of the answer that is judged."},
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "1 is right, 0 is wrong."},
        "reference": {"type": "string", "description": "The right answer, with which the given one is compared."},
        "comment": _TEXT,
    },
    "id",
) | {"anyOf": [{"required": ["score"]}, {"required": ["reference"]}]}

REQUESTS: dict[str, Json] = {
    "ChatCompletionRequest": _CHAT_REQUEST,
    "CompletionRequest": _COMPLETION_REQUEST,
    "EmbeddingRequest": _EMBEDDING_REQUEST,
    "ResponseRequest": _RESPONSE_REQUEST,
    "MessageRequest": _MESSAGE_REQUEST,
    "CountTokensRequest": _open(_COUNTED, "model", "messages"),
    "FeedbackRequest": _FEEDBACK_REQUEST,
}
"""Schemas of request bodies by name."""

_USAGE = _open({"prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}})
_MODEL_ENTRY: Json = {"$ref": "#/components/schemas/Model"}
ANSWERS: dict[str, Json] = {
    "ChatCompletion": _open({"id": _TEXT, "model": _TEXT, "choices": _OBJECTS, "usage": _USAGE}, "choices"),
    "Completion": _open({"id": _TEXT, "model": _TEXT, "choices": _OBJECTS, "usage": _USAGE}, "choices"),
    "EmbeddingList": _open({"data": _OBJECTS, "model": _TEXT, "usage": {"type": "object"}}, "data"),
    "Response": _open({"id": _TEXT, "model": _TEXT, "status": _TEXT, "output": _OBJECTS}, "id", "output"),
    "Message": _open({"id": _TEXT, "model": _TEXT, "content": _OBJECTS, "stop_reason": _maybe("string")}, "content"),
    "TokenCount": _open({"input_tokens": {"type": "integer", "minimum": 0}}, "input_tokens"),
    "Model": _open({"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "owned_by": _TEXT}, "id", "object"),
    "ModelList": _open({"object": _TEXT, "data": {"type": "array", "items": _MODEL_ENTRY}}, "object", "data"),
    "Feedback": _open({"id": _TEXT, "object": _TEXT, "status": _TEXT}, "id", "status"),
    "MonitorList": _open({"object": _TEXT, "data": _OBJECTS}, "object", "data"),
    "Health": _open({"status": {"type": "string", "examples": ["ok"]}, "version": _TEXT}, "status", "version"),
}
"""Schemas of answers by name."""


def error_schemas() -> dict[str, Json]:
    """How each API words an error."""
    openai = _open(
        {
            "message": _TEXT,
            "type": {"type": "string", "examples": ["invalid_request_error", "rate_limit_error", "api_error"]},
            "param": _maybe("string"),
            "code": {"type": ["string", "integer", "null"]},
        },
        "message",
        "type",
    )
    anthropic = _open(
        {
            "type": {"type": "string", "examples": ["invalid_request_error", "rate_limit_error", "api_error"]},
            "message": _TEXT,
        },
        "type",
        "message",
    )
    return {
        "Error": _open({"error": openai}, "error", about="An error as OpenAI words it."),
        "AnthropicError": _open(
            {"type": {"const": "error"}, "error": anthropic}, "type", "error", about="An error as Anthropic words it."
        ),
    }
