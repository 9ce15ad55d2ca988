"""Who may answer: what must not leave does not, whether it is asked, counted, embedded or audited."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.gateway.conftest import SURE, SYSTEM, UNSURE, Frontier, Loop, Running, answering, body, send, serving
from tests.gateway.test_auditing import ALL, RIGHT, audited, status, until
from tests.gateway.test_audits_taken_up import never
from tests.gateway.test_gateway import key_header, watched
from tiercel.gateway import audit_work, auditing
from tiercel.gateway.sections import Cache, Costs, Settings
from tiercel.routing.audit_book import AuditBook
from tiercel.store.keys import create_key

Configured = Callable[..., Settings]
AT_HOME = [{"local_only": True}, {"tiers": ("cache", "student")}]
"""Limits of a key, or of a workload, that keep its requests from the frontier."""
HOSTED = {"model": "m", "input": UNSURE, "tools": [{"type": "web_search"}]}
"""A request of Responses that has no chat form."""
PROMPT = {"model": "claude", "max_tokens": 9, "system": SYSTEM, "messages": [{"role": "user", "content": UNSURE}]}
BASH = {**PROMPT, "tools": [{"type": "bash_20250124", "name": "bash"}]}
"""Messages of Anthropic's that have no chat form."""


def key_of(gateway: Running, **limits: Any) -> dict[str, str]:
    """The header of a key with these limits."""
    _, secret = create_key(gateway.database, "test", **limits)
    gateway.worker.keys.refresh()
    return key_header(secret)


@contextmanager
def nobody_asked(frontier: Frontier) -> Iterator[None]:
    """See that no socket of this process connects to the frontier."""
    with watched() as addresses:
        yield
    assert int(frontier.url.split(":")[2].split("/")[0]) not in {address[1] for address in addresses}
    assert not frontier.requests


