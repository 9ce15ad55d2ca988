"""Labels that are probably wrong are shown to people."""

from __future__ import annotations

from pathlib import Path

from tests.flows.conftest import rows, write_rows
from tiercel.flows.doubts import doubts_of, outside_view
from tiercel.flows.preparation import Prepared, prepare, task_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload


def prepared_from(path: Path) -> Prepared:
    read = read_workload([path], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    return prepare(
        read.key, read.examples, None, task=task, labels=labels, shape=shape, max_loss=0.05, seed=0, progress=Silent()
    )


def test_planted_mistakes_are_found_and_only_as_many_requests_shown_as_asked_for(tmp_path: Path) -> None:
    lines = rows(800)
    other = {"refund": "praise", "praise": "delivery", "delivery": "account", "account": "refund"}
    wrong = set[str]()
    for line in lines[::20]:
        user, told = line["messages"][1], line["messages"][2]
        told["content"] = other[told["content"]]
        wrong.add(user["content"])
    write_rows(tmp_path / "traffic.jsonl", lines)
    prepared = prepared_from(tmp_path / "traffic.jsonl")
    assert doubts_of(prepared, tmp_path, 100) is None, "nobody has looked from outside yet"
    view = outside_view(prepared, tmp_path, 0)
    assert (outside_view(prepared, tmp_path, 1) == view).all(), "kept from the first time"
    found = doubts_of(prepared, tmp_path, 100)
    assert found is not None
    planted = sum(text in wrong for text in prepared.train.texts)
    named = [row["text"] in wrong for row in found["examples"]]
    assert sum(named) > 0.8 * planted
    assert sum(named) > 0.7 * found["rows"]
    shown = doubts_of(prepared, tmp_path, 3)
    assert shown is not None
    assert len(shown["examples"]) == 3
    assert doubts_of(prepared, tmp_path, 0) == shown | {"examples": []}
