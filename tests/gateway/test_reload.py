"""SIGHUP while requests are answered: none fails, the old configuration serves until the new one is ready, and goes."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.gateway.conftest import ANSWER, SURE, UNSURE, Frontier, Loop, Running, body, make_bundle, send, serving
from tests.gateway.launching import Line, Reply, question, request, until
from tiercel.errors import ConfigurationError
from tiercel.gateway.sections import Cache, Monitor, Privacy, Secret, Server, Settings, Workload


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another pilot's bundle for the same requests, whose labels end in 2."""
    return make_bundle(tmp_path_factory.mktemp("other"), "2")


@dataclass
class File:
    """Stands in for tiercel.toml: what is read again."""

    settings: Settings | None

    def __call__(self) -> Settings:
        if self.settings is None:
            raise ConfigurationError("tiercel.toml is no TOML")
        return self.settings


def reload(loop: Loop, gateway: Running, logged: pytest.LogCaptureFixture) -> None:
    before = sum("configuration" in r.getMessage() for r in logged.records)
    loop.loop.call_soon_threadsafe(gateway.worker.reload)
    until(lambda: sum("configuration" in r.getMessage() for r in logged.records) > before, "the reload")


class Load:
    """Connections in a thread that ask one thing after the other until they are told to stop."""

    def __init__(self, port: int) -> None:
        self.replies: list[tuple[str, Reply]] = []
        self._over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(port)))

    async def _run(self, port: int) -> None:
        await asyncio.gather(*[self._client(await Line.open(port), text) for text in (SURE, UNSURE) * 3])

    async def _client(self, line: Line, text: str) -> None:
        while not self._over:
            stream = len(self.replies) % 4 == 0
            self.replies.append((text, await line.ask(question(text, stream=stream))))
        line.close()

    def fresh(self, text: str, good: Callable[[Reply], bool]) -> None:
        """Wait until the replies to a text are as they should be, and stay so for some."""
        until(lambda: all(map(good, found := [r for t, r in self.replies[-40:] if t == text])) and found)

    @contextmanager
    def going_on(self) -> Iterator[Load]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over = True
            self._thread.join()


def port_of(gateway: Running) -> int:
    return int(gateway.url.rpartition(":")[2].removesuffix("/v1"))


def test_no_request_fails_whatever_changes(
    loop: Loop,
    configured: Callable[..., Settings],
    frontier: Frontier,
    bundle_folder: Path,
    other_bundle: Path,
    logged: pytest.LogCaptureFixture,
) -> None:
    # Audited, another bundle would have to be certified at what the first has left of the error budget.
    first = configured(frontier.provider(), monitor=Monitor(enabled=False))
    file = File(first)

    def says(text: bytes) -> Callable[[Reply], bool]:
        return lambda reply: text in reply.body

    with serving(loop, first, file) as gateway, Load(port_of(gateway)).going_on() as load:
        load.fresh(SURE, says(b'"billing"'))
        workload = Workload(name="helpdesk", bundle=other_bundle, threads=1)
        file.settings = replace(first, workloads=(workload,))
        reload(loop, gateway, logged)
        load.fresh(SURE, says(b'"billing2"'))

        provider = frontier.provider(name="renamed", model="another-model")
        file.settings = replace(file.settings, providers=(provider,))
        reload(loop, gateway, logged)
        until(lambda: {r["model"] for r in frontier.requests[-5:]} == {"another-model"})

        limited = replace(workload, requests_per_minute=1_000_000, capture=False)
        file.settings = replace(file.settings, workloads=(limited,))
        reload(loop, gateway, logged)
        load.fresh(SURE, says(b'"billing2"'))

        kept, file.settings = file.settings, None
        reload(loop, gateway, logged)
        assert "the configuration stays as it was: tiercel.toml is no TOML" in logged.text
        load.fresh(SURE, says(b'"billing2"'))

        broken = replace(workload, bundle=other_bundle / "nothing")
        file.settings = replace(kept, workloads=(broken,))
        reload(loop, gateway, logged)
        load.fresh(SURE, says(b'"billing2"'))

        file.settings = first
        reload(loop, gateway, logged)
        load.fresh(SURE, says(b'"billing"'))
        dropped = gateway.worker.recorder.dropped
    assert dropped == 0
    assert [reply for _, reply in load.replies if not reply.good] == []
    assert len(load.replies) > 100


@pytest.mark.parametrize("audited", [False, True])
def test_old_configurations_are_let_go(
    loop: Loop,
    configured: Callable[..., Settings],
    frontier: Frontier,
    bundle_folder: Path,
    other_bundle: Path,
    logged: pytest.LogCaptureFixture,
    audited: bool,
) -> None:
    first = configured(frontier.provider(), monitor=Monitor(enabled=audited))
    other = replace(first, providers=(frontier.provider(name="other"),))
    if not audited:
        other = replace(other, workloads=(Workload(name="helpdesk", bundle=other_bundle, threads=1),))
    file = File(first)

    async def ask(port: int) -> None:
        line = await Line.open(port)
        for text in (SURE, UNSURE):
            assert (await line.ask(question(text))).good
        line.close()

    states: list[weakref.ref[Any]] = []
    bundles: list[weakref.ref[Any]] = []
    with serving(loop, first, file) as gateway:
        asyncio.run(ask(port_of(gateway)))
        threads = threading.active_count()
        for i in range(30):
            file.settings = (other, first)[i % 2]
            reload(loop, gateway, logged)
            asyncio.run(ask(port_of(gateway)))
            state = gateway.worker.gateway.state
            states.append(weakref.ref(state))
            bundles.append(weakref.ref(state.workloads.known[0].desk.bundle))  # type: ignore[union-attr]
            del state
        until(lambda: gateway.worker.recorder.written >= 62 and gateway.worker.recorder.waiting == 0)

        def alive() -> tuple[int, int]:
            return sum(r() is not None for r in states), sum(r() is not None for r in bundles)

        gc.collect()
        assert alive() == (1, 30 if audited else 1)  # one bundle for all, or the last one
        until(lambda: threading.active_count() <= threads + 2)  # those of asyncio's own pool come and go