def refusal(told: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return told[0], json.loads(told[2])["error"]["code"]


@pytest.mark.parametrize("limits", AT_HOME)
def test_an_audit_never_sends_what_its_key_keeps_here_and_the_record_speaks_of_the_others(
    loop: Loop, configured: Configured, frontier: Frontier, limits: dict[str, Any]
) -> None:
    frontier.behave = answering(200, RIGHT)
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        header = key_of(gateway, **limits)
        with nobody_asked(frontier):
            for _ in range(3):
                assert send(gateway.url, body(SURE), headers=header)[1]["x-tiercel-tier"] == "student"
            gateway.entries(3)
            gateway.worker.auditor.flush()
            time.sleep(0.3)
        assert status(gateway).requests == 0
        send(gateway.url, body(SURE))
        audited(gateway, 1)
        assert (status(gateway).requests, len(frontier.requests)) == (1, 1)


def test_what_a_cache_or_a_student_answers_for_such_a_key_is_left_out_alike(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    frontier.behave = answering(200, RIGHT)
    settings = configured(frontier.provider(), monitor=ALL, cache=Cache(enabled=True))
    with serving(loop, settings) as gateway:
        send(gateway.url, body(UNSURE), headers=key_of(gateway, tenant="acme"))
        header = key_of(gateway, tenant="acme", tiers=("cache", "student"))
        assert send(gateway.url, body(UNSURE), headers=header)[1]["x-tiercel-tier"] == "cache"
        assert send(gateway.url, body(SURE), headers=header)[1]["x-tiercel-tier"] == "student"
        gateway.entries(3)
        gateway.worker.auditor.flush()
        found = status(gateway)
    assert (found.requests, found.counts.refused, found.counts.drawn) == (1, 1, 0)


@pytest.mark.parametrize("limits", AT_HOME)
def test_a_draw_that_an_older_program_left_is_taken_up_as_a_loss_and_not_asked(
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, Any],
) -> None:
    settings = configured(frontier.provider(), monitor=ALL)
    never(frontier)
    with monkeypatch.context() as older, serving(loop, settings) as gateway:
        for module in (auditing, audit_work):
            older.setattr(module, "may_be_audited", lambda *_: True)
        send(gateway.url, body(SURE), headers=key_of(gateway, **limits))
        until(lambda: len(frontier.requests) == 1, "the audit")
        gateway.entries(1)
        loop.run(gateway.worker.auditor.close(0.05))
    frontier.behave = answering(200, RIGHT)
    with serving(loop, settings) as gateway:
        until(lambda: status(gateway).counts.booked == 1, "the result")
        counts = status(gateway).counts
    assert (counts.taken_up, counts.failed, counts.judged) == (1, 1, 0)
    assert len(frontier.requests) == 1


def test_audits_that_wait_are_not_asked_once_their_workload_stays_here(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    async def held(_: web.Request) -> web.Response:
        await frontier.until_released()
        return web.json_response(RIGHT)

    frontier.behave = held
    settings = configured(frontier.provider(), monitor=ALL)
    local = replace(settings, workloads=(replace(settings.workloads[0], local_only=True),))
    with serving(loop, settings) as gateway:
        for _ in range(6):
            send(gateway.url, body(SURE))
        until(lambda: status(gateway).counts.drawn == 6, "the draws")
        until(lambda: len(frontier.requests) == 4, "the audits that are asked at a time")
        loop.run(gateway.worker._reload_once(lambda: local))
        frontier.released.set()

        def counts() -> Any:
            book = AuditBook(gateway.database)
            book.catch_up()
            return book.monitor("helpdesk").status().counts

        until(lambda: counts().booked == 6, "the results")
        assert (counts().judged, counts().failed) == (4, 2)
    assert len(frontier.requests) == 4


@pytest.mark.parametrize("limits", AT_HOME)
@pytest.mark.parametrize("on", ["key", "workload"])
def test_tokens_of_what_stays_are_not_counted_elsewhere(
    loop: Loop, configured: Configured, frontier: Frontier, on: str, limits: dict[str, Any]
) -> None:
    settings = configured(frontier.provider(kind="anthropic"), workload=limits if on == "workload" else None)
    with serving(loop, settings) as gateway:
        header = key_of(gateway, **(limits if on == "key" else {}))
        with nobody_asked(frontier):
            code, headers, raw = send(gateway.url, PROMPT, "/messages/count_tokens", headers=header)
            assert (code, headers["x-tiercel-reason"]) == (200, "estimated")
            assert json.loads(raw)["input_tokens"] > 10
            if on == "key" or "local_only" in limits:  # else it can't be told to be of that workload
                assert send(gateway.url, BASH, "/messages/count_tokens", headers=header)[0] == 400
                assert send(gateway.url, BASH, "/messages", headers=header)[0] in (403, 503)


def test_what_may_leave_is_counted_by_the_provider_whether_it_can_be_read_or_not(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    frontier.behave = answering(200, {"input_tokens": 77})
    with serving(loop, configured(frontier.provider(kind="anthropic"))) as gateway:
        for asked in (PROMPT, BASH):
            code, headers, raw = send(gateway.url, asked, "/messages/count_tokens")
            assert (code, headers["x-tiercel-reason"], json.loads(raw)["input_tokens"]) == (200, "counted", 77)


class TestWithoutChatForm:
    """Embeddings and hosted tools, asked by the name of a workload."""

    ASKED = ((HOSTED, "/responses"), ({"model": "e", "input": UNSURE}, "/embeddings"))

    @pytest.mark.parametrize(("limits", "expected"), [(AT_HOME[0], (503, "local_only")), (AT_HOME[1], (403, ""))])
    def test_a_workload_that_stays_here_keeps_them_too(
        self, loop: Loop, configured: Configured, frontier: Frontier, limits: dict[str, Any], expected: tuple[int, str]
    ) -> None:
        settings = configured(frontier.provider(responses=True), workload=limits)
        with serving(loop, settings) as gateway, nobody_asked(frontier):
            for asked, path in self.ASKED:
                told = send(gateway.url, {**asked, "model": "tiercel/helpdesk"}, path)
                assert refusal(told) == (expected[0], expected[1] or "tier_not_allowed")
                assert told[1]["x-tiercel-workload"] == "helpdesk"

    def test_its_budget_and_its_longest_request_hold_for_them(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        limits = {"max_input_tokens": 100, "requests_per_minute": 1}
        with serving(loop, configured(frontier.provider(responses=True), workload=limits)) as gateway:
            for asked, path in self.ASKED:
                named = {**asked, "model": "tiercel/helpdesk", "input": "x" * 1_000}
                assert refusal(send(gateway.url, named, path)) == (400, "context_length_exceeded")
            assert not frontier.requests
            named = {**self.ASKED[0][0], "model": "tiercel/helpdesk"}
            assert send(gateway.url, named, "/responses")[0] == 200
            assert send(gateway.url, named, "/responses")[0] == 429
            assert gateway.entries(4)[2].workload == "helpdesk"

    def test_a_workload_that_is_not_there_is_not_found(self, server: str, frontier: Frontier) -> None:
        for asked, path in self.ASKED:
            assert refusal(send(server, {**asked, "model": "tiercel/nothing"}, path)) == (404, "model_not_found")
        assert not frontier.requests

    def test_they_are_no_part_of_what_a_certificate_speaks_of(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        with serving(loop, configured(frontier.provider(), monitor=ALL, costs=Costs())) as gateway:
            assert send(gateway.url, {"model": "tiercel/helpdesk", "input": UNSURE}, "/embeddings")[0] == 200
            gateway.entries(1)
            gateway.worker.auditor.flush()
            assert status(gateway).requests == 0
