"""Traffic that can't be parted is refused with the reason, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import LINEAR, SYSTEM, rows, write_rows
from tiercel.errors import DataError
from tiercel.flows.pilot import pilot
from tiercel.flows.preparation import Rows, part_rows, prepare, task_of
from tiercel.flows.progress import Keeping, Silent
from tiercel.flows.traffic import read_workload


def texts(n: int, alike: int) -> Rows:
    rng = np.random.default_rng(0)
    same = "please send the parcel to the new address that stands in the last message, number"
    found = [f"{same} {i}" for i in range(alike)]
    found += [" ".join(str(w) for w in rng.integers(0, 10**9, 8)) for _ in range(n - alike)]
    blank = np.zeros(n, dtype=np.bool_)
    return Rows(
        ids=found,
        keys=found,
        texts=found,
        frontier=[],
        reference=[],
        verified=blank,
        targets=np.zeros((n, 0), np.float32),
        parsed=blank,
        frontier_loss=np.zeros(n),
    )


@pytest.mark.parametrize("alike", [200, 230])
def test_requests_most_of_which_are_alike_are_refused(alike: int) -> None:
    for seed in range(3):
        with pytest.raises(DataError, match=f"^{alike} of 230 requests nearly repeat .* collect requests that differ$"):
            part_rows(texts(230, alike), with_test=True, max_loss=0.05, seed=seed)


@pytest.mark.parametrize(("alike", "warned"), [(40, True), (10, False)])
def test_a_large_group_of_requests_is_warned_of(alike: int, warned: bool) -> None:
    teller = Keeping(Silent())
    parts = part_rows(texts(230, alike), with_test=True, max_loss=0.05, seed=0, progress=teller)
    assert sum(map(len, parts)) == 230
    assert any("40 of 230 requests nearly repeat" in w for w in teller.warnings) == warned


@pytest.mark.parametrize("n", [60, 100])
@pytest.mark.parametrize("with_test", [True, False])
def test_the_smallest_traffic_whose_requests_differ_can_be_parted(n: int, with_test: bool) -> None:
    for seed in range(4):
        part_rows(texts(n, 0), with_test=with_test, max_loss=0.05, seed=seed)


@pytest.mark.parametrize("kept", [0, 30])
def test_a_test_file_that_repeats_the_traffic_is_named(tmp_path: Path, kept: int) -> None:
    lines = rows(200, system=SYSTEM)
    path, test = write_rows(tmp_path / "t.jsonl", lines), write_rows(tmp_path / "test.jsonl", lines[kept:])
    with pytest.raises(DataError, match=r"of 200 rows are left .* a row of .*test\.jsonl, a pilot needs at least 60"):
        pilot([path], tmp_path / "out", LINEAR, test=test)


def test_users_too_few_to_be_parted_are_not_kept_on_one_side(tmp_path: Path) -> None:
    """Eleven users of 9 % each: by some seeds the gate, which is to have 8 %, gets none of them."""
    lines = [row | {"metadata": {"user": f"u{i % 11}"}} for i, row in enumerate(rows(220))]
    path = write_rows(tmp_path / "t.jsonl", lines)
    read = read_workload([path], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    kept = list[str | None]()
    for seed in (0, 6, 9):
        teller = Keeping(Silent())
        prepared = prepare(
            read.key,
            read.examples,
            None,
            task=task,
            labels=labels,
            shape=shape,
            max_loss=0.05,
            seed=seed,
            progress=teller,
            cluster="user",
        )
        kept.append(prepared.cluster)
        assert len(prepared.gate) >= 0.3 * 0.08 * 220
        assert any("'user' can't be kept on one side" in w for w in teller.warnings) == (prepared.cluster is None)
    assert {None, "user"} == set(kept)
