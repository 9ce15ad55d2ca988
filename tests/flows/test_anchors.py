"""Anchors as they are read, and what is known of them before the first is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import chat, write_lines
from tiercel.errors import DataError
from tiercel.flows.anchors import FEWEST, AnchorRow, anchors_of, read_anchor_rows
from tiercel.types import Answer


def row(i: int) -> AnchorRow:
    return AnchorRow(id=f"a{i}", body={"messages": []}, told=Answer(content="x"), right=Answer(content="y"))


def test_a_row_is_asked_as_it_was_recorded(tmp_path: Path) -> None:
    line = chat("17 * 23?", "391", "Reckon.", id="a", model="big", response_format={"type": "text"})
    path = write_lines(tmp_path / "a.jsonl", line | {"reference": {"content": "391.0"}})
    ((example, anchor),) = read_anchor_rows(path)
    assert anchor.body == {
        "messages": [{"role": "system", "content": "Reckon."}, {"role": "user", "content": "17 * 23?"}],
        "model": "big",
        "response_format": {"type": "text"},
    }
    assert (anchor.id, anchor.told.text, anchor.right.text, example.model) == ("a", "391", "391.0", "big")


def test_a_row_that_can_not_be_an_anchor_is_named_by_its_line(tmp_path: Path) -> None:
    good = chat("a", "b", id="1") | {"reference": "b"}
    for bad, message in (
        (chat("a", "b", id="2"), "line 2: an anchor needs"),
        (chat("a", id="2") | {"reference": "b"}, "line 2: an anchor needs"),
        (good, "line 2: its id stands there twice"),
        ({"messages": "x"}, "line 2: "),
    ):
        with pytest.raises(DataError, match=message):
            read_anchor_rows(write_lines(tmp_path / "a.jsonl", good, bad))


def test_the_tolerance_grows_with_what_the_rows_leave_unknown() -> None:
    rows = [row(i) for i in range(400)]
    sure = anchors_of(rows, [0.0] * 400, "sql")
    assert (sure.error, sure.tolerance) == (0.0, 0.02)
    few = anchors_of(rows[:40], [1.0] * 10 + [0.0] * 30, "sql")
    assert few.error == 0.25 and few.tolerance == pytest.approx(2 * (0.25 * 0.75 / 39) ** 0.5)
    assert sure.digest != anchors_of(rows, [0.0] * 400, "generation").digest
    assert sure.digest == anchors_of(rows, [0.0] * 400, "sql").digest
    with pytest.raises(DataError, match="too few"):
        anchors_of(rows[: FEWEST - 1], [0.0] * (FEWEST - 1), "sql")
