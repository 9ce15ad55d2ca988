"""Audits inside the gateway: what is asked, what is written, what a broken bound does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from sqlalchemy import insert, select

from tests.gateway.conftest import (
    ANSWER,
    SURE,
    UNSURE,
    Frontier,
    Loop,
    Running,
    answering,
    body,
    get,
    running,
    send,
    serving,
)
from tiercel.errors import ConfigurationError
from tiercel.gateway.sections import Monitor, Privacy, Secret, Server, Settings
from tiercel.store.audit_tables import audit_log
from tiercel.store.keys import create_key

Configured = Callable[..., Settings]
RIGHT = {
    **ANSWER,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "billing"}, "finish_reason": "stop"}],
}
ALL = Monitor(share=1.0)


def until(true: Callable[[], bool], what: str = "it") -> None:
    limit = time.monotonic() + 15
    while not true():
        assert time.monotonic() < limit, f"{what} did not happen"
        time.sleep(0.01)


def status(gateway: Running) -> Any:
    return gateway.worker.auditor.statuses()[0]


def audited(gateway: Running, count: int) -> None:
    until(lambda: status(gateway).counts.booked >= count, f"{count} audits")


@pytest.fixture
def audits(loop: Loop, configured: Configured, frontier: Frontier) -> Iterator[Running]:
    """A gateway that audits every accepted answer; the frontier agrees with the student."""
    frontier.behave = answering(200, RIGHT)
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        yield gateway


def test_an_accepted_answer_is_asked_of_the_frontier_after_its_client_has_it(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    async def slow(_: web.Request) -> web.Response:
        await frontier.until_released()
        return web.json_response(RIGHT)

    frontier.behave = slow
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        code, headers, _ = send(gateway.url, body(SURE, user="u-1", temperature=0))
        assert (code, headers["x-tiercel-tier"]) == (200, "student")
        assert frontier.asked.wait(5)
        assert status(gateway).waiting == 1  # it was written down before the frontier was asked
        frontier.released.set()
        audited(gateway, 1)
        assert frontier.requests == [body(SURE, user="u-1", temperature=0)]
        answer, audit = gateway.entries(2)
        found = status(gateway)
    assert (answer.tier, audit.tier, audit.reason) == ("student", "frontier", "audit")
    assert (found.requests, found.offload, found.send_back) == (1, 1.0, False)


def test_what_the_frontier_answered_counts_as_nothing_lost(audits: Running, frontier: Frontier) -> None:
    for text in (UNSURE, SURE, UNSURE):
        assert send(audits.url, body(text))[0] == 200
    audited(audits, 1)
    audits.entries(4)
    assert send(audits.url, body(SURE))[0] == 200
    audited(audits, 2)
    found = status(audits)
    assert found.requests == 4
    assert found.offload == pytest.approx(0.5)
    assert len(frontier.requests) == 4  # two answers and two audits


def test_what_the_gate_did_not_decide_is_no_part_of_the_record(audits: Running) -> None:
    send(audits.url, body(SURE), headers={"x-tiercel-tier": "student"})
    send(audits.url, body(SURE), headers={"x-tiercel-tier": "frontier"})
    send(audits.url, b"{")
    send(audits.url, body(SURE))
    audited(audits, 1)
    assert status(audits).requests == 1


def _break(gateway: Running) -> int:
    """Ask until the bound is broken; how many answers that took."""
    for count in range(1, 200):
        _, headers, _ = send(gateway.url, body(SURE))
        if headers["x-tiercel-tier"] == "frontier":
            assert headers["x-tiercel-reason"] == "bound broken"
            return count
        audited(gateway, count)
    raise AssertionError("the bound did not break")


def test_a_broken_bound_sends_the_workload_back_and_says_so_and_stays(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    told: list[Any] = []

    async def hook(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hook)
    with running(loop, app) as hook_url:
        monitor = replace(ALL, hook=Secret(hook_url.removesuffix("/v1") + "/hook"))
        settings = configured(frontier.provider(), monitor=monitor)
        with serving(loop, settings) as gateway, serving(loop, settings) as other:
            count = _break(gateway)
            assert 3 <= count <= 60
            until(lambda: bool(told), "the webhook")
            assert told[0] == {
                "kind": "verdict",
                "workload": "helpdesk",
                "segment": "",
                "cause": "student",
                "state": "broken",
                "reason": "excess loss",
                "epoch": 1,
                "sent_back": True,
            }
            _, page = get(gateway.url.removesuffix("/v1") + "/metrics", raw=True)
            assert b'tiercel_sent_back{segment="",workload="helpdesk"} 1.0' in page
            assert get(gateway.url + "/monitor")[1]["data"][0]["send_back"] is True
            # Another gateway of the same store follows.
            until(lambda: send(other.url, body(SURE))[1]["x-tiercel-reason"] == "bound broken", "the other gateway")
            # Who wants the student all the same may still ask it.
            assert send(gateway.url, body(SURE), headers={"x-tiercel-tier": "student"})[0] == 200
    with serving(loop, settings) as again:
        assert send(again.url, body(SURE))[1]["x-tiercel-reason"] == "bound broken"


def test_recovery_needs_a_new_certificate_at_the_confidence_that_the_budget_leaves(
    loop: Loop, configured: Configured, frontier: Frontier, bundle_folder: Path, tmp_path: Path
) -> None:
    from tiercel.flows.pilot import PilotSettings, pilot

    traffic = bundle_folder.parent.parent / "traffic.jsonl"
    folders = {}
    for confidence in (0.95, 0.996):
        chosen = PilotSettings(students=("linear",), max_loss=0.05, confidence=confidence, seed=7)
        assert pilot([traffic], tmp_path / str(confidence), chosen).certificate.bound is not None
        folders[confidence] = tmp_path / str(confidence) / "bundle"
    settings = configured(frontier.provider(), monitor=ALL)

    def with_bundle(confidence: float) -> Settings:
        return replace(settings, workloads=(replace(settings.workloads[0], bundle=folders[confidence]),))

    with serving(loop, settings) as gateway:
        _break(gateway)
        worker = gateway.worker
        with pytest.raises(ConfigurationError, match=r"--confidence 0\.99"):
            loop.run(worker._reload_once(lambda: with_bundle(0.95)))
        assert send(gateway.url, body(SURE))[1]["x-tiercel-reason"] == "bound broken"
        loop.run(worker._reload_once(lambda: with_bundle(0.996)))
        assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        assert status(gateway).epoch == 2
        assert {s.epoch for s in status(gateway).budget.spends} == {1, 2}


def test_audits_that_fail_are_counted_as_losses(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    frontier.behave = answering(400, {"error": {"message": "no"}})
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        for count in range(1, 100):
            send(gateway.url, body(SURE))
            audited(gateway, count)
            if status(gateway).send_back:
                break
        found = status(gateway)
    assert found.send_back
    assert found.counts.failed == count


def test_without_a_provider_nothing_is_audited_and_nothing_sent_back(loop: Loop, configured: Configured) -> None:
    with serving(loop, configured(monitor=ALL)) as gateway:
        for _ in range(30):
            assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
        gateway.worker.auditor.flush()
        assert gateway.worker.auditor.statuses() == []
        assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"


def test_a_record_that_was_tampered_with_certifies_nothing(audits: Running) -> None:
    send(audits.url, body(SURE))
    audited(audits, 1)
    with audits.database.writing() as connection:
        last = select(audit_log).order_by(audit_log.c.sequence.desc()).limit(1)
        row = dict(connection.execute(last).mappings().one())
        connection.execute(insert(audit_log).values(row | {"sequence": row["sequence"] + 1}))
    until(lambda: send(audits.url, body(SURE))[1]["x-tiercel-reason"] == "bound broken", "the distrust")


def test_a_local_only_workload_is_never_audited(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    settings = configured(frontier.provider(), monitor=ALL, workload={"local_only": True})
    with serving(loop, settings) as gateway:
        assert send(gateway.url, body(SURE))[0] == 200
        gateway.entries(1)
        time.sleep(0.3)
        assert gateway.worker.auditor.statuses() == []
    assert not frontier.requests


def test_audits_leave_without_personal_data(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    frontier.behave = answering(200, RIGHT)
    privacy = Privacy(redact_escalation=("email",))
    with serving(loop, configured(frontier.provider(), monitor=ALL, privacy=privacy)) as gateway:
        assert send(gateway.url, body(f"{SURE} ada@example.org"))[1]["x-tiercel-tier"] == "student"
        audited(gateway, 1)
    assert "ada@" not in json.dumps(frontier.requests)
    assert "<EMAIL_1>" in json.dumps(frontier.requests)


def test_a_share_is_audited(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    frontier.behave = answering(200, RIGHT)
    with serving(loop, configured(frontier.provider(), monitor=Monitor(share=0.2))) as gateway:
        threads = [threading.Thread(target=send, args=(gateway.url, body(SURE))) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: len(frontier.requests) > 0, "an audit")
        time.sleep(0.5)
    # Binomial(100, p) for any p that a share of .2 leads to (.05 to .8 by score): outside with a chance below 1e-2 * .95^100.
    assert 0 < len(frontier.requests) < 100


def test_a_bound_that_peoples_words_break_is_told_too(
    loop: Loop, configured: Configured, frontier: Frontier, logged: pytest.LogCaptureFixture
) -> None:
    async def slow(_: web.Request) -> web.Response:
        await frontier.until_released()
        return web.json_response(RIGHT)

    frontier.behave = slow
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        for count in range(1, 30):
            trace = send(gateway.url, body(SURE))[1]["x-tiercel-id"]
            gateway.entries(count)
            until(lambda count=count: status(gateway).counts.drawn == count, "the draw")
            assert send(gateway.url, {"id": trace, "score": 0}, "/feedback")[0] == 202
            if status(gateway).send_back:
                break
        assert status(gateway).send_back
        assert send(gateway.url, body(SURE))[1]["x-tiercel-reason"] == "bound broken"
        frontier.released.set()
    assert any("its bound is broken (excess loss)" in r.getMessage() for r in logged.records)


def test_feedback_is_heard_and_its_place_is_told(audits: Running) -> None:
    _, headers, _ = send(audits.url, body(SURE))
    audited(audits, 1)
    trace = headers["x-tiercel-id"]

    def say(**said: Any) -> tuple[int, dict[str, Any]]:
        code, _, raw = send(audits.url, said, "/feedback")
        return code, json.loads(raw)

    code, told = say(id=trace, score=0)
    assert (code, told["error"]["code"]) == (409, "already_judged")
    assert say(id=trace, reference="delivery")[0] == 409
    assert status(audits).counts.contradicted == 2
    assert say(id="0" * 32, score=1)[0] == 404
    _, headers, _ = send(audits.url, body(UNSURE))
    audits.entries(3)
    assert say(id=headers["x-tiercel-id"], score=1)[0] == 404  # the frontier answered it
    both = {"id": trace, "score": 1, "reference": "x"}
    for wrong in ({"id": trace}, {"id": trace, "score": 2}, {"id": "x", "score": 1}, both):
        assert say(**wrong)[0] == 400


def test_a_key_judges_what_it_asked_for_or_what_it_may(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    frontier.behave = answering(200, RIGHT)
    settings = configured(
        frontier.provider(), monitor=Monitor(share=0.001), server=Server(require_keys=True, drain_s=0.2)
    )
    with serving(loop, settings) as gateway:

        def made(**limits: Any) -> dict[str, str]:
            _, secret = create_key(gateway.database, "test", **limits)
            gateway.worker.keys.refresh()
            return {"authorization": f"Bearer {secret}"}

        def say(headers: dict[str, str], **said: Any) -> tuple[int, str]:
            code, _, raw = send(gateway.url, said, "/feedback", headers=headers)
            return code, json.loads(raw).get("error", {}).get("code", "")

        owner, people = made(), made(permissions=["feedback"], tiers=["cache"])
        traces = [send(gateway.url, body(SURE), headers=owner)[1]["x-tiercel-id"] for _ in range(3)]
        gateway.entries(3)
        for stranger in (made(), made(permissions=["operator"]), made(permissions=["feedback"], workloads=["payroll"])):
            assert say(stranger, id=traces[0], score=0) == (403, "not_your_answer")
        assert status(gateway).counts.unaudited_feedback == 0
        assert say(owner, id=traces[0], score=0)[0] == 202
        assert say(people, id=traces[1], score=1)[0] == 202
        assert status(gateway).counts.unaudited_feedback == 2
        slow = made(permissions=["feedback"], requests_per_minute=1)
        assert say(slow, id=traces[2], score=1)[0] == 202
        assert say(slow, id=traces[2], score=1) == (429, "rate_limit_exceeded")


def test_a_person_s_word_on_an_answer_without_audit_is_counted_apart(
    loop: Loop, configured: Configured, frontier: Frontier
) -> None:
    frontier.behave = answering(200, RIGHT)
    with serving(loop, configured(frontier.provider(), monitor=Monitor(share=0.001))) as gateway:
        _, headers, _ = send(gateway.url, body(SURE))
        gateway.entries(1)
        code, _, raw = send(gateway.url, {"id": headers["x-tiercel-id"], "reference": "billing"}, "/feedback")
        assert (code, json.loads(raw)["status"]) == (202, "not audited")
        assert status(gateway).counts.unaudited_feedback == 1


def test_watch_shows_the_state_and_its_record_is_verified(
    audits: Running, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiercel.cli.main import run

    for _ in range(3):
        send(audits.url, body(SURE))
    audited(audits, 3)
    store, record = str(audits.database.path), tmp_path / "record.jsonl"
    assert run(["watch", "--store", store, "--record", str(record)]) == 0
    shown = capsys.readouterr().out
    assert "helpdesk: unknown (epoch 1, bound 5.00%)" in shown
    assert "3 drawn, 3 booked" in shown
    assert run(["watch", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["workload"] == "helpdesk"
    assert run(["certificate", "verify", str(bundle_folder), "--audits", str(record), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"]["verdicts"] == 0
    lines = record.read_text().splitlines()
    forged = [line.replace('"student_loss":0.0', '"student_loss":1.0') for line in lines]
    assert forged != lines
    record.write_text("\n".join(forged))
    assert run(["certificate", "verify", str(bundle_folder), "--audits", str(record)]) == 1
    assert "row" in capsys.readouterr().err


def test_a_broken_bound_is_an_exit_code_of_watch(
    loop: Loop, configured: Configured, frontier: Frontier, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiercel.cli.main import run

    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        _break(gateway)
        assert run(["watch", "--store", str(gateway.database.path)]) == 3
    assert "sent back to the frontier" in capsys.readouterr().out
