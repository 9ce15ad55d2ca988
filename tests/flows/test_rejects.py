"""Rows that can't be used are kept whole, and take the place of nothing else."""

from __future__ import annotations

import base64
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import chat, write_lines
from tiercel.cli.main import run
from tiercel.datasets.sources import CsvColumns, RawRow
from tiercel.errors import ConfigurationError, DataError, StorageError
from tiercel.flows.conversion import convert
from tiercel.flows.progress import Silent
from tiercel.flows.rejects import RejectFile
from tiercel.flows.traffic import read_workload

LONG = b'{"messages": [{"role": "user", "content": "' + b"word " * 20_000
BROKEN_BYTES = b'{"messages": "\xff\xfe"}'


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recovered(row: dict[str, Any]) -> bytes:
    """What docs/traffic.md says of rejected rows."""
    return base64.b64decode(row["raw_base64"]) if "raw_base64" in row else row["raw"].encode()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for the disk's end: the same write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_rejected_can_be_put_together_again(tmp_path: Path) -> None:
    wrong = b'{"messages":  [], "big": 100000000000000000001}'
    source, output = tmp_path / "in.jsonl", tmp_path / "t.jsonl"
    source.write_bytes(b"\n".join([json.dumps(chat("q", "a")).encode(), LONG, BROKEN_BYTES, wrong]) + b"\r\n")
    convert([source], output, Silent())
    rejected = read(tmp_path / "t.rejects.jsonl")
    assert [r["line"] for r in rejected] == [2, 3, 4]
    assert [recovered(r) for r in rejected] == [LONG, BROKEN_BYTES, wrong]
    assert len(rejected[1]["raw"]) < 2_100


def test_rejected_rows_of_csv_and_of_lists_are_kept_as_they_stand(tmp_path: Path) -> None:
    table, items = tmp_path / "in.csv", tmp_path / "in.json"
    table.write_bytes(b'q,a\nfine,yes\n"two\nlines \xff",no\nwide,no,no\n')
    items.write_bytes(b'[{"messages": []},\n ' + json.dumps(chat("r", "a")).encode() + b"]")
    columns = CsvColumns(input="q", answer="a")
    counts = convert([table, items], tmp_path / "t.jsonl", Silent(), columns=columns)
    rejected = read(tmp_path / "t.rejects.jsonl")
    assert counts.kept == 2
    assert [recovered(r) for r in rejected] == [b'"two\nlines \xff",no', b"wide,no,no", b'{"messages": []}']
    assert [(r["line"], r.get("item")) for r in rejected] == [(3, None), (5, None), (1, 1)]


def test_an_import_of_its_own_rejects_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "z.rejects.jsonl", chat("q", "a"), {"file": "x"})
    before = source.read_bytes()
    with pytest.raises(ConfigurationError, match=r"z\.rejects\.jsonl.* also an input; choose another place with --rej"):
        convert([source], tmp_path / "z.jsonl", Silent())
    with pytest.raises(ConfigurationError, match="also an input"):
        convert([source], tmp_path / "y.jsonl", Silent(), rejects=source)
    with pytest.raises(ConfigurationError, match="is also the output"):
        convert([source], tmp_path / "y.jsonl", Silent(), rejects=tmp_path / "y.jsonl")
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_holds_something_else_is_not_written_over_by_rejects(tmp_path: Path) -> None:
    source, notes = write_lines(tmp_path / "in.jsonl", chat("q", "a"), 5), tmp_path / "notes.txt"
    notes.write_text("to be kept")
    with pytest.raises(ConfigurationError, match=r"notes\.txt.* holds something else"):
        convert([source], tmp_path / "t.jsonl", Silent(), rejects=notes)
    assert notes.read_text() == "to be kept"


def test_a_run_that_fails_leaves_the_rejects_of_the_one_before(tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", chat("q", "a"), 5), tmp_path / "t.jsonl"
    convert([source], output, Silent())
    before = (tmp_path / "t.rejects.jsonl").read_bytes()
    with pytest.raises(DataError, match="no such file"):
        convert([write_lines(tmp_path / "b.jsonl", 6, chat("r", "a")), tmp_path / "none"], output, Silent())
    assert (tmp_path / "t.rejects.jsonl").read_bytes() == before
    convert([write_lines(tmp_path / "b.jsonl", chat("r", "a"))], output, Silent())
    assert not (tmp_path / "t.rejects.jsonl").exists(), "they are not this run's"


def test_where_nothing_can_be_used_the_rejects_are_there_and_the_output_is_not(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", 5, 6)
    with pytest.raises(DataError, match="none of 2 rows can be used"):
        convert([source], tmp_path / "t.jsonl", Silent())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "t.rejects.jsonl"]


def test_a_pilots_own_rejects_can_not_be_its_traffic(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rejects.jsonl", {"file": "x"}, chat("q", "a"))
    before = source.read_bytes()
    with pytest.raises(ConfigurationError, match="also an input; choose another place with --out"):
        read_workload([source], Silent(), rejects=source)
    assert run(["pilot", str(source), "--out", str(tmp_path)]) == 2
    assert source.read_bytes() == before


@pytest.mark.parametrize("rows", [3, 2_000])
def test_a_disk_that_fills_while_rejects_are_written_is_one_clear_error(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "rejects.jsonl"
    row = RawRow(Path("t.jsonl"), 1, raw=b"x" * 1_000)
    with (
        full_disk(2_000),
        pytest.raises(StorageError, match=r"rejects\.jsonl: the disk is full"),
        RejectFile(path) as f,
    ):
        for _ in range(rows):
            f.add(row, "no reason")
    assert list(tmp_path.iterdir()) == []
