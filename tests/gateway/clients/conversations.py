"""What the frontier of these tests has answered before, and the tools and pictures that the questions bring along."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.conftest import chat
from tests.gateway.conftest import SYSTEM, UNSURE
from tiercel.datasets.contract import example_from

MODEL = "gpt-frontier"
"""That applications ask for; the Anthropic provider has another name for it."""
ANTHROPIC_MODEL = "claude-frontier"

POEM = "Tell me of the sea."
POEM_ANSWER = "The sea is wide — naïve, 海 and 🌊 — and it\nkeeps  its   own time."
USAGE = {"prompt_tokens": 40, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 16}}
"""Of every recorded answer."""

WEATHER = "How warm is it in Paris and in Rome?"
WEATHER_TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city", "unit"],
    },
}
PARIS = {"city": "Paris", "unit": "C"}
ROME = {"city": "Rome", "unit": "C"}
WEATHER_ANSWER = "Paris has 18 degrees and Rome has 24."

PERSON = "Who wrote the first program? Name and year of birth."
PERSON_ANSWER = {"name": "Ada Lovelace", "born": 1815}

PARCEL = "Where is parcel 17?"
PARCEL_STATE = "in Köln"
PARCEL_ANSWER = {"place": "Köln", "days": 2}

PICTURE = "What is in this picture?"
PICTURE_ANSWER = "A falcon."
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d4944415478da63f8cfc0f01f0005000201a5d2a2090000000049454e44ae426082"
    )
).decode()
"""One pixel."""

TEXT = "Once upon a time"
TEXT_ANSWER = "there was a falcon"


def call(id_: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _calls(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def _asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _told(id_: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


_WEATHER_CALLS = _calls(call("call_paris", "get_weather", PARIS), call("call_rome", "get_weather", ROME))
_PARCEL_CALL = _calls(call("call_parcel", "track", {"parcel": 17}))
_PARCEL_RESULT = _calls(call("call_final", "final_result", PARCEL_ANSWER))

_ROWS: list[dict[str, Any]] = [
    chat(UNSURE, "delivery", SYSTEM),
    chat(POEM, POEM_ANSWER),
    {"messages": [_asked(WEATHER), _WEATHER_CALLS]},
    {
        "messages": [
            _asked(WEATHER),
            _WEATHER_CALLS,
            _told("call_paris", "18"),
            _told("call_rome", "24"),
            {"role": "assistant", "content": WEATHER_ANSWER},
        ]
    },
    chat(PERSON, json.dumps(PERSON_ANSWER)),
    {"messages": [_asked(PARCEL), _PARCEL_CALL]},
    {"messages": [_asked(PARCEL), _PARCEL_CALL, _told("call_parcel", PARCEL_STATE), _PARCEL_RESULT]},
    chat(PICTURE, PICTURE_ANSWER),
    chat(TEXT, TEXT_ANSWER),
]
RECORDED = [example_from({"usage": USAGE, **row}) for row in _ROWS]
