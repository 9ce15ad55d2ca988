"""A bundle that is certified by segment: one that breaks its bound goes back by itself, the others go on."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.conftest import chat, write_lines
from tests.gateway.conftest import (
    ANSWER,
    COMMON,
    EASY,
    SYSTEM,
    Frontier,
    Loop,
    Running,
    body,
    get,
    messages,
    running,
    send,
    serving,
)
from tests.gateway.test_auditing import RIGHT, until
from tests.gateway.test_audits_taken_up import left_behind
from tiercel.errors import ConfigurationError
from tiercel.flows.bundle import load
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.epochs import recorded_names
from tiercel.gateway.sections import Monitor, Secret, Settings

Configured = Callable[..., Settings]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Bundles with a segment for each of two teams and one for requests without a team, by their confidence.

    And a request that all of them answer, whichever team asks.
    """
    folder, draw = tmp_path_factory.mktemp("teams"), random.Random(0)
    filler = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(200)]
    filler += COMMON * 5
    rows: list[dict[str, Any]] = []
    for i in range(900):
        label = draw.choice(list(EASY))
        words = draw.sample(filler, 3) + draw.sample(EASY[label], 3)
        draw.shuffle(words)
        team = ("gold", "silver", None)[i % 3]
        rows.append(
            chat(" ".join(words), label, SYSTEM, model="gpt-frontier", metadata={"team": team} if team else {"of": "x"})
        )
    traffic = write_lines(folder / "traffic.jsonl", *rows)
    made = {}
    texts = [row["messages"][1]["content"] for row in rows if row["messages"][2]["content"] == "billing"]
    for confidence in (0.95, 0.996):
        chosen = PilotSettings(students=("linear",), max_loss=0.1, confidence=confidence, segment="team")
        result = pilot([traffic], folder / str(confidence), chosen)
        assert result.segments is not None
        assert {s.name for s in result.segments.segments if s.threshold is not None} == {"gold", "silver", ""}
        made[confidence] = folder / str(confidence) / "bundle"
        for team in ("gold", "silver", ""):
            metadata = [{"team": team} if team else None] * len(texts)
            told = load(made[confidence]).answer_many([messages(text) for text in texts], metadata=metadata)
            texts = [text for text, one in zip(texts, told, strict=True) if one.answer == "billing"]
    return made | {"sure": texts[0]}


def disagreeing_about_silver(frontier: Frontier) -> None:
    async def behave(request: web.Request) -> web.Response:
        team = (frontier.requests[-1].get("metadata") or {}).get("team")
        return web.json_response(ANSWER if team == "silver" else RIGHT)

    frontier.behave = behave


def asked(gateway: Running, text: str, team: str | None) -> dict[str, str]:
    metadata = {} if team is None else {"metadata": {"team": team}}
    return send(gateway.url, body(text, **metadata))[1]


def found(gateway: Running) -> Any:
    return gateway.worker.auditor.statuses()[0]


def settle(gateway: Running) -> None:
    """Wait until what was asked so far is in the record, with its results."""

    def done() -> bool:
        gateway.worker.auditor.flush()
        return found(gateway).waiting == 0 and gateway.worker.recorder.waiting == 0

    time.sleep(0.15)  # of the recorder
    until(done, "the audits")


@pytest.fixture
def hook(loop: Loop) -> Iterator[tuple[str, list[Any]]]:
    told: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/hook", take)
    with running(loop, app) as url:
        yield url + "/hook", told


