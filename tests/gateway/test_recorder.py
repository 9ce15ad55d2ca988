from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from tiercel.errors import StorageError
from tiercel.gateway.recorder import BEHIND, Recorder


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_all_that_is_put_is_prepared_once_and_written_in_order() -> None:
    written: list[int] = []
    recorder = Recorder[int, int](lambda i: i * 10, written.extend)
    recorder.start()
    for i in range(5_000):
        recorder.put(i)
    recorder.stop()
    assert written == [i * 10 for i in range(5_000)]
    assert (recorder.written, recorder.dropped) == (5_000, 0)


def test_a_full_queue_drops_and_counts_and_never_waits() -> None:
    gate, told = threading.Event(), list[int]()

    def write(batch: Sequence[int]) -> None:
        gate.wait(10)

    recorder = Recorder[int, int](int, write, size=10, on_drop=told.append)
    recorder.put(0)
    recorder.start()
    until(lambda: recorder.waiting == 0)  # the first is being written, for as long as the gate is shut
    for i in range(25):
        recorder.put(i)
    assert (recorder.waiting, recorder.dropped, sum(told)) == (10, 15, 15)
    gate.set()
    recorder.stop()
    assert (recorder.written, recorder.dropped) == (11, 15)


def test_what_must_be_written_is_taken_by_a_full_queue_in_short() -> None:
    written, told = list[int](), list[int]()
    recorder = Recorder[int, int](
        int, written.extend, size=2, on_drop=told.append, shorten=lambda item: -item if item > 3 else None
    )
    for item in (1, 2, 3, 4, 5):
        recorder.put(item)
    assert (recorder.waiting, recorder.dropped, sum(told)) == (4, 3, 3)
    recorder.start()
    recorder.stop()
    assert written == [1, 2, -4, -5]


def test_a_batch_that_could_not_be_written_is_written_again_and_prepared_once() -> None:
    prepared: list[int] = []
    calls: list[list[int]] = []

    def prepare(item: int) -> int:
        prepared.append(item)
        return item

    def write(batch: Sequence[int]) -> None:
        calls.append(list(batch))
        if len(calls) < 3:
            raise OSError("the disk is away")

    recorder = Recorder[int, int](prepare, write)
    recorder.put(1)
    recorder.put(2)
    recorder.start()
    until(lambda: recorder.written == 2)
    recorder.stop()
    assert calls == [[1, 2]] * 3
    assert prepared == [1, 2]


def test_what_can_never_be_written_is_dropped_at_the_end_and_the_content_of_errors_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def write(batch: Sequence[str]) -> None:
        raise OSError(f"can't write {batch[0]}")

    recorder = Recorder[str, str](str, write)
    recorder.put("a secret")
    recorder.start()
    recorder.stop(timeout_s=0.4)
    assert (recorder.written, recorder.dropped) == (0, 1)
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text


def test_one_item_that_can_not_be_prepared_costs_no_other() -> None:
    written: list[float] = []
    recorder = Recorder[int, float](lambda i: 1 / i, written.extend)
    for i in (1, 0, 2):
        recorder.put(i)
    recorder.start()
    recorder.stop()
    assert written == [1.0, 0.5]
    assert recorder.dropped == 1


def test_after_the_end_items_are_dropped_and_counted() -> None:
    recorder = Recorder[int, int](int, lambda batch: None)
    recorder.start()
    recorder.stop()
    recorder.put(1)
    assert recorder.dropped == 1


def test_large_items_are_bounded_by_their_bytes() -> None:
    free, batches = threading.Event(), list[list[int]]()

    def write(batch: Sequence[int]) -> None:
        free.wait(5)
        batches.append(list(batch))

    recorder: Recorder[int, int] = Recorder(int, write, weigh=lambda item: item, most_bytes=100)
    recorder.put(1_000)  # more than the limit, but nothing else waits
    recorder.put(1)
    assert (recorder.waiting, recorder.dropped) == (1, 1)
    recorder.start()
    free.set()
    until(lambda: recorder.written == 1 and recorder._came_bytes == recorder._went_bytes)
    for item in (40, 40, 40):
        recorder.put(item)
    recorder.stop()
    assert recorder.written + recorder.dropped == 5
    assert batches[0] == [1_000]


def test_a_batch_ends_at_its_bytes() -> None:
    batches = list[int]()
    recorder: Recorder[int, int] = Recorder(
        int, lambda batch: batches.append(len(batch)), weigh=lambda _: 20 * 2**20, most_bytes=2**40
    )
    for item in range(6):
        recorder.put(item)
    recorder.start()
    recorder.stop()
    assert batches == [2, 2, 2]


def test_while_nothing_can_be_written_all_wait_as_long_as_there_is_room_and_a_cause_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiercel.gateway.recorder.LONGEST_PAUSE_S", 0.01)
    away, written, tries = threading.Event(), list[int](), list[int]()

    def write(batch: Sequence[int]) -> None:
        tries.append(len(batch))
        if not away.is_set():
            raise StorageError(f"the store is away ({len(tries) // 20})")  # two causes, one after the other
        written.extend(batch)

    recorder = Recorder[int, int](int, write, size=10)
    recorder.put(0)
    recorder.start()
    until(lambda: len(tries) > 0)
    for i in range(1, 31):
        recorder.put(i)
    until(lambda: len(tries) > 30)
    away.set()
    until(lambda: recorder.written == 11)
    recorder.stop()
    assert written == list(range(11))
    assert recorder.dropped == 20
    assert [record.getMessage() for record in caplog.records] == [
        "traces can't be stored now and wait: the store is away (0)",
        "the queue of traces is full; further ones are dropped and counted until it has room",
        "traces can't be stored now and wait: the store is away (1)",
        "traces are stored again; 20 were dropped meanwhile",
    ]


def test_one_item_that_can_not_be_written_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    written: list[str] = []

    def write(batch: Sequence[str]) -> None:
        if "a secret" in batch:
            raise ValueError(f"what is {batch}?")
        written.extend(batch)

    recorder = Recorder[str, str](str, write)
    for item in ("a", "a secret", "b"):
        recorder.put(item)
    recorder.start()
    recorder.stop()
    assert written == ["a", "b"]
    assert (recorder.written, recorder.dropped) == (2, 1)
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_it_is_behind_where_more_waits_than_it_gets_to_write_and_not_where_the_store_is_away() -> None:
    away = StorageError("the store is away")

    def write(_: Sequence[int]) -> None:
        raise away

    recorder = Recorder[int, int](lambda item: item, write)
    for i in range(BEHIND + 1):
        assert not recorder.is_behind
        recorder.put(i)
    assert recorder.is_behind
    recorder.start()
    until(lambda: not recorder.is_behind)  # the trouble is known
    assert recorder.waiting > 0
    recorder.stop(0.2)
