"""Anchors: a frontier that changed is told from a student that did, at a pace and within a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.conftest import chat, write_lines
from tests.gateway.conftest import (
    ANSWER,
    EASY,
    KEY,
    SURE,
    SYSTEM,
    Frontier,
    Loop,
    Running,
    answering,
    body,
    by_hand,
    send,
    serving,
)
from tests.gateway.test_auditing import RIGHT, until
from tiercel.errors import ConfigurationError
from tiercel.gateway import anchoring
from tiercel.gateway.sections import Costs, Monitor, Settings
from tiercel.gateway.settings import read_settings
from tiercel.store.entries import Entry

Configured = Callable[..., Settings]
DELIVERY = EASY["delivery"]


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """Forty rows about deliveries, one of which the frontier got wrong when they were recorded."""
    rows = [
        chat(f"my {DELIVERY[i % 6]} {DELIVERY[(i + 1) % 6]} was number {i}", "delivery", SYSTEM, id=f"a{i}")
        | {"reference": "returns" if i == 7 else "delivery", "model": "gpt-frontier"}
        for i in range(40)
    ]
    return write_lines(tmp_path / "anchors.jsonl", *rows)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of anchors takes no time."""
    monkeypatch.setattr(anchoring, "DAY_S", 1e-6)


def status(gateway: Running) -> Any:
    return gateway.worker.auditor.statuses()[0]


def anchored(gateway: Running) -> Any:
    watch = gateway.worker.auditor._book.monitor("helpdesk").current
    assert watch is not None
    return watch


def ask(gateway: Running, count: int, done: Callable[[], bool] = lambda: False) -> int:
    """Let so many anchors be asked, or until it is done; how many were asked."""
    work = gateway.worker.auditor._anchoring
    assert work is not None
    for i in range(count):
        if done():
            return i
        gateway.worker.auditor.flush()
        until(lambda: not work._busy, "an anchor")
    return count


def booked(gateway: Running) -> int:
    gateway.worker.auditor.flush()
    return status(gateway).counts.booked


def anchor_entries(gateway: Running, count: int) -> list[Entry]:
    return [e for e in gateway.entries(count) if e.reason == "anchor"]


def monitor(anchors: Path, **more: Any) -> Monitor:
    return Monitor(**{"share": 1.0, "anchors": anchors, "drift_share": 0.0, **more})


def test_a_frontier_that_changed_is_named_before_it_is_taken_for_the_student(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path, logged: pytest.LogCaptureFixture
) -> None:
    frontier.behave = answering(200, RIGHT)  # "billing", to questions about deliveries
    with serving(loop, configured(frontier.provider(), monitor=monitor(anchors))) as gateway:
        by_hand(loop, gateway)
        assert (anchored(gateway).fixed["frontier"].rows, anchored(gateway).fixed["frontier"].error) == (40, 1 / 40)
        asked = ask(gateway, 60, lambda: status(gateway).cause == "frontier")
        assert 3 <= asked < 60
        found = status(gateway)
        assert (found.cause, found.send_back) == ("frontier", False) and found.frontier_log10 > 1
        entries = anchor_entries(gateway, asked)
        assert {(e.tier, e.status, e.content) for e in entries} == {("frontier", 200, None)}
        asked += ask(gateway, 1)  # the gauge is set with the next look
        page = gateway.worker.metrics.page()
        assert b'tiercel_frontier_drift{workload="helpdesk"} 1.0' in page
        assert f'tiercel_anchors_total{{outcome="scored",workload="helpdesk"}} {asked}'.encode() in page
    assert {r["messages"][1]["content"].split()[-2] for r in frontier.requests} == {"number"}
    assert any("the cause of a risen loss is now: frontier" in r.getMessage() for r in logged.records)


def test_an_alarm_is_the_students_once_the_frontier_is_cleared(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path
) -> None:
    # "delivery" to all: right on every anchor, and never what the student says to SURE.
    with serving(loop, configured(frontier.provider(), monitor=monitor(anchors))) as gateway:
        by_hand(loop, gateway)
        ask(gateway, 5)
        for i in range(1, 60):
            if send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "frontier":
                break
            until(lambda i=i: booked(gateway) >= i, "an audit")
        found = status(gateway)
        assert (found.send_back, found.cause) == (True, "undecided")
        asked = ask(gateway, 300, lambda: status(gateway).cause == "student")
        assert 20 <= asked < 300
        # Nothing is left to be told: the frontier is asked no more.
        before = anchored(gateway).anchors["frontier"].scored
        ask(gateway, 3)
        assert anchored(gateway).anchors["frontier"].scored == before


