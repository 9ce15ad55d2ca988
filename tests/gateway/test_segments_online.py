"""A bundle that is certified by segment: one that breaks its bound goes back by itself, the others go on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
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
from tiercel.flows.bundle import load, read_certificate
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.epochs import recorded_names
from tiercel.gateway.sections import Monitor, Secret, Settings
from tiercel.routing.certificate import digest_of

Configured = Callable[..., Settings]


@dataclass
class Teams:
    """A bundle with a segment for each of two teams and one for requests without a team; another with its own
    certificate; and a request that is answered whichever team asks."""

    first: Path
    second: Path
    text: str


def with_another_certificate(folder: Path, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    certificate = replace(read_certificate(folder), seed=99)
    raw = msgspec.json.encode(replace(certificate, digest=digest_of(certificate)))
    (copy / "certificate.json").write_bytes(raw)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"]["certificate.json"] = hashlib.sha256(raw).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Teams:
    folder, draw = tmp_path_factory.mktemp("teams"), random.Random(0)
    filler = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(200)]
    rows: list[dict[str, Any]] = []
    for i in range(750):
        label = draw.choice(list(EASY))
        words = draw.sample(filler + COMMON * 5, 3) + draw.sample(EASY[label], 3)
        draw.shuffle(words)
        metadata = ({"team": "gold"}, {"team": "silver"}, {"of": "nobody"})[i % 3]
        rows.append(chat(" ".join(words), label, SYSTEM, model="gpt-frontier", metadata=metadata))
    traffic = write_lines(folder / "traffic.jsonl", *rows)
    result = pilot([traffic], folder / "out", PilotSettings(students=("linear",), max_loss=0.1, segment="team"))
    assert result.segments is not None
    assert {s.name for s in result.segments.segments if s.threshold is not None} == {"gold", "silver", ""}
    bundle = load(folder / "out")
    texts = [row["messages"][1]["content"] for row in rows if row["messages"][2]["content"] == "billing"]
    for team in ({"team": "gold"}, {"team": "silver"}, None):
        told = bundle.answer_many([messages(text) for text in texts], metadata=[team] * len(texts))
        texts = [text for text, one in zip(texts, told, strict=True) if one.answer == "billing"]
    return Teams(first=bundle.folder, second=with_another_certificate(bundle.folder, folder / "second"), text=texts[0])


@pytest.fixture
def settings(configured: Configured, frontier: Frontier, teams: Teams) -> Callable[..., Settings]:
    """Settings with a bundle of the teams; the frontier agrees with the student on all teams but silver."""

    async def behave(_: web.Request) -> web.Response:
        team = (frontier.requests[-1].get("metadata") or {}).get("team")
        return web.json_response(ANSWER if team == "silver" else RIGHT)

    frontier.behave = behave

    def made(bundle: Path, **monitor: Any) -> Settings:
        plain = configured(frontier.provider(), monitor=Monitor(**{"share": 1.0, **monitor}))
        return replace(plain, workloads=(replace(plain.workloads[0], bundle=bundle),))

    return made


def asked(gateway: Running, teams: Teams, team: str | None) -> dict[str, str]:
    metadata = {} if team is None else {"metadata": {"team": team}}
    return send(gateway.url, body(teams.text, **metadata))[1]


def found(gateway: Running) -> Any:
    return gateway.worker.auditor.statuses()[0]


def watch_of(gateway: Running) -> Any:
    return gateway.worker.auditor._book.monitor("helpdesk").current


def settle(gateway: Running, requests: int) -> None:
    """Wait until so many requests are in the record, and the results of their audits."""

    def done() -> bool:
        gateway.worker.auditor.flush()
        return found(gateway).requests >= requests and found(gateway).waiting == 0

    until(done, f"the record of {requests} requests")


def break_silver(gateway: Running, teams: Teams) -> int:
    """Ask for the teams until silver's bound is broken; how many requests that took."""
    for team in ("gold", None) * 10:
        assert asked(gateway, teams, team)["x-tiercel-tier"] == "student"
    for count in range(20, 60):
        settle(gateway, count)
        headers = asked(gateway, teams, "silver")
        if headers["x-tiercel-tier"] == "frontier":
            assert headers["x-tiercel-reason"] == "bound broken"
            settle(gateway, count + 1)
            return count + 1
    raise AssertionError("silver's bound did not break")


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