def test_a_broken_segment_goes_back_alone_until_it_has_a_new_certificate(
    loop: Loop,
    configured: Configured,
    frontier: Frontier,
    bundles: dict[Any, Any],
    hook: tuple[str, list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tiercel.cli.main import run

    disagreeing_about_silver(frontier)
    monitor = Monitor(share=1.0, hook=Secret(hook[0]))

    def settings(confidence: float) -> Settings:
        plain = configured(frontier.provider(), monitor=monitor)
        return replace(plain, workloads=(replace(plain.workloads[0], bundle=bundles[confidence]),))

    with serving(loop, settings(0.95)) as gateway:
        for team in ("gold", None) * 10:
            assert asked(gateway, bundles["sure"], team)["x-tiercel-tier"] == "student"
        settle(gateway)
        assert not found(gateway).segments_sent_back
        for _ in range(30):
            headers = asked(gateway, bundles["sure"], "silver")
            if headers["x-tiercel-tier"] == "frontier":
                break
            settle(gateway)
        assert headers["x-tiercel-reason"] == "bound broken"
        # The others go on, in this gateway and in the next.
        assert [asked(gateway, bundles["sure"], team)["x-tiercel-tier"] for team in ("gold", None)] == [
            "student",
            "student",
        ]
        settle(gateway)
        status = found(gateway)
        assert (status.segments_sent_back, status.send_back, status.standing) == (("silver",), False, "unknown")
        assert set(status.segments) == {"gold", "silver", "(none)"}
        assert get(gateway.url + "/monitor")[1]["data"][0]["segments_sent_back"] == ["silver"]
        _, page = get(gateway.url.removesuffix("/v1") + "/metrics", raw=True)
        for name, back in (("silver", 1), ("gold", 0), ("(none)", 0), ("", 0)):
            assert f'tiercel_sent_back{{segment="{name}",workload="helpdesk"}} {back}.0'.encode() in page
        until(lambda: bool(hook[1]), "the webhook")
        assert (hook[1][0]["kind"], hook[1][0]["segment"], hook[1][0]["sent_back"]) == ("verdict", "silver", True)
        # What a segment that is sent back asks is nothing lost over all, and no evidence on the segment.
        book = gateway.worker.auditor._book.monitor("helpdesk").current
        before = book.evidence["silver"].tally.count
        assert asked(gateway, bundles["sure"], "silver")["x-tiercel-reason"] == "bound broken"
        settle(gateway)
        assert found(gateway).requests == status.requests + 1
        assert gateway.worker.auditor._book.monitor("helpdesk").current.evidence["silver"].tally.count == before

    with serving(loop, settings(0.95)) as again:
        assert asked(again, bundles["sure"], "silver")["x-tiercel-reason"] == "bound broken"
        assert asked(again, bundles["sure"], "gold")["x-tiercel-tier"] == "student"
        store = str(again.database.path)
        assert run(["watch", "--store", store]) == 3
        shown = capsys.readouterr().out
        assert "segment       'silver': sent back to the frontier" in shown and "'gold': unknown" in shown
        with pytest.raises(ConfigurationError, match=r"--confidence 0\.99"):
            loop.run(again.worker._reload_once(lambda: replace_threads(settings(0.95), frontier, bundles)))
        loop.run(again.worker._reload_once(lambda: settings(0.996)))
        assert asked(again, bundles["sure"], "silver")["x-tiercel-tier"] == "student"
        assert (found(again).epoch, found(again).segments_sent_back) == (2, ())
        record = Path(store).with_name("record.jsonl")
        assert run(["watch", "--store", store, "--record", str(record), "--json"]) == 0
    capsys.readouterr()
    assert run(["certificate", "verify", str(bundles[0.95]), "--audits", str(record), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"]["verdicts"] >= 1


def replace_threads(settings: Settings, frontier: Frontier, bundles: dict[Any, Any]) -> Settings:
    """The same settings with a bundle of another certificate at the old confidence."""
    import shutil

    import msgspec

    from tiercel.flows.bundle import _digest

    copy = bundles[0.95].with_name("copy")
    if not copy.exists():
        shutil.copytree(bundles[0.95], copy)
        certificate = json.loads((copy / "certificate.json").read_bytes())
        certificate["digest"] = "another"
        (copy / "certificate.json").write_bytes(msgspec.json.encode(certificate))
        manifest = json.loads((copy / "manifest.json").read_bytes())
        manifest["files"]["certificate.json"] = _digest(copy / "certificate.json")
        (copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return replace(settings, workloads=(replace(settings.workloads[0], bundle=copy),))


def test_segments_spend_one_budget_between_them(
    loop: Loop, configured: Configured, frontier: Frontier, bundles: dict[Any, Any]
) -> None:
    settings = configured(frontier.provider(), monitor=Monitor(share=0.5, budget=0.04))
    with serving(loop, replace(settings, workloads=(replace(settings.workloads[0], bundle=bundles[0.95]),))) as gateway:
        watch = gateway.worker.auditor._book.monitor("helpdesk").current
        spends = {s.purpose: s.delta for s in found(gateway).budget.spends}
        assert spends == {"broken": pytest.approx(0.01), "within": pytest.approx(0.01)}
        levels = {name: evidence._deltas[0] for name, evidence in watch.evidence.items()}
        assert levels[""] == pytest.approx(0.005) and sum(levels.values()) == pytest.approx(0.01)
        assert watch.opened.rule.threshold == 0.0


def test_an_audit_of_a_bundle_that_was_replaced_is_taken_up_and_counts_to_its_own_epoch(
    loop: Loop, configured: Configured, frontier: Frontier, bundles: dict[Any, Any]
) -> None:
    plain = configured(frontier.provider(), monitor=Monitor(share=1.0))
    first, second = (
        replace(plain, workloads=(replace(plain.workloads[0], bundle=bundles[confidence]),))
        for confidence in (0.95, 0.996)
    )
    left_behind(loop, first, frontier, text=bundles["sure"])
    with serving(loop, second) as gateway:
        monitor = gateway.worker.auditor._book.monitor
        until(lambda: monitor("helpdesk").of_epoch(1).counts.booked == 1, "the audit")
        assert (monitor("helpdesk").of_epoch(1).counts.judged, monitor("helpdesk").epoch) == (1, 2)
        assert found(gateway).counts.drawn == 0


def test_the_segment_without_a_name_has_one_of_its_own_in_the_record() -> None:
    assert recorded_names({"": 0.5, "gold": 0.4}) == {"": "(none)", "gold": "gold"}
    assert recorded_names({"": 0.5, "(none)": 0.4, "((none))": 0.1}) == {
        "": "(((none)))",
        "(none)": "(none)",
        "((none))": "((none))",
    }
