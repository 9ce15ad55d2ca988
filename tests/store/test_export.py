from __future__ import annotations

import json
import tracemalloc

import msgspec

from tests.store.rows import content, entry
from tiercel.datasets.contract import encode_example, example_from
from tiercel.store.database import Database
from tiercel.store.entries import Content, append
from tiercel.store.export import export_traces
from tiercel.types import Answer, FunctionCall, Message, ToolCall, Usage

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


def test_a_trace_is_read_back_as_the_example_that_it_was(database: Database) -> None:
    request = {
        "model": "gpt-4o",
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": [{"type": "text", "text": "find x"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "nothing"},
        ],
        "tools": TOOLS,
        "response_format": {"type": "json_object"},
    }
    response = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "2", "type": "function", "function": {"name": "find", "arguments": '{"q": "y"}'}}],
        "refusal": None,
    }
    kept = Content(request=json.dumps(request).encode(), response=json.dumps(response).encode())
    one = entry(user="ab" * 16, cached_input_tokens=5, reasoning_tokens=3, content=kept)
    append(database, [one])
    (row,) = export_traces(database)
    example = example_from(row)
    assert example.id == one.id
    assert [m.role for m in example.messages] == ["system", "user", "assistant", "tool"]
    assert example.messages[1].text == "find x"
    assert example.answer == Answer(
        tool_calls=(ToolCall(id="2", function=FunctionCall(name="find", arguments='{"q": "y"}')),)
    )
    assert example.tools == TOOLS
    assert example.response_format == {"type": "json_object"}
    assert example.usage == Usage(input_tokens=100, cached_input_tokens=5, output_tokens=10, reasoning_tokens=3)
    assert (example.model, example.created) == ("gpt-4o", one.created)
    assert example.metadata == {"workload": "tickets", "tier": "frontier", "user": "ab" * 16}
    assert example_from(msgspec.json.decode(encode_example(example))) == example


def test_only_what_was_asked_for_comes_oldest_first(database: Database) -> None:
    append(
        database,
        [
            entry(created=5.0, content=content("fifth")),
            entry(created=2.0, content=content("second")),
            entry(created=4.0, content=content("a student's"), tier="student"),
            entry(created=3.0, content=content("third"), workload="other"),
            entry(created=3.5, content=None),
            entry(created=3.6, content=content("failed"), status=500),
            entry(created=2.0, content=content("second, later")),
        ],
    )

    def asked(**options: object) -> list[str]:
        return [row["messages"][0]["content"] for row in export_traces(database, **options)]  # pyright: ignore[reportArgumentType]

    assert asked() == ["second", "second, later", "third", "fifth"]
    assert asked(workload="other") == ["third"]
    assert asked(since=3.0, until=5.0) == ["third"]
    assert asked(tiers=("student", "frontier"), since=3.0) == ["third", "a student's", "fifth"]
    assert asked(limit=2) == ["second", "second, later"]
    assert asked(limit=0) == []


def test_all_traces_come_once_though_batches_end_between_equal_times(database: Database) -> None:
    all_ = [entry(created=float(number // 300)) for number in range(1_300)]
    append(database, all_)
    ids = [row["id"] for row in export_traces(database)]
    assert len(ids) == len(set(ids)) == 1_300
    assert ids == [e.id for e in sorted(all_, key=lambda e: (e.created, e.id))]
    assert len(list(export_traces(database, limit=1_100))) == 1_100


def test_writers_are_not_held_up_by_an_export_in_progress(database: Database) -> None:
    append(database, [entry() for _ in range(600)])
    traces = export_traces(database)
    next(traces)
    assert append(database, [entry(created=1e10)]) == 1
    assert len(list(traces)) == 600


def test_memory_does_not_grow_with_the_number_of_traces(sqlite_database: Database) -> None:
    for _ in range(8):
        append(sqlite_database, [entry(content=content("x" * 4_000)) for _ in range(1_000)])
    next(export_traces(sqlite_database))
    tracemalloc.start()
    assert sum(1 for _ in export_traces(sqlite_database)) == 8_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All contents together are 33 MB.
    assert peak < 10e6


def test_counts_that_are_estimates_are_left_to_the_reader(database: Database) -> None:
    append(database, [entry(counted_by="estimate"), entry(counted_by="tokenizer", created=2e9)])
    first, second = map(example_from, export_traces(database))
    assert first.usage is None
    assert second.usage is not None


def test_a_damaged_content_gives_a_row_without_messages_not_an_error(database: Database) -> None:
    broken = [b"{", b"[]", b'{"messages": 3}', b"\xff", b"[" * 5_000]
    append(
        database, [entry(created=float(i), content=Content(request=b, response=b"{}")) for i, b in enumerate(broken)]
    )
    append(database, [entry(created=9.0)])
    rows = list(export_traces(database))
    assert [bool(row["messages"]) for row in rows] == [False] * 5 + [True]
    assert example_from(rows[-1]).messages == (Message(role="user", content="where is my parcel"),)
