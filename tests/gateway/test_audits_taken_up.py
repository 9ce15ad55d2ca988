"""Audits whose gateway ended: another one takes them up, once, or counts them."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.conftest import SURE, Frontier, Loop, Running, answering, body, send, serving
from tests.gateway.launching import config, launched
from tests.gateway.launching import until as until_long
from tests.gateway.test_auditing import ALL, RIGHT, until
from tiercel.gateway.sections import Capture, Monitor, Privacy, Settings
from tiercel.routing.audit_book import AuditBook
from tiercel.routing.audit_verifier import verify_lines
from tiercel.store.database import open_database

Configured = Callable[..., Settings]


def never(frontier: Frontier) -> None:
    async def behave(_: web.Request) -> web.Response:
        await frontier.until_released()
        return web.json_response(RIGHT)

    frontier.behave = behave


def status(gateway: Running) -> Any:
    return gateway.worker.auditor.statuses()[0]


def left_behind(loop: Loop, settings: Settings, frontier: Frontier, count: int = 1, text: str = SURE) -> None:
    """A gateway that ends while the frontier is being asked."""
    never(frontier)
    with serving(loop, settings) as gateway:
        for i in range(count):
            assert send(gateway.url, body(text, seed=i))[1]["x-tiercel-tier"] == "student"
        until(lambda: len(frontier.requests) == min(count, 4), "the first of them")
        until(lambda: status(gateway).counts.drawn == count, "the draws")
        gateway.entries(count)
        loop.run(gateway.worker.auditor.close(0.05))
    frontier.behave = answering(200, RIGHT)


def test_a_start_takes_up_what_was_under_way_and_asks_it_as_it_was(
    loop: Loop, configured: Configured, frontier: Frontier, tmp_path: Path
) -> None:
    settings = configured(frontier.provider(), monitor=ALL)
    left_behind(loop, settings, frontier)
    with serving(loop, settings) as gateway:
        until(lambda: status(gateway).counts.booked == 1, "the audit")
        counts = status(gateway).counts
        assert (counts.judged, counts.taken_up, counts.failed, counts.expired) == (1, 1, 0, 0)
        assert frontier.requests == [body(SURE, seed=0)] * 2
        AuditBook(gateway.database).export(tmp_path / "log", show_current_keys=True)
    assert verify_lines((tmp_path / "log").read_text().splitlines()).rows >= 4


def test_what_is_taken_up_is_no_loss_however_long_nobody_was_there(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    settings = configured(frontier.provider(), monitor=Monitor(share=1.0, expire_s=2.0))
    left_behind(loop, settings, frontier)
    time.sleep(2.1)
    with serving(loop, settings) as gateway:
        until(lambda: status(gateway).counts.booked == 1, "the audit")
        assert (status(gateway).counts.judged, status(gateway).counts.expired) == (1, 0)


@pytest.mark.parametrize("kept", ["no content", "redacted"])
def test_what_is_not_kept_as_it_was_counts_as_a_loss_and_is_said(
    kept: str,
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
) -> None:
    more: dict[str, Any] = {"capture": Capture(store=str(tmp_path / "store.db"), content=False)}
    if kept == "redacted":
        more = {"privacy": Privacy(redact_storage=("email",))}
    settings = configured(frontier.provider(), monitor=ALL, **more)
    left_behind(loop, settings, frontier, text=f"{SURE} ada@example.org")
    with serving(loop, settings) as gateway:
        until(lambda: status(gateway).counts.booked == 1, "the audit")
        counts = status(gateway).counts
        assert (counts.failed, counts.judged, counts.taken_up) == (1, 0, 1)
        assert status(gateway).whole.excess_loss.high > 0.5  # it counts as lost, and is not left out
    assert len(frontier.requests) == 1
    said = [r.getMessage() for r in logged.records if r.levelno == logging.WARNING]
    assert any("1 audits of a gateway that ended are taken up; 1 of them count as losses" in text for text in said)


def test_an_audit_of_a_living_gateway_is_left_to_it(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    never(frontier)
    settings = configured(frontier.provider(), monitor=ALL)
    with serving(loop, settings) as gateway, serving(loop, settings) as other:
        send(gateway.url, body(SURE))
        assert frontier.asked.wait(10)
        until(lambda: status(other).waiting == 1, "the draw")
        for _ in range(5):
            other.worker.auditor.flush()
        assert status(other).counts.taken_up == 0
        frontier.released.set()
        until(lambda: status(gateway).counts.booked == 1, "the result")
    assert len(frontier.requests) == 1


def test_two_gateways_that_start_at_once_ask_each_audit_once(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    settings = configured(frontier.provider(), monitor=ALL)
    left_behind(loop, settings, frontier, count=12)
    asked = len(frontier.requests)
    with serving(loop, settings) as one, serving(loop, settings) as other:
        until(lambda: status(one).counts.booked == 12, "all audits")
        until(lambda: status(other).counts.booked == 12, "the other's record")
        assert (status(one).counts.taken_up, status(one).counts.already_judged) == (12, 0)
    assert len(frontier.requests) == asked + 12
    assert sorted(r["seed"] for r in frontier.requests[asked:]) == list(range(12))


def test_a_gateway_that_is_killed_leaves_its_audits_to_another_on_postgresql(
    loop: Loop,
    frontier: Frontier,
    bundle_folder: Path,
    tmp_path: Path,
    postgres_url: str,
) -> None:
    never(frontier)
    text = config(
        f'[[workload]]\nname = "helpdesk"\nbundle = "{bundle_folder}"\nthreads = 1\n',
        "[monitor]\nshare = 1.0\n",
        '[capture]\nstore_env = "STORE_URL"\n',
        frontier=frontier.url,
    )
    database = open_database(postgres_url)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(launched(tmp_path / name, text, env={"STORE_URL": postgres_url}))
            for name in ("one", "two")
        )
        for gateway in (one, two):
            assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        until_long(lambda: len(frontier.requests) == 2, "both audits")
        frontier.behave = answering(200, RIGHT)
        os.kill(one.process.pid, signal.SIGKILL)
        book = AuditBook(database)

        def taken() -> bool:
            book.catch_up()
            return book.monitor("helpdesk").status().counts.taken_up == 1

        until_long(taken, "the take-up")
        until_long(lambda: len(frontier.requests) == 3, "the audit")
        frontier.released.set()

        def booked() -> bool:
            book.catch_up()
            return book.monitor("helpdesk").status().counts.booked == 2

        until_long(booked, "both results")
        counts = book.monitor("helpdesk").status().counts
        assert (counts.judged, counts.failed, counts.already_judged) == (2, 0, 0)
        assert len(frontier.requests) == 3
    database.close()
    assert json.dumps(frontier.requests).count("invoice") == 3
