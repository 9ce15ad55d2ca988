"""The gateway against its own OpenAPI document: whatever schemathesis thinks of is answered as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import chat
from tests.gateway.conftest import SURE, SYSTEM, UNSURE, Loop, Running, serving
from tiercel.datasets.contract import example_from
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.sections import Provider, Secret, Server, Settings
from tiercel.providers.replay import ReplayServer, ReplaySettings
from tiercel.store.keys import create_key

schemathesis = pytest.importorskip("schemathesis")

OPERATIONS = sorted((path, method) for path, item in openapi_document(Settings())["paths"].items() for method in item)
TRIES = 25


@pytest.fixture(scope="module")
def replay(loop: Loop) -> Iterator[str]:
    """Base URL of a provider that repeats what it is asked."""
    rows = [example_from(chat(text, "billing", SYSTEM, model="gpt-frontier")) for text in (SURE, UNSURE)]
    server = ReplayServer(rows, ReplaySettings(speed=float("inf"), fallback="echo"))
    yield loop.run(server.__aenter__())
    loop.run(server.__aexit__())


@pytest.fixture(scope="module", params=[False, True], ids=["open", "keys"])
def gateway(
    request: pytest.FixtureRequest,
    loop: Loop,
    replay: str,
    bundle_folder: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Running, dict[str, str]]]:
    """A gateway with a bundle and a provider, and the headers that open it."""
    from tiercel.gateway.sections import Capture, Workload

    store = str(tmp_path_factory.mktemp("document") / "store.db")
    found = Settings(
        server=Server(drain_s=0.2, require_keys=request.param, max_body_mb=1),
        providers=(Provider(name="replay", url=replay, api_key=Secret("k"), timeout_s=10, retries=0),),
        workloads=(Workload(name="helpdesk", bundle=bundle_folder, threads=1),),
        capture=Capture(store=store),
    )
    with serving(loop, found) as running:
        _, secret = create_key(running.database, "test")
        running.worker.keys.refresh()
        yield running, {"Authorization": f"Bearer {secret}"} if request.param else {}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_are_what_the_document_says(gateway: tuple[Running, dict[str, str]], path: str, method: str) -> None:
    running, headers = gateway
    base = running.url.removesuffix("/v1")
    document = schemathesis.openapi.from_url(base + "/openapi.json")
    operation = document[path][method.upper()]
    checks = schemathesis.checks
    wanted = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @settings(
        max_examples=TRIES if method == "post" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(modes))
    def check(case: Any) -> None:
        for sent in {True, False} if headers else {True}:
            response = case.call(
                base_url=base, headers=headers if sent else {"Authorization": "Bearer tcl-wrong"}, timeout=10
            )
            assert response.status_code != 500
            case.validate_response(response, checks=wanted)

    check()