def test_a_restart_goes_on_with_the_same_rows_and_other_rows_begin_anew(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path
) -> None:
    settings = configured(frontier.provider(), monitor=monitor(anchors))
    with serving(loop, settings) as gateway:
        by_hand(loop, gateway)
        ask(gateway, 3)
    with serving(loop, settings) as gateway:
        by_hand(loop, gateway)
        # A gateway may ask one before the test takes over; one that began anew would have asked no more than that.
        assert anchored(gateway).anchors["frontier"].scored >= 3
        write_lines(anchors, *[r for i, r in enumerate(_rows(anchors)) if i != 7])
        loop.run(gateway.worker._reload_once(lambda: settings))
        fixed = anchored(gateway).fixed["frontier"]
        assert (fixed.rows, fixed.error) == (39, 0.0)
        broken = anchors.with_name("broken.jsonl")
        broken.write_text("{}\n")
        with pytest.raises(ConfigurationError, match=r"broken\.jsonl, line 1"):
            loop.run(gateway.worker._reload_once(lambda: replace(settings, monitor=monitor(broken))))
        assert anchored(gateway).fixed["frontier"] == fixed
        assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"


def _rows(path: Path) -> list[Any]:
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]


def test_anchors_rest_when_their_budget_is_spent(
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    anchors: Path,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "prices.csv").write_text(
        "model,input,cached_input,output\ngpt-frontier,0,0,1000\nfrontier-1,0,0,1000\n"
    )
    used = {"prompt_tokens": 5, "completion_tokens": 1_000, "total_tokens": 1_005}  # a dollar each
    frontier.behave = answering(200, {**ANSWER, "usage": used})
    settings = configured(
        frontier.provider(),
        monitor=monitor(anchors, anchors_budget_usd=2.9),
        costs=Costs(prices=tmp_path / "prices.csv"),
    )
    with serving(loop, settings) as gateway:
        by_hand(loop, gateway)
        for asked in range(1, 4):
            ask(gateway, 1)
            gateway.entries(asked)  # what it cost is settled where it is written down
        ask(gateway, 5)
        assert len(frontier.requests) == 3
        assert sum("its budget for anchors is spent" in r.getMessage() for r in logged.records) == 1
        # The workload's own requests are another matter.
        assert send(gateway.url, body(SURE, max_tokens=1), headers={"x-tiercel-tier": "frontier"})[0] == 200


def test_anchors_with_a_budget_rest_where_their_price_is_not_known(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path, logged: pytest.LogCaptureFixture
) -> None:
    settings = configured(frontier.provider(), monitor=monitor(anchors, anchors_budget_usd=2.9))
    with serving(loop, settings) as gateway:
        by_hand(loop, gateway)
        ask(gateway, 5)
        assert not frontier.requests
        assert anchored(gateway).anchors["frontier"].scored == 0
        said = [r.getMessage() for r in logged.records if "its anchors rest" in r.getMessage()]
        assert len(said) == 1
        assert "no price for the model 'gpt-frontier'" in said[0]


def test_an_anchor_without_an_answer_is_asked_again_and_lost_after_three_times(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path
) -> None:
    frontier.behave = answering(500, {"error": {"message": "no"}})
    with serving(loop, configured(frontier.provider(), monitor=monitor(anchors))) as gateway:
        by_hand(loop, gateway)
        ask(gateway, 2)
        assert anchored(gateway).anchors["frontier"].scored == 0
        ask(gateway, 1)
        assert (anchored(gateway).anchors["frontier"].scored, anchored(gateway).anchors["frontier"].total) == (1, 1.0)
        assert len({r["messages"][1]["content"] for r in frontier.requests}) == 1
        page = gateway.worker.metrics.page()
        assert b'tiercel_anchors_total{outcome="failed",workload="helpdesk"} 3.0' in page


def test_rows_that_are_too_few_or_of_no_workload_are_said_and_ask_nothing(
    loop: Loop, configured: Configured, frontier: Frontier, anchors: Path, logged: pytest.LogCaptureFixture
) -> None:
    stranger = chat("hello", "hi", "You are a poet.", id="s") | {"reference": "hi"}
    write_lines(anchors, *_rows(anchors)[:29], stranger)
    with serving(loop, configured(frontier.provider(), monitor=monitor(anchors))) as gateway:
        by_hand(loop, gateway)
        ask(gateway, 3)
        assert anchored(gateway).anchors == {}
    assert not frontier.requests
    said = " ".join(r.getMessage() for r in logged.records)
    assert "1 of 30 anchors are of no workload that is monitored" in said
    assert "29 anchors are too few to see a change of the frontier" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": "x"}], "reference": "y"}', "line 1: an anchor needs"),
        ('{"messages": [', "line 1: not valid JSON"),
        ("", "holds no row"),
    ],
)
def test_a_bad_file_of_anchors_is_a_mistake_of_the_settings(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "anchors.jsonl").write_text(line + "\n")
    toml = tmp_path / "tiercel.toml"
    toml.write_text('[[provider]]\nname = "p"\nkey_env = "K"\n[monitor]\nanchors = "anchors.jsonl"\n')
    with pytest.raises(ConfigurationError, match=message):
        read_settings(toml, {"K": KEY})
    toml.write_text('[[provider]]\nname = "p"\nkey_env = "K"\n[monitor]\nanchors = "none.jsonl"\n')
    with pytest.raises(ConfigurationError, match=r"monitor\.anchors"):
        read_settings(toml, {"K": KEY})
