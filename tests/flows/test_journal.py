from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tiercel.errors import ConfigurationError, StorageError
from tiercel.flows.journal import Answered, Asked, Failed, Journal
from tiercel.flows.teacher import Bill, Sample
from tiercel.types import Usage

BILL = Bill(usage=Usage(input_tokens=3, output_tokens=1), counted=True, cost_usd=0.01)


def answered(call: int, key: str, charged: int = 10, *texts: str, counted: bool = True) -> Answered:
    bill = Bill(usage=BILL.usage, counted=counted, cost_usd=0.01)
    samples = tuple(Sample(content=t, logprobs=[-0.1]) for t in texts or ("yes",))
    return Answered(call=call, key=key, samples=samples, bill=bill, charged=charged, latency_s=0.5, model="m")


def write(path: Path, *records: Asked | Answered | Failed) -> None:
    async def together() -> None:
        await asyncio.gather(*(journal.write(record) for record in records))

    with Journal(path) as journal:
        asyncio.run(together())


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, Asked(call=0, key="a", reserved=50), answered(0, "a", 10, "x", "y"), answered(1, "a", 5, "z"))
    with Journal(path) as journal:
        journal.write_choice(["b", "c"])
        assert [s.content for s in journal.samples("a")] == ["x", "y", "z"]
        assert journal.answered["a"][0] == answered(0, "a", 10, "x", "y")
        assert (journal.spent, journal.unsure, journal.number()) == (15, 0, 2)
    with Journal(path) as journal:
        assert journal.chosen == ["b", "c"]


def test_what_was_asked_and_never_answered_counts_in_full(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, *(Asked(call=i, key=str(i), reserved=100) for i in range(4)), answered(0, "0", 7))
    write(path, Failed(call=1, charged=0), Failed(call=2, charged=100), answered(9, "9", 30, counted=False))
    with Journal(path) as journal:
        assert journal.spent == 7 + 0 + 100 + 100 + 30
        assert journal.unsure == 100 + 100 + 30
        assert journal.number() == 10


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_a_kill_cut_off_is_set_aside(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    write(path, answered(0, "a"), answered(1, "b"))
    path.write_bytes(path.read_bytes()[:-cut])
    write(path, answered(2, "c"))
    with Journal(path) as journal:
        assert (sorted(journal.answered), journal.skipped) == (["a", "c"], 0)


def test_a_broken_line_is_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, answered(0, "a"))
    path.write_bytes(b"nonsense\n" + b'{"kind":"other"}\n' + path.read_bytes())
    with Journal(path) as journal:
        assert (sorted(journal.answered), journal.skipped) == (["a"], 2)


def test_many_writers_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("tiercel.flows.journal.os.fsync", synced.append)
    write(tmp_path / "j", *(answered(i, str(i)) for i in range(100)))
    assert 1 <= len(synced) <= 3
    with Journal(tmp_path / "j") as journal:
        assert len(journal.answered) == 100


def test_two_at_a_time_are_told_apart(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(ConfigurationError, match="another run"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "j"):
        pass


def test_a_full_disk_is_told_to_each_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiercel.flows.journal.os.fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path / "j", answered(0, "a"), answered(1, "b"))


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(StorageError):
        Journal(tmp_path / "j")
