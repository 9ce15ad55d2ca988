"""What requests are charged, through a real gateway and its store: exactly once, at a known price, whatever happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.conftest import ANSWER, Frontier, Loop, Running, answering, send, serving
from tiercel.gateway.sections import Capture, Costs, Monitor, Provider, Server, Settings, Workload
from tiercel.gateway.sections import Frontier as FrontierSettings
from tiercel.store.keys import create_key
from tiercel.store.limit_upkeep import purge
from tiercel.store.limits import LEASE_S, Scope, Spent, spent

PRICES = "model,input,cached_input,output\nm,1000,500,2000\ncheap,1,1,1\nfree,0,0,0\n"
IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 130_000
"""1.4 MB, as a photograph has them."""


def chat(model: str = "m", content: Any = "how are you", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def usage(inputs: int, outputs: int) -> dict[str, int]:
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}


@contextmanager
def paying(loop: Loop, folder: Path, *providers: Provider, prices: str = PRICES, **more: Any) -> Generator[Running]:
    """A gateway with a price list."""
    (folder / "prices.csv").write_text(prices)
    settings: dict[str, Any] = {
        "server": Server(drain_s=0.2),
        "providers": providers,
        "capture": Capture(store=str(folder / "store.db")),
        "monitor": Monitor(enabled=False),
        "costs": Costs(prices=folder / "prices.csv"),
    }
    with serving(loop, Settings(**{**settings, **more})) as gateway:
        yield gateway


@pytest.fixture
def gateway(loop: Loop, frontier: Frontier, tmp_path: Path) -> Iterator[Running]:
    with paying(loop, tmp_path, frontier.provider()) as running:
        yield running


def key(gateway: Running, **limits: Any) -> tuple[Scope, dict[str, str]]:
    """A key's limits, and the header that shows it."""
    made, secret = create_key(gateway.database, "test", **limits)
    gateway.worker.keys.refresh()
    return made.scope, {"authorization": f"Bearer {secret}"}


def used(gateway: Running, scope: Scope) -> Spent:
    return spent(gateway.database, [scope], time.time())[0]


def error(raw: bytes) -> dict[str, Any]:
    return json.loads(raw)["error"]