def test_a_reload_while_another_one_is_under_way_comes_after_it(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, logged: pytest.LogCaptureFixture
) -> None:
    first = configured(frontier.provider(), bundle=False)
    began, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def reread() -> Settings:
        calls.append(len(calls))
        began.set()
        assert go.wait(10)
        return replace(first, providers=(frontier.provider(model=f"model-{len(calls)}"),))

    with serving(loop, first, reread) as gateway:
        for _ in range(4):  # three of them while the first is held up
            loop.loop.call_soon_threadsafe(gateway.worker.reload)
            assert began.wait(10)
        go.set()
        until(lambda: gateway.worker.gateway.state.settings.providers[0].model == "model-2")
        until(lambda: gateway.worker._reloading is None)
        assert len(calls) == 2


def test_cached_answers_outlive_what_does_not_touch_them(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, logged: pytest.LogCaptureFixture
) -> None:
    workload = {"tiers": ("cache", "frontier")}
    first = configured(frontier.provider(), cache=Cache(enabled=True), workload=workload)
    [own] = first.workloads

    def changed(**more: Any) -> tuple[Workload, ...]:
        return (replace(own, **more),)

    def provided(**more: Any) -> dict[str, Any]:
        return {"providers": (replace(first.providers[0], **more),)}

    untouched: list[dict[str, Any]] = [
        {"workloads": changed(budget_usd=5.0, capture=False, max_input_tokens=10_000)},
        {"workloads": (own, Workload(name="another", requests_per_minute=5))},
        {"cache": Cache(enabled=True, ttl_s=1_000, max_mb=1)},
        {"privacy": Privacy(redact_storage=True), "server": Server(drain_s=0.1)},
        provided(api_key=Secret("another-key"), timeout_s=9.0, retries=1),
    ]
    touched: list[dict[str, Any]] = [
        provided(model="another-model"),
        provided(headers={"x-mode": Secret("brief")}),
        {"workloads": changed(tiers=("cache", "frontier", "student"))},
        {"privacy": Privacy(redact_escalation=("email",))},
        {"providers": (frontier.provider(name="before"), *first.providers)},
    ]
    file = File(first)
    with serving(loop, first, file) as gateway:

        def tiers() -> list[str]:
            async def ask() -> list[str]:
                line = await Line.open(port_of(gateway))
                stranger = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
                replies = [await line.ask(question(UNSURE)), await line.ask(request(stranger))]
                line.close()
                return [reply.headers["x-tiercel-tier"] for reply in replies]

            return asyncio.run(ask())

        assert tiers() == ["frontier", "frontier"]
        for change in untouched:
            file.settings = replace(first, **change)
            reload(loop, gateway, logged)
            assert tiers() == ["cache", "cache"], change
        for change in touched:
            file.settings = replace(first, **change)
            reload(loop, gateway, logged)
            stranger = "cache" if "workloads" in change else "frontier"
            assert tiers() == ["frontier", stranger], change
            assert tiers() == ["cache", "cache"], change
            file.settings = first
            reload(loop, gateway, logged)
            tiers()


def test_a_stream_goes_on_with_what_it_began_with(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, logged: pytest.LogCaptureFixture
) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        if not json.loads(await request.read()).get("stream"):
            return web.json_response(ANSWER)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        await frontier.until_released()
        await response.write(b"data: [DONE]\n\n")
        return response

    frontier.behave = slow
    first = configured(frontier.provider(), bundle=False)
    file = File(replace(first, providers=(frontier.provider(name="new"),)))
    with serving(loop, first, file) as gateway:
        old = weakref.ref(gateway.worker.gateway.state)

        async def ask() -> Reply:
            asking = asyncio.create_task((await Line.open(port_of(gateway))).ask(question(UNSURE, stream=True)))
            while not frontier.requests:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(reload, loop, gateway, logged)
            assert old() is not None
            frontier.released.set()
            return await asking

        reply = asyncio.run(ask())
        assert reply.good
        assert reply.headers["x-tiercel-tier"] == "frontier"
        assert [entry.provider for entry in gateway.entries(1)] == ["frontier"]
        until(lambda: gc.collect() >= 0 and old() is None)


def test_an_address_that_waits_for_a_restart_keeps_its_keys_needed(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, logged: pytest.LogCaptureFixture
) -> None:
    first = configured(frontier.provider(), server=Server(host="0.0.0.0", drain_s=0.2))
    at_home = replace(first.server, host="127.0.0.1", drain_s=0.3)
    file = File(replace(first, server=at_home))
    with serving(loop, first, file) as gateway:
        assert send(gateway.url, body(SURE))[0] == 401
        reload(loop, gateway, logged)
        assert "a restart is needed for: server.host" in logged.text
        assert send(gateway.url, body(SURE))[0] == 401
        assert gateway.worker.gateway.state.settings.server.drain_s == 0.3
        file.settings = replace(first, server=replace(at_home, require_keys=False))
        reload(loop, gateway, logged)
        assert "server.require_keys is false, and the gateway still listens at 0.0.0.0" in logged.text
        assert send(gateway.url, body(SURE))[0] == 401
