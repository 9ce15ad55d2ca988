"""Gateways in processes of their own, once before a provider of OpenAI's form and once before Anthropic.

Both providers play the same recorded answers. What reaches them is kept, so that tests can say what was passed on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.clients.conversations import ANTHROPIC_MODEL, MODEL, RECORDED, UNSURE
from tests.gateway.conftest import KEY, Loop, running
from tiercel.providers.replay import ReplayServer, ReplaySettings
from tiercel.store.database import open_database
from tiercel.store.entries import Entry, find
from tiercel.store.keys import create_key

# Libraries that would look for prices, send traces or count their users on the way.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "OTEL_SDK_DISABLED": "true",
}


@pytest.fixture(scope="package", autouse=True)
def quiet() -> Iterator[None]:
    """No library speaks to anyone but the gateway."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        yield


@dataclass
class Sent:
    """A request as it reached the provider."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Watched:
    """A provider that is watched: it passes everything on to a server that plays recorded answers."""

    replay: str
    requests: list[Sent] = field(default_factory=list[Sent])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Sent(request.path, headers, json.loads(raw) if raw else {}))
        url = self.replay + request.path.removeprefix("/v1")
        async with aiohttp.ClientSession() as session, session.request(request.method, url, data=raw) as answer:
            told = {"Content-Type": answer.headers["Content-Type"], "x-request-id": "req_of_the_provider"}
            response = web.StreamResponse(status=answer.status, headers=told)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            return response

    @property
    def last(self) -> Sent:
        return self.requests[-1]


@dataclass
class Gateway:
    """A gateway that asks for keys, and what stands behind it.

    Attributes:
        kind: dialect of its provider.
        root: its URL; Anthropic's clients want it without /v1.
        provider: that it escalates to.
        keys: secrets by what they may do.
        store: file of its database.
    """

    kind: str
    root: str
    provider: Watched
    keys: dict[str, str]
    store: Path

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def entry(self, id_: str | None) -> Entry:
        """What the ledger says of an answer, by the id that its header names."""
        assert id_ is not None
        limit = time.monotonic() + 5
        with closing(open_database(str(self.store), migrate=False)) as database:
            while (found := find(database, id_)) is None:
                assert time.monotonic() < limit, "the ledger has no such entry"
                time.sleep(0.02)
        return found


_TOML = """
[server]
port = 0
require_keys = true
drain_s = 0.2

[capture]
store = "store.db"

[costs]
prices = "prices.csv"

[frontier]
providers = ["frontier"]
default_model = "{model}"

[[provider]]
name = "frontier"
kind = "{kind}"
url = "{frontier}"
key_env = "TIERCEL_TEST_PROVIDER_KEY"
models = {{ "{model}" = "{name}" }}
retries = 0

[[provider]]
name = "throttled"
kind = "{kind}"
url = "{throttled}"
retries = 0

[[provider]]
name = "broken"
kind = "{kind}"
url = "{broken}"
retries = 0

[[provider]]
name = "half"
kind = "{kind}"
url = "{half}"
retries = 0

[[workload]]
name = "helpdesk"
bundle = "{bundle}"
threads = 1

[[workload]]
name = "throttled"
providers = ["throttled"]

[[workload]]
name = "broken"
providers = ["broken"]

[[workload]]
name = "half"
providers = ["half"]
"""

_LIMITS: dict[str, dict[str, Any]] = {
    "any": {},
    "poor": {"budget_usd": 1e-9},
    "slow": {"requests_per_minute": 1},
    "local": {"local_only": True},
    "small": {"tiers": ["student"]},
}


def _keys(store: Path) -> dict[str, str]:
    with closing(open_database(str(store))) as database:
        return {name: create_key(database, name, **limits)[1] for name, limits in _LIMITS.items()}


def _replay(loop: Loop, **faults: float) -> ReplayServer:
    server = ReplayServer(RECORDED, ReplaySettings(faults=faults))
    loop.run(server.__aenter__())
    return server


@contextmanager
def _process(folder: Path) -> Iterator[str]:
    """Root URL of `tiercel serve` with the configuration of a folder."""
    command = [sys.executable, "-c", "from tiercel.cli import main; main()", "serve"]
    log, environment = folder / "log", {**os.environ, "TIERCEL_TEST_PROVIDER_KEY": KEY}
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=stderr)
    try:
        limit = time.monotonic() + 60
        while (found := re.search(r" at (http://\S+)/v1", log.read_text("utf-8"))) is None:
            assert process.poll() is None and time.monotonic() < limit, log.read_text("utf-8")
            time.sleep(0.02)
        yield found[1]
        process.terminate()
        assert process.wait(20) == 0, log.read_text("utf-8")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    said = log.read_text("utf-8")
    for secret in (KEY, UNSURE, "Ada", "tcl-"):
        assert secret not in said
    assert "ERROR" not in said, said


@pytest.fixture(scope="session", params=["openai", "anthropic"])
def gateway(
    request: pytest.FixtureRequest, loop: Loop, bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """`tiercel serve` with the helpdesk's bundle, before a provider of each form."""
    kind, folder = request.param, tmp_path_factory.mktemp("clients")
    servers = [_replay(loop), *[_replay(loop, **{fault: 1.0}) for fault in ("429", "garbage", "half")]]
    app, provider = web.Application(client_max_size=2**24), Watched(servers[0].url)
    app.router.add_route("*", "/{path:.*}", provider.handle)
    keys = _keys(folder / "store.db")
    (folder / "prices.csv").write_text(
        f"model,input,cached_input,output\n{MODEL},2,1,10\n{ANTHROPIC_MODEL},3,1,15\n", encoding="utf-8"
    )
    with running(loop, app) as url:
        text = _TOML.format(
            kind=kind,
            model=MODEL,
            name=MODEL if kind == "openai" else ANTHROPIC_MODEL,
            frontier=url,
            throttled=servers[1].url,
            broken=servers[2].url,
            half=servers[3].url,
            bundle=bundle_folder,
        )
        (folder / "tiercel.toml").write_text(text, encoding="utf-8")
        with _process(folder) as root:
            yield Gateway(kind, root, provider, keys, folder / "store.db")
    for server in servers:
        loop.run(server.__aexit__())
