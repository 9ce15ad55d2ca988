from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseErrorEvent

from tiercel.errors import DataError
from tiercel.gateway.exchange import ApiError
from tiercel.gateway.fronts import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Front
from tiercel.providers.sse import encode_event

ERROR = ApiError(502, "the stream broke off", kind="api_error", code="frontier_unreachable")
# A text, a schema and a value of the client's own: none of them is an event's number.
SAID = 'and "sequence_number":77 of "sequence_number": 78'
EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": {"metadata": {"sequence_number": "79"}}},
    {"type": "response.output_text.delta", "delta": SAID, "sequence_number": 9},
    {"type": "response.output_text.delta", "sequence_number": 10, "delta": SAID},
]


def last_event(front: Front, parts: list[bytes]) -> dict[str, Any]:
    """The error that ends a stream of which so much was sent."""
    sent = front.sent()
    for part in parts:
        sent.feed(part)
    lines = front.stream_error(ERROR, sent).decode().splitlines()
    return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))


@given(st.lists(st.integers(0, 600), max_size=40), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_error_of_a_responses_stream_bears_the_next_number(cuts: list[int], separators: tuple[str, str]) -> None:
    told = b"".join(encode_event(json.dumps(e, separators=separators).encode(), e["type"]) for e in EVENTS)
    places = [0, *sorted(cuts), len(told)]
    parts = [told[a:b] for a, b in pairwise(places)]
    event = ResponseErrorEvent.model_validate(last_event(RESPONSES, parts), strict=True)
    assert (event.sequence_number, event.code, event.message) == (11, "frontier_unreachable", "the stream broke off")


def test_before_the_first_event_it_is_the_first() -> None:
    assert last_event(RESPONSES, [])["sequence_number"] == 0


@pytest.mark.parametrize("front", [CHAT, MESSAGES])
def test_other_dialects_number_nothing(front: Front) -> None:
    assert "sequence_number" not in json.dumps(last_event(front, [b'data: {"sequence_number":5}\n\n']))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_an_event_is_whole_once_its_blank_line_was_sent_in_however_many_parts(end: bytes) -> None:
    sent = CHAT.sent()
    assert not sent.whole
    for part in (b"data: 1", *[end[i : i + 1] for i in range(len(end))]):
        assert not sent.whole
        sent.feed(part)
    assert sent.whole
    sent.feed(b"data: 2")
    assert not sent.whole


@pytest.mark.parametrize("stream", [1, "yes", 10**400, [], {}])
@pytest.mark.parametrize(
    ("front", "field"),
    [(MESSAGES, "messages"), (RESPONSES, "input"), (COMPLETIONS, "prompt"), (EMBEDDINGS, "input"), (CHAT, "messages")],
)
def test_a_stream_is_asked_for_by_a_truth_value_alone(front: Front, field: str, stream: Any) -> None:
    said: Any = [{"role": "user", "content": "hello"}] if field == "messages" else "hello"
    body = {"model": "m", field: said, "max_tokens": 5} if front is MESSAGES else {"model": "m", field: said}
    assert not front.read(json.dumps(body | {"stream": False}).encode(), 64).stream
    with pytest.raises(DataError, match=r"\$\.stream"):
        front.read(json.dumps(body | {"stream": stream}).encode(), 64)
