from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import chat, example
from tiercel.datasets.contract import (
    content_key,
    decode_row,
    encode_example,
    example_from,
    parse_time,
    parse_usage,
)
from tiercel.datasets.templates import signature_of
from tiercel.errors import DataError
from tiercel.types import Answer, Example, FunctionCall, Message, Response, ToolCall, Usage

_TEXT = st.text(max_size=20)
_FILLED = _TEXT.filter(str.strip)
_CALLS = st.lists(
    st.builds(
        ToolCall,
        function=st.builds(FunctionCall, name=_FILLED, arguments=st.just('{"a": 1}') | _TEXT),
        id=st.none() | _TEXT,
    ),
    min_size=1,
    max_size=2,
).map(tuple)
_JSON = st.dictionaries(
    st.text(max_size=5), st.integers(-5, 5) | _TEXT | st.lists(st.booleans(), max_size=2), min_size=1
)
_ANSWER = (
    st.builds(Answer, content=_FILLED)
    | st.builds(Answer, content=st.none() | _TEXT, tool_calls=_CALLS)
)  # fmt: skip
_BEFORE = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "developer", "user", "tool"]), content=_TEXT)
    | st.builds(Message, role=st.just("assistant"), content=st.none() | _TEXT, tool_calls=st.none() | _CALLS)
    | st.builds(Message, role=st.just("user"), content=st.just([{"type": "text", "text": "see"}])),
    max_size=3,
)
_COUNT = st.integers(1, 10_000)
_EXAMPLE = st.builds(
    lambda before, **rest: Example(messages=(*before, Message(role="user", content="q")), **rest),
    before=_BEFORE,
    id=_FILLED,
    answer=st.none() | _ANSWER,
    reference=st.none() | st.builds(Answer, content=_TEXT) | _ANSWER,
    responses=st.lists(
        st.builds(
            Response, model=_TEXT, content=_TEXT, score=st.none() | st.floats(0, 1), cost_usd=st.none() | st.just(0.0)
        ),
        max_size=2,
    ).map(tuple),
    tools=st.none() | st.lists(_JSON, min_size=1, max_size=2),
    response_format=st.none() | _JSON,
    usage=st.none()
    | st.builds(Usage, input_tokens=_COUNT, cached_input_tokens=_COUNT, output_tokens=_COUNT, reasoning_tokens=_COUNT),
    model=st.none() | _FILLED,
    created=st.none() | st.floats(1, 4e9),
    metadata=st.none() | _JSON,
)


@settings(max_examples=120, deadline=None)
@given(_EXAMPLE)
def test_an_example_that_is_written_reads_back_the_same(one: Example) -> None:
    line = encode_example(one)
    assert b"\n" not in line
    again = example_from(decode_row(line))
    assert again == one
    assert encode_example(again) == line


@pytest.mark.parametrize("field", [{"created": 0.0}, {"usage": Usage()}])
def test_a_zero_is_not_forgotten(field: dict[str, Any]) -> None:
    one = example("q", "a", **field)
    assert example_from(decode_row(encode_example(one))) == one


@pytest.mark.parametrize(
    "line",
    [
        b'{"messages": [{"role": "user", "content": "cut in ha',
        b'{"messages": [], "created": NaN}',
        b'{"created": Infinity}',
        b'{"content": "broken \xff\xfe utf-8"}',
        b'{"content": "half a pair \\ud83d"}',
        b"\x00\x00\x00",
        b"{'messages': []}",
        b"[1, 2] [3]",
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_line_that_is_no_json_is_a_data_error(line: bytes) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        decode_row(line)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_line_is_a_value_or_a_data_error(line: bytes) -> None:
    try:
        value = decode_row(line)
    except DataError:
        return
    assert json.loads(line) == value or isinstance(value, float)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "Expected `object`"),
        ([1], "Expected `object`"),
        ({}, "missing required field `messages`"),
        ({"messages": "hello"}, r"\$\.messages"),
        ({"messages": []}, "`messages` is empty"),
        ({"messages": [{"content": "x"}]}, r"`role` - at `\$\.messages"),
        ({"messages": [{"role": "user", "content": 5}]}, r"\$\.messages\[.*\]\.content"),
        (chat("q", " \n "), "neither text nor tool calls"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant"}]}, "neither text nor tool calls"),
        ({"messages": [{"role": "system", "content": "s"}]}, "no user message"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no user message"),
        (chat("q", "a", tools={"name": "x"}), r"\$\.tools"),
        (chat("q", "a", responses=[{"model": "m", "score": 1.5}]), r"m: score 1.5 is outside \[0, 1\]"),
        (chat("q", "a", responses=[{"model": "m", "score": -0.5}]), "outside"),
        (chat("q", "a", responses=[{"score": 0.5}]), "`model`"),
        (chat("q", "a", created="yesterday"), "`created` is no time: 'yesterday'"),
        (chat("q", "a", usage=[1]), r"\$\.usage"),
        (chat("q", "a", id=[]), r"\$\.id"),
        (chat("q", "a", reference={"content": 5}), "`reference`"),
    ],
)
def test_a_row_that_breaks_the_contract_says_where(row: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        example_from(row)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.sampled_from(["role", "content", "model", "score", "x"]), inner, max_size=3)
                ),
                max_leaves=6,
            )
            for name in ("messages", "id", "tools", "reference", "responses", "usage", "created", "metadata")
        },
    ).map(lambda extra: {**chat("q", "a"), **extra})
)
def test_any_row_is_an_example_or_a_data_error(row: dict[str, Any]) -> None:
    try:
        found = example_from(row)
    except DataError:
        return
    assert found.messages


