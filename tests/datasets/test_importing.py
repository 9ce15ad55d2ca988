from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import chat, write_lines
from tests.datasets.test_formats import (
    batch_expired,
    batch_request,
    batch_result,
    langfuse_api,
    litellm_payload,
    litellm_spend,
)
from tiercel.datasets.importing import ImportCounts, SeenKeys, read_traffic
from tiercel.datasets.sources import CsvColumns
from tiercel.errors import ConfigurationError, DataError, StorageError
from tiercel.flows.rejects import RejectFile
from tiercel.types import Example

TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _import(path: Path, *more: Path, **options: Any) -> tuple[list[Example], ImportCounts, list[dict[str, Any]]]:
    counts, listed = ImportCounts(), path.with_name("rejects.jsonl")
    listed.unlink(missing_ok=True)
    with RejectFile(listed) as rejects:
        found = list(read_traffic([path, *more], counts, rejects, **options))
    rejected = [json.loads(line) for line in listed.read_bytes().splitlines()] if listed.exists() else []
    return found, counts, rejected


_NEARLY = st.sampled_from(
    [
        chat("q", "a"),
        chat("q", "b", reference="b"),
        chat("q"),
        litellm_payload(),
        litellm_spend(),
        langfuse_api(),
        {"custom_id": "a", "body": 5},
        {"custom_id": "a", "response": "x"},
        {"custom_id": None, "response": {"status_code": 200}},
        {"object": "chat.completion", "choices": 5, "messages": [1]},
        {"object": "eval.run.output_item", "sample": {"output": "text", "input": [{"role": "user"}]}},
    ]
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A line that is nearly right: bytes of it are cut off or overwritten."""
    line = bytearray(json.dumps(draw(_NEARLY)).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(line) - 1))
        line[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=3))
        if not line:
            break
    return bytes(line)


@st.composite
def _twisted(draw: st.DrawFn) -> bytes:
    """A row of a known format, one field of which holds something else."""
    row = dict(draw(_NEARLY))
    key = draw(st.sampled_from(sorted(row)))
    row[key] = draw(
        st.sampled_from(
            [None, "", 0, 1.5, -1, True, [], {}, [[]], [None], "x", "[", "{}", "[5]", '{"a": [1]}', {"data": 1}]
        )
    )
    return json.dumps(row).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40) | _damaged() | _twisted(), min_size=1, max_size=6))
@example([b"null"])
@example([b"[" * 100_000])
@example([json.dumps(litellm_spend(messages="[" * 100_000)).encode()])
@example([json.dumps(litellm_spend(messages='[{"role": "user", "content": "\\ud83d"}]')).encode()])
def test_every_line_is_kept_a_duplicate_waiting_or_rejected(tmp_path: Path, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    numbers = [i for i, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    if not numbers:
        with pytest.raises(DataError, match="holds no rows"):
            _import(path)
        return
    found, counts, rejected = _import(path)
    halves = counts.formats["openai-batch"]
    assert counts.read == len(numbers)
    assert counts.kept == len(found)
    assert counts.rejected == len(rejected) == counts.reasons.total()
    joined = counts.read - counts.kept - counts.rejected - counts.duplicates - counts.unmatched
    assert joined == 0 or 0 < joined <= halves
    assert [r["line"] for r in rejected] == sorted({r["line"] for r in rejected})
    assert {r["line"] for r in rejected} <= set(numbers)
    assert all(r["reason"] and r["file"] == str(path) for r in rejected)
    assert len({e.id for e in found}) == len(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=8, max_size=8) | st.sampled_from([bytes(8), b"\x01" + bytes(7), b"\xff" * 8])))
def test_seen_keys_are_a_set(keys: list[bytes]) -> None:
    seen, known = SeenKeys(), set[bytes]()
    for key in keys:
        # The key of eight zero bytes and the one of value 1 are taken for one another, at a chance of 2^-63.
        plain = key if key != bytes(8) else b"\x01" + bytes(7)
        assert seen.add(key) == (plain not in known)
        known.add(plain)


def test_seen_keys_stay_a_set_as_they_grow_and_collide() -> None:
    seen = SeenKeys()
    keys = [(i * 4_096).to_bytes(8, "little") for i in range(1, 1_500)] + [
        i.to_bytes(8, "big") for i in range(1, 1_500)
    ]
    fresh = [seen.add(k) for k in keys]
    assert sum(fresh) == len(set(keys))
    assert not any(seen.add(k) for k in keys)


def test_exact_duplicates_are_dropped_once_and_kept_on_demand(tmp_path: Path) -> None:
    rows = [chat("q", "a", id="1"), chat("q", "a", id="2"), chat("q", "b"), chat("q", "a", id="1")]
    path = write_lines(tmp_path / "t.jsonl", *rows)
    found, counts, _ = _import(path)
    assert [e.answer.text for e in found if e.answer] == ["a", "b"]
    assert (counts.read, counts.kept, counts.duplicates) == (4, 2, 2)
    found, counts, _ = _import(path, keep_duplicates=True)
    assert (len(found), counts.duplicates) == (4, 0)
    assert len({e.id for e in found}) == 4


def test_a_duplicate_in_another_file_is_a_duplicate(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "a.jsonl", chat("q", "a"))
    two = write_lines(tmp_path / "b.jsonl", chat("q", "a"), chat("r", "a"))
    found, counts, _ = _import(one, two)
    assert (len(found), counts.duplicates) == (2, 1)


def test_ids_stay_unique_where_every_file_numbers_its_rows_from_one(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{i}.jsonl", chat(f"q{i}", "a", id=1)) for i in range(4)]
    found, _, _ = _import(*paths)
    assert len({e.id for e in found}) == 4
    assert found[0].id == "1"


def test_rejected_rows_are_listed_with_file_line_reason_and_text(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "t.jsonl", chat("q", "a"), b'{"messages": [{"role": "us', {"messages": []}, b"\xff\xfe"
    )
    found, counts, rejected = _import(path)
    assert len(found) == 1
    assert [(r["file"], r["line"]) for r in rejected] == [(str(path), 2), (str(path), 3), (str(path), 4)]
    assert rejected[0]["raw"] == '{"messages": [{"role": "us'
    assert rejected[1]["reason"] == "`messages` is empty"
    assert json.loads(rejected[1]["raw"]) == {"messages": []}
    assert counts.rejected == 3


def test_without_rejected_rows_there_is_no_reject_file(tmp_path: Path) -> None:
    _import(write_lines(tmp_path / "t.jsonl", chat("q", "a")))
    assert not (tmp_path / "rejects.jsonl").exists()


def test_a_reject_file_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", {})
    with (
        pytest.raises(StorageError, match=r"no.r: No such file or directory"),
        RejectFile(tmp_path / "no" / "r") as rejects,
    ):
        list(read_traffic([path], ImportCounts(), rejects))


@pytest.mark.parametrize(
    "rows",
    [
        [b'{"a": broken', b'{"messages": broken', b"[1, 2, broken"],
        [
            {"messages": [{"role": "user", "content": 5}]},
            {"messages": [{"role": "system"}, {"role": "user", "content": 5}]},
        ],
        [batch_expired("a"), batch_expired("b"), batch_result("c", status=500)],
        [chat("q", "a", created="yesterday"), chat("q", "a", created="today")],
        [
            chat("q", "a", responses=[{"model": "m", "score": 2}]),
            chat("q", "a", responses=[{"model": "n", "score": 3}]),
        ],
        [batch_request("a"), batch_request("a"), batch_request("b"), batch_request("b")],
    ],
    ids=["broken lines", "wrong types", "failed batches", "no times", "scores", "twice"],
)
def test_rows_rejected_for_one_reason_are_counted_under_one_reason(tmp_path: Path, rows: list[Any]) -> None:
    _, counts, _ = _import(write_lines(tmp_path / "t.jsonl", *rows))
    assert counts.rejected >= 2
    assert len(counts.reasons) == 1


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_an_empty_file_is_a_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no rows; export the traffic again"):
        _import(path)


def test_an_empty_gzip_and_a_csv_of_a_header_alone_are_clear_errors(tmp_path: Path) -> None:
    packed, table = tmp_path / "t.jsonl.gz", tmp_path / "t.csv"
    packed.write_bytes(gzip.compress(b""))
    table.write_bytes(b"q,a\n")
    for path in (packed, table):
        with pytest.raises(DataError, match="holds no rows"):
            _import(path, columns=CsvColumns(input="q", answer="a"))


def test_one_row_is_one_example(tmp_path: Path) -> None:
    found, counts, _ = _import(write_lines(tmp_path / "t.jsonl", chat("q", "a")))
    assert (len(found), counts.read, counts.kept) == (1, 1, 1)


@pytest.mark.parametrize(
    "line",
    [
        b'{"messages": [{"role": "user", "content": "q"}], "created": NaN}',
        b'{"messages": [{"role": "user", "content": "q"}], "created": "NaN"}',
        b'{"messages": [{"role": "user", "content": "q"}], "responses": [{"model": "m", "score": NaN}]}',
        b'{"messages": [{"role": "user", "content": "q"}], "responses": [{"model": "m", "cost_usd": 1e999}]}',
    ],
)
def test_nan_in_a_number_is_rejected(tmp_path: Path, line: bytes) -> None:
    _, counts, rejected = _import(write_lines(tmp_path / "t.jsonl", chat("q", "a"), line))
    assert (counts.kept, counts.rejected) == (1, 1)
    assert rejected[0]["line"] == 2


def test_a_message_of_200_kb_is_kept(tmp_path: Path) -> None:
    text = "word " * 40_000
    found, _, _ = _import(write_lines(tmp_path / "t.jsonl", chat(text, "a")))
    assert found[0].messages[0].text == text


def test_tool_calls_without_tools_are_kept_and_counted(tmp_path: Path) -> None:
    answered = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    rows = [
        {"messages": [{"role": "user", "content": q}, answered], **more}
        for q, more in (("q", {}), ("r", {"tools": TOOLS}))
    ]
    found, counts, _ = _import(write_lines(tmp_path / "t.jsonl", *rows))
    assert len(found) == 2
    assert counts.tool_calls_without_tools == 1


def test_half_a_pair_of_surrogates_in_a_loggers_text_is_rejected(tmp_path: Path) -> None:
    cut = litellm_spend(messages=json.dumps([{"role": "user", "content": "smile \ud83d"}]))
    _, counts, rejected = _import(write_lines(tmp_path / "t.jsonl", cut, chat("q", "a")))
    assert (counts.kept, counts.rejected) == (1, 1)
    assert rejected[0]["line"] == 1


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_truncated_gzip_keeps_what_came_before_the_break(tmp_path: Path, suffix: str) -> None:
    rows = [
        f'{{"messages":[{{"role":"user","content":"{i}"}}]}}' if suffix == "jsonl" else f"{i},a" for i in range(3_000)
    ]
    text = "\n".join([*(["q,a"] if suffix == "csv" else []), *rows])
    packed = gzip.compress(text.encode())
    path = tmp_path / f"t.{suffix}.gz"
    path.write_bytes(packed[: len(packed) // 2])
    found, counts, rejected = _import(path, columns=CsvColumns(input="q", answer="a"))
    assert len(found) > 10
    assert len(rejected) == counts.rejected == 1
    assert "breaks off" in rejected[0]["reason"]


def test_broken_utf8_in_a_loggers_csv_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,type,input,output\n1,GENERATION,h\xff,a\n2,GENERATION,h,a\n")
    found, counts, _ = _import(path)
    assert [e.id for e in found] == ["2"]
    assert counts.rejected == 1


def test_a_format_can_be_forced_and_rows_of_others_are_rejected(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", litellm_payload(), chat("q", "a"), 5, None)
    found, counts, _ = _import(path, format_name="litellm")
    assert len(found) == 1
    assert counts.rejected == 3


def test_a_format_that_does_not_exist_is_a_clear_error_and_no_reject(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="litelm"):
        _import(write_lines(tmp_path / "t.jsonl", chat("q", "a")), format_name="litelm")
