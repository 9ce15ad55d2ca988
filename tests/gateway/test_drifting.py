"""Requests that are not like those of the certificate any more: found, named, told, and nobody's text shown to others."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.gateway.conftest import (
    COMMON,
    EASY,
    SURE,
    Frontier,
    Loop,
    Running,
    body,
    by_hand,
    get,
    running,
    send,
    serving,
)
from tests.gateway.test_auditing import until
from tiercel.flows.bundle import load
from tiercel.flows.inputs import Inputs, embed_inputs
from tiercel.gateway.sections import Capture, Monitor, Privacy, Secret, Settings
from tiercel.store.retention import forget_traces

Configured = Callable[..., Settings]
NEW = "zebra quagga okapi giraffe savannah herd migration"


def usual(count: int, seed: int) -> list[str]:
    """Requests as those of the bundle's traffic."""
    draw = random.Random(0)
    filler = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(200)]
    filler += COMMON * 5
    draw.seed(seed)
    texts: list[str] = []
    for _ in range(count):
        told = draw.random() < 0.9
        words = draw.sample(filler, 3 if told else 6) + (draw.sample(EASY[draw.choice(list(EASY))], 3) if told else [])
        draw.shuffle(words)
        texts.append(" ".join(words))
    return texts


def ask(gateway: Running, texts: list[str]) -> None:
    pending = list(texts)

    def client() -> None:
        while pending:
            try:
                text = pending.pop()
            except IndexError:
                return
            assert send(gateway.url, body(text))[0] == 200

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: gateway.worker.recorder.waiting == 0, "the record")
    gateway.entries(len(texts))


def look(gateway: Running) -> Any:
    """Have what was drawn looked at now."""
    drifting = gateway.worker.auditor._drifting
    assert drifting is not None
    drifting._next = 0.0
    gateway.worker.auditor.flush()
    return gateway.worker.auditor.statuses()[0].input_drift


@pytest.fixture
def settings(configured: Configured, frontier: Frontier) -> Callable[..., Settings]:
    def made(**more: Any) -> Settings:
        monitor = Monitor(share=0.01, drift_share=1.0)
        return configured(frontier.provider(), **{"monitor": monitor, **more})

    return made


def test_a_bundle_keeps_what_its_calibration_rows_look_like_and_no_text(bundle_folder: Path) -> None:
    bundle, inputs = load(bundle_folder), Inputs.load(bundle_folder)
    certificate = json.loads((bundle_folder / "certificate.json").read_bytes())
    assert inputs is not None and len(inputs.embeddings) == len(certificate["rows"]) >= 100
    assert np.linalg.norm(inputs.embeddings, axis=1) == pytest.approx(1.0, abs=0.01)
    assert inputs.out_of_scope.sum() == sum(row[1] == 0 for row in certificate["rows"])
    live, tokens = embed_inputs(bundle.student, [SURE])
    assert live.shape == (1, inputs.embeddings.shape[1]) and tokens[0] == 12
    assert b"invoice" not in (bundle_folder / "inputs.safetensors").read_bytes()


def test_usual_requests_raise_no_alarm_and_the_test_goes_on_after_a_restart(
    loop: Loop, settings: Callable[..., Settings]
) -> None:
    with serving(loop, settings()) as gateway:
        assert gateway.worker.auditor.statuses()[0].input_drift is None
        ask(gateway, usual(30, 3))
        found = look(gateway)
        assert (found.pairs, found.drifted, found.signals) == (30, False, ())
    with serving(loop, settings()) as again:
        assert again.worker.auditor.statuses()[0].input_drift.pairs == 30
        ask(again, usual(1, 4))
        assert look(again).pairs == 31


def test_new_requests_are_found_named_and_told_without_their_text(
    loop: Loop, settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    from tiercel.cli.main import run

    told: list[Any] = []

    async def hook(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/hook", hook)
    with running(loop, app) as url:
        monitor = Monitor(share=0.01, drift_share=1.0, hook=Secret(url + "/hook"))
        privacy = Privacy(redact_storage=("email",))
        with serving(loop, settings(monitor=monitor, privacy=privacy)) as gateway:
            by_hand(loop, gateway)
            ask(gateway, [f"{NEW} ada@example.org {i}" for i in range(60)])
            found = look(gateway)
            assert found.drifted and {"content", "out_of_scope"} <= set(found.signals)
            traces = {e.id for e in gateway.entries(60)}
            assert found.examples and {e.trace for e in found.examples} <= traces
            until(lambda: any(t["kind"] == "input drift" for t in told), "the webhook")
            (alarm,) = [t for t in told if t["kind"] == "input drift"]
            assert set(alarm["signals"]) == set(found.signals) and set(alarm["examples"]) <= traces
            assert b'tiercel_input_drift{signal="content",workload="helpdesk"} 1.0' in gateway.worker.metrics.page()
            _, page = get(gateway.url + "/monitor")
            assert page["data"][0]["input_drift"]["drifted"]
            assert "okapi" not in json.dumps([page, told])
            # It is said once, and no request goes elsewhere for it.
            ask(gateway, [f"{NEW} again"])
            look(gateway)
            assert sum(t["kind"] == "input drift" for t in told) == 1
            assert send(gateway.url, body(SURE))[1]["x-tiercel-tier"] == "student"
            # Who may read the store sees what it keeps: redacted.
            assert run(["watch", "--store", str(gateway.database.path)]) == 0
    shown = capsys.readouterr().out
    assert "changed: " in shown and "okapi" in shown and "<EMAIL_1>" in shown and "ada@" not in shown


def test_a_request_that_is_forgotten_is_an_example_no_more(loop: Loop, settings: Callable[..., Settings]) -> None:
    with serving(loop, settings()) as gateway:
        by_hand(loop, gateway)
        ask(gateway, [f"{NEW} {i}" for i in range(40)])
        named = [e.trace for e in look(gateway).examples]
        assert len(named) == 5
        forget_traces(gateway.database, named)
        ask(gateway, [f"{NEW} {i}" for i in range(40, 44)])
        assert not {e.trace for e in look(gateway).examples} & set(named)


def test_nothing_is_named_or_remembered_where_no_text_is_kept(
    loop: Loop, settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiercel.cli.main import run

    capture = Capture(store=str(tmp_path / "store.db"), content=False)
    with serving(loop, settings(capture=capture)) as gateway:
        ask(gateway, [f"{NEW} {i}" for i in range(60)])
        assert look(gateway).drifted
        assert run(["watch", "--store", str(gateway.database.path)]) == 0
    shown = capsys.readouterr().out
    assert "changed: " in shown and "new         " not in shown
    assert gateway.worker.auditor._drifting._books["helpdesk"][1]._test.remembered == ()


def test_gateways_of_a_store_share_one_test(loop: Loop, settings: Callable[..., Settings]) -> None:
    with serving(loop, settings()) as one, serving(loop, settings()) as other:
        for gateway, count in ((one, 4), (other, 8), (one, 12)):
            ask(gateway, usual(4, count))
            assert look(gateway).pairs == count
        assert look(other).pairs == 12


def test_no_share_no_comparison(loop: Loop, settings: Callable[..., Settings]) -> None:
    none = replace(settings(), monitor=Monitor(share=0.01, drift_share=0.0))
    with serving(loop, none) as gateway:
        ask(gateway, [SURE])
        assert look(gateway) is None
