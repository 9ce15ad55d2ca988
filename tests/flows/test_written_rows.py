"""Rows that a teacher wrote are trained on and never measured on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.flows.conftest import LINEAR, SYSTEM, rows, write_rows
from tiercel.flows.bundle import verify_bundle
from tiercel.flows.lineage import trained_on
from tiercel.flows.pilot import pilot
from tiercel.flows.progress import Silent


def written(n: int, **more: Any) -> list[dict[str, Any]]:
    found = rows(n, seed=77)
    return [{**r, "id": f"w{i}", "metadata": {"augmented": "parcels"}, **more} for i, r in enumerate(found)]


def test_they_join_training_alone_and_leave_every_other_part_as_it_was(
    tmp_path: Path, traffic: Callable[..., Path]
) -> None:
    real = traffic(rows(300))
    plain = pilot([real], tmp_path / "plain", LINEAR)
    more = write_rows(tmp_path / "more.jsonl", written(40))
    told = Silent()
    found = pilot([real, more], tmp_path / "more", LINEAR, progress=told)
    assert (found.rows.augmented, plain.rows.augmented) == (40, 0)
    assert found.rows.train == plain.rows.train + 40
    before, after = verify_bundle(tmp_path / "plain")[0], verify_bundle(tmp_path / "more")[0]
    assert {r.key for r in before.rows} == {r.key for r in after.rows}
    assert found.workload == plain.workload, "neither the rows nor the year's cost count what nobody sent"
    assert found.cost.requests_per_year == plain.cost.requests_per_year
    assert trained_on(tmp_path / "more", ["w0", "w39"]) == {"w0", "w39"}
    assert told.warnings == []


def test_one_that_repeats_a_row_that_is_measured_on_is_left_out(tmp_path: Path, traffic: Callable[..., Path]) -> None:
    lines = rows(300)
    copies = [{**r, "id": f"c{r['id']}", "metadata": {"augmented": "x"}} for r in json.loads(json.dumps(lines))]
    for copy in copies:
        copy["messages"][1]["content"] += "!"
    told = Silent()
    plain = pilot([traffic(lines)], tmp_path / "plain", LINEAR)
    found = pilot([traffic([*lines, *copies], "both.jsonl")], tmp_path / "out", LINEAR, progress=told)
    measured = plain.rows.gate + plain.rows.calibration + plain.rows.test
    assert found.rows.augmented == 300 - measured
    assert told.warnings == [f"{measured} augmented rows nearly repeat a row that is measured on and are left out"]


def test_one_of_another_form_is_left_out_and_none_becomes_a_test_row(
    tmp_path: Path, traffic: Callable[..., Path]
) -> None:
    odd = written(2)
    odd[0]["messages"][2]["content"] = "no label"
    test = write_rows(tmp_path / "test.jsonl", [*rows(60, seed=5), *written(9)])
    told = Silent()
    found = pilot([traffic([*rows(300), *odd])], tmp_path / "out", LINEAR, test=test, progress=told)
    assert (found.rows.augmented, found.rows.test) == (1, 60)
    assert any("answers not of the task's form" in w for w in told.warnings)
    assert SYSTEM in found.workload.template