def test_a_broken_segment_goes_back_alone_and_is_named_wherever_one_looks(
    loop: Loop,
    settings: Callable[..., Settings],
    teams: Teams,
    hook: tuple[str, list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tiercel.cli.main import run

    with serving(loop, settings(teams.first, hook=Secret(hook[0]))) as gateway:
        count = break_silver(gateway, teams)
        assert [asked(gateway, teams, team)["x-tiercel-tier"] for team in ("gold", None)] == ["student"] * 2
        settle(gateway, count + 2)
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
        before = watch_of(gateway).evidence["silver"].tally.count
        assert asked(gateway, teams, "silver")["x-tiercel-reason"] == "bound broken"
        settle(gateway, count + 3)
        assert watch_of(gateway).evidence["silver"].tally.count == before
    with serving(loop, settings(teams.first)) as again:
        assert asked(again, teams, "silver")["x-tiercel-reason"] == "bound broken"
        assert asked(again, teams, "gold")["x-tiercel-tier"] == "student"
        assert run(["watch", "--store", str(again.database.path)]) == 3
        shown = capsys.readouterr().out
        assert "segment       'silver': sent back to the frontier" in shown and "'gold': unknown" in shown
        with pytest.raises(ConfigurationError, match=r"--confidence 0\.99"):
            loop.run(again.worker._reload_once(lambda: settings(teams.second)))
        assert asked(again, teams, "silver")["x-tiercel-reason"] == "bound broken"


def test_a_segment_comes_back_with_a_new_certificate_that_the_budget_pays_for(
    loop: Loop, settings: Callable[..., Settings], teams: Teams, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tiercel.cli.main import run

    with serving(loop, settings(teams.first, budget=0.9)) as gateway:
        break_silver(gateway, teams)
        loop.run(gateway.worker._reload_once(lambda: settings(teams.second, budget=0.9)))
        assert asked(gateway, teams, "silver")["x-tiercel-tier"] == "student"
        assert (found(gateway).epoch, found(gateway).segments_sent_back) == (2, ())
        command = ["watch", "--store", str(gateway.database.path), "--record", str(tmp_path / "record"), "--json"]
        assert run(command) == 0
    capsys.readouterr()
    assert run(["certificate", "verify", str(teams.first), "--audits", str(tmp_path / "record"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"]["verdicts"] >= 1


def test_segments_spend_one_budget_between_them(loop: Loop, settings: Callable[..., Settings], teams: Teams) -> None:
    with serving(loop, settings(teams.first, share=0.5, budget=0.04)) as gateway:
        spends = {s.purpose: s.delta for s in found(gateway).budget.spends}
        assert spends == {"broken": pytest.approx(0.01), "within": pytest.approx(0.01)}
        levels = {name: evidence._deltas[0] for name, evidence in watch_of(gateway).evidence.items()}
        assert levels[""] == pytest.approx(0.005) and sum(levels.values()) == pytest.approx(0.01)
        assert watch_of(gateway).opened.rule.threshold == 0.0


def test_an_audit_of_a_bundle_that_was_replaced_is_taken_up_and_counts_to_its_own_epoch(
    loop: Loop, settings: Callable[..., Settings], frontier: Frontier, teams: Teams
) -> None:
    left_behind(loop, settings(teams.first, budget=0.9), frontier, text=teams.text)
    with serving(loop, settings(teams.second, budget=0.9)) as gateway:
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