def test_the_last_assistant_message_is_the_answer_and_earlier_ones_are_the_request() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]},
    ]
    found = example_from({"messages": messages})
    assert [m.text for m in found.messages] == ["a", "b", "c"]
    assert found.answer == Answer(content="d\ne")


def test_a_request_without_an_answer_is_kept() -> None:
    assert example_from(chat("q")).answer is None


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("yes", Answer(content="yes")),
        ({"content": "yes"}, Answer(content="yes")),
        ({"total": 3}, Answer(content='{"total":3}')),
        (["a", "b"], Answer(content='["a","b"]')),
        (7, Answer(content="7")),
        (
            {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            Answer(tool_calls=(ToolCall(function=FunctionCall(name="f")),)),
        ),
        (None, None),
    ],
)
def test_a_reference_is_text_a_message_or_the_json_itself(value: Any, answer: Answer | None) -> None:
    assert example_from(chat("q", "a", reference=value)).reference == answer


def test_a_row_without_an_id_gets_one_from_what_it_says() -> None:
    one, same, other = (example_from(chat(q, "a")).id for q in ("q", "q", "r"))
    assert one == same != other
    assert one.startswith("row-")
    assert example_from(chat("q", "a", id=17)).id == "17"
    assert example_from(chat("q", "a", id=0)).id == "0"


def test_the_content_key_is_of_what_was_asked_and_answered_only() -> None:
    one = example_from(chat("q", "a", id="1", model="m", created=5, usage={"input_tokens": 3}))
    assert content_key(one) == content_key(example_from(chat("q", "a", id="2")))
    assert len(content_key(one)) == 8
    for changed in (
        chat("Q", "a"),
        chat("q", "b"),
        chat("q"),
        chat("q", "a", system="s"),
        chat("q", "a", reference="r"),
        chat("q", "a", tools=[{"name": "t"}]),
        chat("q", "a", response_format={"type": "json_object"}),
    ):
        assert content_key(example_from(changed)) != content_key(one)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # OpenAI, chat completions
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 40,
                "total_tokens": 140,
                "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            (100, 64, 40, 30),
        ),
        # OpenAI, responses
        (
            {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens": 40,
                "output_tokens_details": {"reasoning_tokens": 30},
            },
            (100, 64, 40, 30),
        ),
        # Anthropic: `input_tokens` leaves out what was read from and written to the cache
        (
            {
                "input_tokens": 10,
                "cache_read_input_tokens": 64,
                "cache_creation_input_tokens": 26,
                "output_tokens": 40,
            },
            (100, 64, 40, 0),
        ),
        # Langfuse
        ({"input": 36, "input_cached_tokens": 64, "output": 40, "total": 140}, (100, 64, 40, 0)),
        # This project's own
        (
            {"input_tokens": 100, "cached_input_tokens": 64, "output_tokens": 40, "reasoning_tokens": 30},
            (100, 64, 40, 30),
        ),
        ({"prompt_tokens": 12.0, "completion_tokens": None, "prompt_tokens_details": None}, (12, 0, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": "9"}, (0, 0, 0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (0, 0, 0, 0)),
    ],
)
def test_token_counts_of_every_provider_include_cached_ones(usage: dict[str, Any], counts: tuple[int, ...]) -> None:
    found = parse_usage(usage)
    assert found is not None
    told = (found.input_tokens, found.cached_input_tokens, found.output_tokens, found.reasoning_tokens)
    assert told == counts


def test_no_usage_is_none_and_not_zero() -> None:
    assert parse_usage(None) is None
    assert parse_usage({}) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-03-01T12:30:00Z", dt.datetime(2025, 3, 1, 12, 30, tzinfo=dt.UTC)),
        ("2025-03-01T12:30:00.250000+02:00", dt.datetime(2025, 3, 1, 10, 30, 0, 250_000, tzinfo=dt.UTC)),
        ("2025-03-01 12:30:00", dt.datetime(2025, 3, 1, 12, 30, tzinfo=dt.UTC)),
        ("1740832200", dt.datetime(2025, 3, 1, 12, 30, tzinfo=dt.UTC)),
    ],
)
def test_a_time_is_unix_seconds_whatever_its_form(text: str, moment: dt.datetime) -> None:
    assert parse_time(text) == moment.timestamp()


def test_no_time_is_none() -> None:
    assert parse_time(None) is None
    assert parse_time("") is None
    assert parse_time(12) == 12.0


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "soon", "2025-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize("tool", [{"type": "function", "function": "x"}, {"custom": [1]}, {"function": 5}])
def test_a_tool_whose_definition_is_no_object_is_a_clear_error(tool: dict[str, Any]) -> None:
    fine = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(DataError, match=r"`tools`: the (function|custom) of tool 2 is no object"):
        example_from(chat("q", "a", tools=[fine, tool]))
    assert signature_of(example_from(chat("q", "a", tools=[fine, {"function": None, "name": "g"}])).tools, None)


@pytest.mark.parametrize("count", [10**400, 10**25, 1e300, -1, float("nan"), float("inf")])
def test_a_count_that_can_be_none_is_taken_for_missing(count: float) -> None:
    assert parse_usage({"prompt_tokens": count, "input_tokens": 7, "completion_tokens": count}) == Usage(input_tokens=7)
    found = example_from(chat("q", "a", usage={"prompt_tokens": count}))
    assert example_from(decode_row(encode_example(found))) == found
