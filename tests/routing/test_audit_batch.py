from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.routing.audit_streams import RULE, opened
from tiercel.routing.audit_batch import AuditBatch
from tiercel.routing.audit_events import Drawn, Passed
from tiercel.routing.audits import Draw, draw_audit, epoch_key
from tiercel.routing.monitor import Monitor
from tiercel.stats.e_processes import EProcess, MeanTest

NO, YES = Draw(propensity=0.8, draw=0.9), Draw(propensity=0.8, draw=0.1)


def test_a_batch_keeps_the_order_of_the_draws_and_its_last_zeros() -> None:
    batch = AuditBatch(list_undrawn=True)
    batch.refused(1, ("de",))
    assert not batch.accepted(1, "a", 0.6, NO, ("de", "de", "vip"))
    assert batch.accepted(1, "b", 0.5, YES, ("en",))
    assert not batch.accepted(1, "c", 0.7, NO)
    batch.refused(2)
    assert batch.requests == 5
    assert batch.take() == [
        Passed(epoch=1, refused=1, undrawn=1, segments={"de": 2, "vip": 1}, listed=(("a", 0.6),)),
        Drawn(epoch=1, trace="b", score=0.5, propensity=0.8, draw=0.1, segments=("en",)),
        Passed(epoch=1, refused=0, undrawn=1, listed=(("c", 0.7),)),
        Passed(epoch=2, refused=1, undrawn=0),
    ]
    assert batch.take() == [] and batch.requests == 0


def test_no_request_is_lost_between_threads() -> None:
    batch, taken = AuditBatch(), list[Passed | Drawn]()

    def work(n: int) -> None:
        for i in range(500):
            batch.accepted(1, f"{n}-{i}", 0.5, YES if i % 10 == 0 else NO)
            if i % 50 == 0:
                taken.extend(batch.take())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    taken += batch.take()
    assert sum(e.undrawn for e in taken if isinstance(e, Passed)) == 1_800
    assert sum(isinstance(e, Drawn) for e in taken) == 200


def test_a_monitor_takes_what_a_batch_gives() -> None:
    batch, monitor, key = AuditBatch(list_undrawn=True), Monitor("tickets"), epoch_key(bytes(range(32)), "tickets", 1)
    monitor.apply(opened(segments=("de",)))
    for i in range(200):
        score = i / 200
        if score < RULE.threshold:
            batch.refused(1, ("de",) if i % 2 else ())
        else:
            batch.accepted(1, f"t{i}", score, draw_audit(RULE, key, f"t{i}", score), ("de",))
    for event in batch.take():
        monitor.apply(event)
    status = monitor.status()
    assert (status.requests, status.offload) == (200, 0.5)


@pytest.mark.parametrize(("by_count", "fair"), [(True, True), (False, False)])
def test_two_gateways_keep_the_level_when_batches_are_closed_by_count(by_count: bool, fair: bool) -> None:
    # Exactly, over all paths of four requests that two gateways get in turn: the capital's mean after the first batch
    # that is written. Writing at each draw makes it larger than 1, which is why a batch is not closed by a draw.
    drawn, wrong, expected = 0.3, 0.2, 0.0
    chances = {"passed": 1 - drawn, "right": drawn * (1 - wrong), "wrong": drawn * wrong}
    test = MeanTest(bound=wrong, alternative="above", low=0.0, high=1 / drawn)
    for path in itertools.product(chances, repeat=4):
        first = next((i for i, step in enumerate(path) if step != "passed"), 3)
        batch = path[0::2] if by_count else path[first % 2 : first + 1 : 2]
        process = EProcess(test)
        for step in batch:
            process.update_zeros(1) if step == "passed" else process.update(1 / drawn if step == "wrong" else 0.0)
        expected += math.prod(chances[step] for step in path) * math.exp(process.value.log)
    assert (abs(expected - 1) < 1e-9) == fair
    assert expected >= 1 - 1e-9
