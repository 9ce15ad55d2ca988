"""Where requests wait for a student: parted by their metadata, for a bounded time, behind a bounded number of others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.flows.conftest import rows, write_rows
from tests.gateway.conftest import SURE, Frontier, Loop, Running, body, send, serving
from tests.gateway.launching import until
from tiercel.flows.bundle import Answered, Bundle, load
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway import desk as desk_module
from tiercel.gateway.desk import Desk
from tiercel.gateway.sections import Server, Settings
from tiercel.types import Message

Sent = tuple[int, dict[str, str], bytes]


@dataclass
class Slow:
    """Keeps bundles at work on what they are asked until it is told that they may answer."""

    free: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))

    def ask(self, gateway: Running, text: str = SURE, **headers: str) -> Future[Sent]:
        return self.pool.submit(send, gateway.url, body(text), headers=headers)

    def working(self, gateway: Running, waiting: int) -> list[Future[Sent]]:
        """One request that the student works on, and others that wait behind it."""
        found = [self.ask(gateway)]
        until(lambda: self.batches, "the first request's turn")
        found += [self.ask(gateway) for _ in range(waiting)]
        desk = gateway.worker.gateway.state.workloads.known[0].desk
        assert desk is not None
        until(lambda: len(desk._waiting) == waiting)
        return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow, real = Slow(), Bundle.answer_many

    def answer_many(self: Bundle, requests: Any, **more: Any) -> Any:
        slow.batches.append(len(requests))
        assert slow.free.wait(20)
        return real(self, requests, **more)

    monkeypatch.setattr(Bundle, "answer_many", answer_many)
    yield slow
    slow.free.set()
    slow.pool.shutdown()


def test_requests_that_wait_together_keep_their_own_metadata(tmp_path: Path) -> None:
    lines = rows(700)
    for i, line in enumerate(lines):
        line["metadata"] = {"team": "a" if i % 50 else "rare"}
    settings = PilotSettings(students=("linear",), max_loss=0.1, segment="team")
    pilot([write_rows(tmp_path / "t.jsonl", lines)], tmp_path / "out", settings)
    messages = [Message(role=m["role"], content=m["content"]) for m in lines[1]["messages"][:2]]

    async def ask() -> list[Answered]:
        desk = Desk(load(tmp_path / "out"))
        desk.take(ask)
        try:
            given = [{"team": "a"}, {"team": "rare"}, None, {"team": "a"}]
            return list(await asyncio.gather(*(desk.answer(messages, metadata) for metadata in given)))
        finally:
            desk.release(ask)

    told = asyncio.run(ask())
    assert [a.segment for a in told] == ["a", "rare", "", "a"]
    assert [a.tier for a in told] == ["student", "frontier", "frontier", "student"]


def test_who_waits_at_a_desk_that_was_handed_on_is_answered_though_two_reloads_let_it_go(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, slow: Slow
) -> None:
    first = configured(frontier.provider())
    second = replace(first, providers=(frontier.provider(name="renamed"),))
    with serving(loop, first) as gateway:
        desk = gateway.worker.gateway.state.workloads.known[0].desk
        waiting = slow.working(gateway, 2)
        loop.run(gateway.worker._reload(lambda: second))
        assert gateway.worker.gateway.state.workloads.known[0].desk is desk
        loop.run(gateway.worker._reload(lambda: replace(second, workloads=())))
        slow.free.set()
        answers = [future.result(10) for future in waiting]
        assert [(status, headers["x-tiercel-tier"]) for status, headers, _ in answers] == [(200, "student")] * 3
        assert desk is not None
        until(lambda: desk._executor._shutdown, "the desk's end, now that nobody uses it")


def test_a_request_waits_for_its_student_no_longer_than_for_anything_else(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, slow: Slow
) -> None:
    settings = configured(frontier.provider(), server=Server(request_timeout_s=0.5, drain_s=0.2))
    with serving(loop, settings) as gateway:
        late = [future.result(10) for future in slow.working(gateway, 1)]
        assert [(status, json.loads(raw)["error"]["code"]) for status, _, raw in late] == [(504, "timed_out")] * 2
        slow.free.set()
        assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        assert slow.batches == [1, 1]  # the one that gave up waiting was not worked on


def test_who_finds_too_many_waiting_goes_to_the_frontier_or_is_told_to_come_back(
    loop: Loop,
    configured: Callable[..., Settings],
    frontier: Frontier,
    slow: Slow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(desk_module, "MOST_WAITING", 2)
    with serving(loop, configured(frontier.provider())) as gateway:
        waiting = slow.working(gateway, 2)
        status, headers, _ = slow.ask(gateway).result(10)
        assert (status, headers["x-tiercel-tier"]) == (200, "frontier")
        assert headers["x-tiercel-reason"] == "student busy"
        status, headers, raw = slow.ask(gateway, **{"x-tiercel-tier": "student"}).result(10)
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(raw)["error"]["code"] == "student_busy"
        assert "x-should-retry" not in headers
        slow.free.set()
        assert [future.result(10)[1]["x-tiercel-tier"] for future in waiting] == ["student"] * 3
