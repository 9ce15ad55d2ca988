"""Answering a file: what the student may not answer goes to a real server in the frontier's place."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.flows.conftest import SYSTEM, write_rows
from tiercel import load
from tiercel.errors import DataError
from tiercel.flows.answering import answer_file
from tiercel.flows.progress import Silent
from tiercel.providers.openai_compatible import FrontierSettings


class Frontier:
    """A server in a thread that answers every chat with "handled", or with the status it is told to."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def _chat(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": "handled"}}]})

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._ready.set()

    def _run(self) -> None:
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    def __enter__(self) -> Frontier:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def frontier() -> Iterator[Frontier]:
    with Frontier() as server:
        yield server


def request(number: int, text: str, system: str = SYSTEM, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"id": f"q{number}", "messages": messages, **more}


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_escalated_is_asked_of_the_frontier(linear_pilot: Path, tmp_path: Path, frontier: Frontier) -> None:
    source = write_rows(
        tmp_path / "in.jsonl",
        [request(1, "parcel courier tracking late"), request(2, "bonjour", system="Translate."), request(3, "zzz qqq")],
    )
    out = tmp_path / "out.jsonl"
    settings = FrontierSettings(url=f"http://127.0.0.1:{frontier.port}/v1", api_key="k")
    counts = answer_file(load(linear_pilot), source, out, Silent(), frontier=settings)
    assert [(r["id"], r["tier"], r["answer"]) for r in answers(out)] == [
        ("q1", "student", "delivery"),
        ("q2", "frontier", "handled"),
        ("q3", "frontier", "handled"),
    ]
    assert (counts.student, counts.frontier, counts.unanswered) == (1, 2, 0)
    assert [b["model"] for b in frontier.bodies] == ["gpt-4o", "gpt-4o"], "the model of the bundle's log is asked for"


def test_tools_that_the_workload_does_not_have_are_the_frontiers(linear_pilot: Path, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "cancel_order", "parameters": {}}}
    source = write_rows(tmp_path / "in.jsonl", [request(1, "parcel courier tracking late", tools=[tool])])
    answer_file(load(linear_pilot), source, tmp_path / "out.jsonl", Silent())
    assert answers(tmp_path / "out.jsonl")[0]["reason"] == "another workload"


def test_a_frontier_that_fails_leaves_the_error_and_no_answer(
    linear_pilot: Path, tmp_path: Path, frontier: Frontier
) -> None:
    frontier.status = 500
    source = write_rows(tmp_path / "in.jsonl", [request(1, "bonjour", system="Translate.")])
    settings = FrontierSettings(url=f"http://127.0.0.1:{frontier.port}/v1", api_key="sk-secret")
    counts = answer_file(load(linear_pilot), source, tmp_path / "out.jsonl", Silent(), frontier=settings)
    row = answers(tmp_path / "out.jsonl")[0]
    assert row["answer"] is None
    assert row["error"]
    assert "sk-secret" not in json.dumps(row)
    assert counts.unanswered == 1
    assert (counts.errors.total(), counts.frontier_failed) == (1, True)


def test_the_commonest_error_is_told_and_how_often(linear_pilot: Path, tmp_path: Path, frontier: Frontier) -> None:
    source = write_rows(tmp_path / "in.jsonl", [request(i, "bonjour", system="Translate.") for i in range(3)])
    frontier.status = 404
    settings = FrontierSettings(url=f"http://127.0.0.1:{frontier.port}/v1", api_key="sk-secret")
    teller = Silent()
    counts = answer_file(load(linear_pilot), source, tmp_path / "out.jsonl", teller, frontier=settings)
    (warning,) = teller.warnings
    assert "3 of 3 requests to the frontier failed; most often (3): " in warning
    assert "404" in warning
    assert "sk-secret" not in warning
    assert counts.frontier_failed


def test_nothing_is_written_when_no_row_is_a_request(linear_pilot: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ["nonsense", "{}"])
    with pytest.raises(DataError, match="none of its rows is a request"):
        answer_file(load(linear_pilot), source, tmp_path / "out.jsonl", Silent())
    assert list(tmp_path.iterdir()) == [source]