class TestOnce:
    @pytest.fixture(autouse=True)
    def _one_dollar(self, frontier: Frontier) -> None:
        frontier.behave = answering(200, {**ANSWER, "model": "m", "usage": usage(0, 500)})

    def test_a_key_with_a_budget_and_rates_is_charged_once(self, gateway: Running) -> None:
        scope, shown = key(gateway, budget_usd=10.0, requests_per_minute=10, tokens_per_minute=100_000)
        assert send(gateway.url, chat(), headers=shown)[0] == 200
        gateway.entries(1)
        spend = used(gateway, scope)
        assert (spend.spent_usd, spend.reserved_usd, spend.requests, spend.tokens) == (1.0, 0.0, 1, 500)

    def test_a_key_with_rates_and_a_workload_with_both_are_charged_once(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        workload = Workload(name="desk", budget_usd=10.0, requests_per_minute=10)
        routed = FrontierSettings(default_model="m")
        with paying(loop, tmp_path, frontier.provider(), workloads=(workload,), frontier=routed) as gateway:
            scope, shown = key(gateway, tokens_per_minute=100_000)
            assert send(gateway.url, chat("tiercel/desk"), headers=shown)[0] == 200
            gateway.entries(1)
            both = [used(gateway, scope), used(gateway, Scope(kind="workload", name="desk"))]
            assert [(s.spent_usd, s.reserved_usd, s.requests, s.tokens) for s in both] == [(1.0, 0.0, 1, 500)] * 2

    def test_what_the_budget_refuses_counts_as_one_request_and_holds_nothing(
        self, gateway: Running, frontier: Frontier
    ) -> None:
        scope, shown = key(gateway, budget_usd=0.5, requests_per_minute=10)
        assert send(gateway.url, chat(max_tokens=400), headers=shown)[0] == 429
        assert not frontier.requests
        gateway.entries(1)
        spend = used(gateway, scope)
        assert (spend.spent_usd, spend.reserved_usd, spend.requests, spend.tokens) == (0.0, 0.0, 1, 0)


class TestPrices:
    @pytest.mark.parametrize("model", ["nobody-knows", "ft:gpt-4o:house::id", "openai/gpt-4o:online"])
    def test_a_budget_lets_no_model_without_a_price_through(
        self, gateway: Running, frontier: Frontier, model: str
    ) -> None:
        scope, shown = key(gateway, budget_usd=10.0)
        status, headers, raw = send(gateway.url, chat(model), headers=shown)
        assert (status, error(raw)["code"], error(raw)["param"]) == (400, "model_without_price", "model")
        assert repr(model) in error(raw)["message"]
        assert "`prices` in [costs]" in error(raw)["message"]
        assert "retry-after" not in headers
        assert not frontier.requests
        assert send(gateway.url, chat("free"), headers=shown)[0] == 200
        assert used(gateway, scope).reserved_usd == 0

    def test_without_a_budget_a_price_is_not_needed(self, gateway: Running) -> None:
        _, shown = key(gateway, requests_per_minute=10)
        assert send(gateway.url, chat("nobody-knows"), headers=shown)[0] == 200

    def test_the_caller_does_not_choose_the_price_of_a_model_that_the_provider_chooses(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        frontier.behave = answering(200, {**ANSWER, "model": "served-name", "usage": usage(10, 10)})
        with paying(loop, tmp_path, frontier.provider(model="own")) as gateway:
            _, shown = key(gateway, budget_usd=10.0)
            assert send(gateway.url, chat("cheap"), headers=shown)[0] == 400
            assert send(gateway.url, chat("cheap"))[0] == 200
            assert gateway.entries(2)[-1].cost_usd is None

    def test_a_deployment_costs_what_the_model_costs_that_it_stands_for(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        frontier.behave = answering(200, {**ANSWER, "model": "served-name", "usage": usage(500, 0)})
        with paying(loop, tmp_path, frontier.provider(models={"m": "my-deployment"})) as gateway:
            scope, shown = key(gateway, budget_usd=10.0)
            assert send(gateway.url, chat("m"), headers=shown)[0] == 200
            assert gateway.entries(1)[0].cost_usd == 0.5
            assert used(gateway, scope).spent_usd == 0.5

    def test_the_dearest_provider_that_may_be_asked_is_reserved(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        providers = frontier.provider(name="a", model="free"), frontier.provider(name="b", model="m")
        with paying(loop, tmp_path, *providers) as gateway:
            _, shown = key(gateway, budget_usd=0.1)
            assert error(send(gateway.url, chat(), headers=shown)[2])["code"] == "budget_exceeded"

    def test_embeddings_cost_what_was_asked_for_and_not_the_default_model(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        told = {"object": "list", "data": [], "usage": {"prompt_tokens": 1_000_000, "total_tokens": 1_000_000}}
        frontier.behave = answering(200, told)
        routed = FrontierSettings(default_model="m")
        with paying(loop, tmp_path, frontier.provider(), frontier=routed) as gateway:
            scope, shown = key(gateway, budget_usd=10.0)
            asked = {"model": "text-embedding-3-small", "input": "hello"}
            assert send(gateway.url, asked, "/embeddings", headers=shown)[0] == 200
            assert gateway.entries(1)[0].cost_usd == pytest.approx(0.02)
            assert used(gateway, scope).spent_usd == pytest.approx(0.02)


async def at_once(url: str, path: str, count: int, data: Any, headers: dict[str, str]) -> list[int]:
    async with aiohttp.ClientSession() as session:

        async def one() -> int:
            async with session.post(url + path, json=data, headers=headers) as response:
                await response.read()
                return response.status

        return await asyncio.gather(*(one() for _ in range(count)))


HOSTED = {"model": "m", "input": "look it up", "tools": [{"type": "web_search"}], "max_output_tokens": 50}
"""Of Responses, without a form as a chat."""


class TestReservations:
    @pytest.mark.parametrize(
        ("path", "data"),
        [("/embeddings", {"model": "m", "input": "x" * 380}), ("/responses", HOSTED)],
        ids=["embeddings", "responses"],
    )
    def test_requests_without_chat_form_hold_what_they_may_cost(
        self, loop: Loop, frontier: Frontier, tmp_path: Path, path: str, data: dict[str, Any]
    ) -> None:
        async def slow(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response({"object": "list", "data": [], "usage": usage(100, 0)})

        frontier.behave = slow
        with paying(loop, tmp_path, frontier.provider(responses=True)) as gateway:
            # Each is reckoned at some .1 USD.
            scope, shown = key(gateway, budget_usd=0.35)
            loop.loop.call_later(0.7, frontier.released.set)
            statuses = asyncio.run(at_once(gateway.url, path, 8, data, shown))
            granted = statuses.count(200)
            assert 1 <= granted <= 3
            assert statuses.count(429) == 8 - granted == 8 - len(frontier.requests)
            gateway.entries(8)
            assert used(gateway, scope).spent_usd == pytest.approx(0.1 * granted)

    def test_a_reservation_outlives_the_longest_request(self, loop: Loop, frontier: Frontier, tmp_path: Path) -> None:
        async def slow(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response({**ANSWER, "model": "m", "usage": usage(500, 0)})

        frontier.behave = slow
        longest = 4 * LEASE_S
        server = Server(drain_s=0.2, request_timeout_s=longest)
        with paying(loop, tmp_path, frontier.provider(), server=server) as gateway:
            scope, shown = key(gateway, budget_usd=10.0)
            job = asyncio.run_coroutine_threadsafe(
                at_once(gateway.url, "/chat/completions", 1, chat(), shown), loop.loop
            )
            assert frontier.asked.wait(5)
            purge(gateway.database, time.time() + longest)
            assert used(gateway, scope).reserved_usd > 0.9
            frontier.released.set()
            assert job.result(10) == [200]
            gateway.entries(1)
            spend = used(gateway, scope)
            assert (spend.spent_usd, spend.reserved_usd) == (0.5, 0.0)


def picture(**more: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": IMAGE, **more}}]


class TestImages:
    def test_an_image_counts_as_an_image_and_not_as_its_bytes(self, gateway: Running) -> None:
        scope, shown = key(gateway, tokens_per_minute=10_000)
        assert send(gateway.url, chat(content=picture()), headers=shown)[0] == 200
        gateway.entries(1)
        assert used(gateway, scope).tokens == 2

    def test_what_can_never_fit_is_the_callers_mistake_and_not_a_matter_of_time(
        self, gateway: Running, frontier: Frontier
    ) -> None:
        frontier.behave = answering(200, {**ANSWER, "usage": usage(500, 0)})
        scope, shown = key(gateway, tokens_per_minute=1_000)
        status, headers, raw = send(gateway.url, chat(content=picture()), headers=shown)
        assert (status, error(raw)["code"]) == (400, "request_exceeds_limit")
        assert "retry-after" not in headers
        assert "1000 per minute" in error(raw)["message"]
        assert send(gateway.url, chat(content=picture(detail="low"), max_tokens=9), headers=shown)[0] == 200
        gateway.entries(2)
        # What fits, and not now, is a matter of time.
        status, headers, _ = send(gateway.url, chat(max_tokens=900), headers=shown)
        assert (status, int(headers["retry-after"]) <= 61) == (429, True)
        assert used(gateway, scope).requests == 1

    def test_images_count_against_the_longest_request(self, loop: Loop, frontier: Frontier, tmp_path: Path) -> None:
        workload = Workload(name="desk", max_input_tokens=2_000)
        routed = FrontierSettings(default_model="m")
        with paying(loop, tmp_path, frontier.provider(), workloads=(workload,), frontier=routed) as gateway:
            one, two = picture(), picture() + picture()
            assert send(gateway.url, chat("tiercel/desk", one))[0] == 200
            assert error(send(gateway.url, chat("tiercel/desk", two))[2])["code"] == "context_length_exceeded"

    def test_images_of_the_other_dialects_count_alike(self, loop: Loop, frontier: Frontier, tmp_path: Path) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": IMAGE.partition(",")[2]}
        message = {
            "model": "m",
            "max_tokens": 9,
            "messages": chat(content=[{"type": "image", "source": source}])["messages"],
        }
        response = {**HOSTED, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]}
        with paying(loop, tmp_path, frontier.provider(responses=True)) as gateway:
            _, shown = key(gateway, tokens_per_minute=5_000)
            for path, data in (("/messages", message), ("/responses", response)):
                assert send(gateway.url, data, path, headers=shown)[0] == 200
            _, shown = key(gateway, tokens_per_minute=1_600)
            for path, data in (("/messages", message), ("/responses", response)):
                status, _, raw = send(gateway.url, data, path, headers=shown)
                assert (status, b"1600 per minute" in raw) == (400, True)
