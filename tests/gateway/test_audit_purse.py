"""Audits and budgets: who pays, and that an empty budget leaves no mark on the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import SURE, UNSURE, Frontier, Loop, Running, answering, body, by_hand, send, serving
from tests.gateway.test_auditing import ALL, RIGHT, audited, status, until
from tests.gateway.test_audits_taken_up import left_behind
from tests.gateway.test_gateway import key_header
from tiercel.gateway.sections import Costs, Monitor, Settings
from tiercel.store.keys import create_key
from tiercel.store.limits import Scope, Spent, spent

Configured = Callable[..., Settings]
Priced = Callable[..., Settings]
ESTIMATE, COST = 0.5, 0.001
"""USD: 500 tokens of an answer that nobody knows yet, and the one that comes."""


@pytest.fixture
def priced(configured: Configured, frontier: Frontier, tmp_path: Path) -> Priced:
    """Settings that audit, with a workload's budget."""
    prices = tmp_path / "prices.csv"
    prices.write_text("model,input,cached_input,output\ngpt-frontier,0,0,1000\nfrontier-1,0,0,1000\n")
    frontier.behave = answering(200, RIGHT)

    def settings(budget: float, monitor: Monitor = ALL, **limits: Any) -> Settings:
        own = {"budget_usd": budget, "period": "total", **limits}
        return configured(frontier.provider(), monitor=monitor, workload=own, costs=Costs(prices=prices))

    return settings


def used(gateway: Running, kind: str = "workload", name: str = "helpdesk") -> Spent:
    scope = Scope(kind=kind, name=name, budget_usd=1.0, period="total")  # pyright: ignore[reportArgumentType]
    return spent(gateway.database, [scope], 2e9)[0]


def test_an_audit_is_paid_by_its_workload_and_not_by_who_asked_and_takes_no_place_in_a_minute(
    loop: Loop, priced: Priced
) -> None:
    with serving(loop, priced(10.0)) as gateway:
        key, secret = create_key(gateway.database, "payer", budget_usd=10.0, period="total")
        gateway.worker.keys.refresh()
        send(gateway.url, body(SURE), headers=key_header(secret))
        audited(gateway, 1)
        _, audit = gateway.entries(2)
        assert (audit.key, audit.cost_usd) == (key.id, pytest.approx(COST))
        until(lambda: used(gateway).reserved_usd == 0, "the settlement")
        found = used(gateway)
        assert (found.spent_usd, found.requests, found.tokens) == (pytest.approx(COST), 0, 0)
        assert used(gateway, "key", key.id).spent_usd == 0


@pytest.mark.parametrize("share", [1.0, 0.001])
def test_a_budget_that_can_not_pay_takes_requests_out_of_the_record_whatever_their_draws_are(
    loop: Loop, priced: Priced, frontier: Frontier, share: float, logged: pytest.LogCaptureFixture
) -> None:
    with serving(loop, priced(ESTIMATE * 0.9, Monitor(share=share))) as gateway:
        for _ in range(3):
            assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        gateway.entries(3)
        gateway.worker.auditor.flush()
        assert status(gateway).requests == 0
    assert not frontier.requests
    assert sum("leaves nothing for audits" in record.getMessage() for record in logged.records) == 1


def test_what_was_drawn_since_the_last_look_is_reckoned_with(loop: Loop, priced: Priced, frontier: Frontier) -> None:
    with serving(loop, priced(ESTIMATE * 2.5)) as gateway:
        by_hand(loop, gateway)
        for _ in range(5):
            send(gateway.url, body(SURE))
        gateway.entries(5)
        gateway.worker.auditor.flush()
        audited(gateway, 2)
        assert status(gateway).requests == 2
        gateway.entries(7)
        until(lambda: used(gateway).reserved_usd == 0, "the settlement")
        # The answers were cheaper than reckoned, so there is money again after the next look.
        gateway.worker.auditor.flush()
        send(gateway.url, body(SURE))
        gateway.entries(8)
        gateway.worker.auditor.flush()
        audited(gateway, 3)
    assert len(frontier.requests) == 3


def test_what_was_drawn_is_asked_though_others_have_used_the_budget_up_meanwhile(
    loop: Loop, priced: Priced, frontier: Frontier
) -> None:
    with serving(loop, priced(ESTIMATE * 1.5)) as gateway:
        by_hand(loop, gateway)
        send(gateway.url, body(SURE))
        gateway.entries(1)
        answer = {**RIGHT, "usage": {"prompt_tokens": 1, "completion_tokens": 749, "total_tokens": 750}}
        frontier.behave = answering(200, answer)
        assert send(gateway.url, body(UNSURE))[1]["x-tiercel-tier"] == "frontier"
        gateway.entries(2)
        until(lambda: used(gateway).spent_usd == pytest.approx(0.749), "the settlement")
        frontier.behave = answering(200, RIGHT)
        gateway.worker.auditor.flush()
        audited(gateway, 1)
        counts = status(gateway).counts
        assert (counts.judged, counts.failed) == (1, 0)
        until(lambda: used(gateway).spent_usd == pytest.approx(0.749 + COST), "the settlement")


def test_what_is_taken_up_is_paid_too(loop: Loop, priced: Priced, frontier: Frontier) -> None:
    settings = priced(10.0)
    left_behind(loop, settings, frontier)
    with serving(loop, settings) as gateway:
        audited(gateway, 1)
        # What the gateway that ended had reserved goes back with its lease.
        until(lambda: used(gateway).spent_usd == pytest.approx(COST), "the settlement")
