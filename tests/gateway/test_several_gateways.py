"""Two gateways, each a process of its own, on one PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import func, select

from tests.gateway.conftest import ANSWER, UNSURE, Frontier, Loop, body, running, send
from tests.gateway.launching import Launched, Line, Reply, config, launched, request, until
from tiercel.store.database import Database, open_database
from tiercel.store.keys import create_key, revoke_key
from tiercel.store.limit_upkeep import purge
from tiercel.store.limits import LEASE_S, spent
from tiercel.store.tables import entries

COST_USD = 0.01
"""Of each request: 10 tokens of output, as `max_tokens` allows and as the frontier counts."""
PRICES = "model,input,cached_input,output\ngpt-frontier,0,0,1000\nfrontier-1,0,0,1000\n"
SETTINGS = '[capture]\nstore_env = "STORE_URL"\nqueue = 5000\n\n[costs]\nprices = "prices.csv"\n'


def counting(frontier: Frontier, seconds: float) -> None:
    async def behave(_: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return web.json_response({**ANSWER, "usage": {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}})

    frontier.behave = behave


@pytest.fixture(scope="module")
def shared(postgres_server: str) -> Iterator[tuple[str, Database]]:
    """URL and database of the store that the gateways share."""
    import psycopg

    with psycopg.connect(postgres_server + "postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE several")
    url = postgres_server + "several"
    database = open_database(url)
    yield url, database
    database.close()


@pytest.fixture(scope="module")
def upstream(loop: Loop) -> Iterator[Frontier]:
    frontier = Frontier()
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", frontier.handle)
    with running(loop, app) as frontier.url:
        yield frontier


def start(stack: ExitStack, folder: Path, url: str, upstream: Frontier) -> Launched:
    folder.mkdir(exist_ok=True)
    (folder / "prices.csv").write_text(PRICES)
    env = {"STORE_URL": url}
    return stack.enter_context(
        launched(folder, config(SETTINGS, frontier=upstream.url, server="drain_s = 5\n"), env=env)
    )


@pytest.fixture(scope="module")
def pair(
    shared: tuple[str, Database], upstream: Frontier, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Launched]]:
    with ExitStack() as stack:
        yield [start(stack, tmp_path_factory.mktemp(name), shared[0], upstream) for name in ("one", "two")]


@pytest.fixture
def database(shared: tuple[str, Database]) -> Database:
    return shared[1]


def asked(secret: str | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return request(body(UNSURE, max_tokens=10), **headers)


def status(gateway: Launched, secret: str) -> int:
    return send(gateway.url, body(UNSURE, max_tokens=10), headers={"authorization": f"Bearer {secret}"})[0]


def count(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(entries)).scalar_one()


def known(pair: list[Launched], secret: str) -> None:
    """Wait until all gateways know of a key; asking for models costs it nothing."""
    for gateway in pair:
        request = urllib.request.Request(f"{gateway.url}/models", headers={"Authorization": f"Bearer {secret}"})

        def answers(request: urllib.request.Request = request) -> bool:
            try:
                with urllib.request.urlopen(request, timeout=10):
                    return True
            except urllib.error.HTTPError as error:
                assert error.code == 401
                return False

        until(answers, "the key's way to a gateway")


def test_a_key_made_on_one_works_on_all_and_so_does_its_end(
    pair: list[Launched], database: Database, upstream: Frontier
) -> None:
    counting(upstream, 0.0)
    command = ["from tiercel.cli import main; main()", "keys", "create", "everywhere", "--json"]
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {**os.environ, "TIERCEL_STORE": url}
    made = subprocess.run([sys.executable, "-c", *command], env=environment, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(made.stdout)
    secret = told["secret"]
    known(pair, secret)
    assert [status(gateway, secret) for gateway in pair] == [200, 200]
    revoke_key(database, told["key"]["id"])
    for gateway in pair:
        until(lambda gateway=gateway: status(gateway, secret) == 401, "the key's end")


async def load(gateways: list[Launched], raw: bytes, times: int, lines: int = 8) -> list[Reply]:
    """So many requests, over so many connections to each gateway."""
    replies: list[Reply] = []
    left = itertools.repeat(None, times)

    async def client(line: Line) -> None:
        for _ in left:
            replies.append(await line.ask(raw))
        line.close()

    await asyncio.gather(*[client(await Line.open(gateway.port)) for gateway in gateways for _ in range(lines)])
    return replies


def test_a_budget_grants_exactly_what_it_is_worth_over_both(
    pair: list[Launched], database: Database, upstream: Frontier
) -> None:
    counting(upstream, 0.01)
    key, secret = create_key(database, "budget", budget_usd=25 * COST_USD)
    known(pair, secret)
    before, stored = len(upstream.requests), count(database)
    replies = asyncio.run(load(pair, asked(secret), 80))
    assert Counter(reply.status for reply in replies) == {200: 25, 429: 55}
    assert len(upstream.requests) - before == 25
    until(lambda: count(database) == stored + 80, "80 entries of both in one store")
    used = spent(database, [key.scope], time.time())[0]
    assert (round(used.spent_usd, 9), used.reserved_usd) == (0.25, 0.0)
    ids = {reply.id for reply in replies}
    with database.reading() as connection:
        assert ids <= set(connection.execute(select(entries.c.id)).scalars())


def test_what_a_killed_gateway_had_reserved_comes_back(
    pair: list[Launched],
    shared: tuple[str, Database],
    database: Database,
    upstream: Frontier,
    tmp_path: Path,
) -> None:
    async def never(_: web.Request) -> web.Response:
        await upstream.until_released()
        return web.json_response(ANSWER)

    upstream.behave = never
    key, secret = create_key(database, "doomed", budget_usd=5 * COST_USD)
    with ExitStack() as stack:
        doomed = start(stack, tmp_path / "doomed", shared[0], upstream)

        async def hold() -> None:
            lines = [await Line.open(doomed.port) for _ in range(5)]
            before = len(upstream.requests)
            asking = [asyncio.create_task(line.ask(asked(secret))) for line in lines]
            while len(upstream.requests) < before + 5:
                await asyncio.sleep(0.01)
            doomed.tell(signal.SIGKILL)
            await asyncio.gather(*asking)

        asyncio.run(hold())
    upstream.released.set()
    counting(upstream, 0.0)
    known(pair, secret)
    assert round(spent(database, [key.scope], time.time())[0].reserved_usd, 9) == 0.05
    assert status(pair[0], secret) == 429
    purge(database, time.time() + LEASE_S + 1)
    assert [status(pair[0], secret) for _ in range(6)] == [200] * 5 + [429]


def test_a_restart_of_postgresql_under_load_costs_no_request_without_limits_and_no_entry(
    pair: list[Launched], database: Database, upstream: Frontier
) -> None:
    counting(upstream, 0.02)
    _, secret = create_key(database, "limited", requests_per_minute=100_000)
    known(pair, secret)
    with database.reading() as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    database.engine.dispose()
    program, *options = shlex.split((Path(folder) / "postmaster.opts").read_text())
    options = [option for option in options if option not in ("-D", folder)]

    def control(*command: str) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            [str(Path(program).with_name("pg_ctl")), "-D", folder, "-w", *command],
            check=True,
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    free: list[Reply] = []
    limited: list[Reply] = []
    over = False

    async def client(gateway: Launched, raw: bytes, into: list[Reply]) -> None:
        line = await Line.open(gateway.port)
        while not over:
            into.append(await line.ask(raw))
            await asyncio.sleep(0.02)
        line.close()

    async def restart() -> tuple[float, float]:
        nonlocal over
        clients = [
            asyncio.create_task(client(gateway, raw, into))
            for gateway in pair
            for raw, into in [(asked(), free), (asked(), free), (asked(secret), limited)]
        ]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(control, "-m", "fast", "stop")
        down = time.monotonic()
        await asyncio.sleep(1.5)
        up = time.monotonic()
        await asyncio.to_thread(control, "-l", f"{Path(folder).parent}/log", "-o", shlex.join(options), "start")
        begun = len(limited)
        limit = time.monotonic() + 30
        while {reply.status for reply in limited[begun:][-6:]} != {200}:
            assert time.monotonic() < limit, "requests with limits are not answered again"
            await asyncio.sleep(0.1)
        over = True
        await asyncio.gather(*clients)
        return down, up

    down, up = asyncio.run(restart())
    assert {reply.status for reply in free} == {200}
    assert all(reply.whole for reply in free + limited)
    assert {reply.status for reply in limited} == {200, 503}
    meanwhile = [reply for reply in limited if down < reply.sent and reply.ended < up]
    assert {reply.status for reply in meanwhile} == {503}
    assert {json.loads(reply.body)["error"]["code"] for reply in meanwhile} == {"limits_unavailable"}
    assert {reply.headers["retry-after"] for reply in meanwhile} == {"1"}
    ids = {reply.id for reply in free + limited}

    def arrived() -> bool:
        with database.reading() as connection:
            return ids <= set(connection.execute(select(entries.c.id)).scalars())

    until(arrived, "the entries' way into the store")
    for gateway in pair:
        assert "tiercel_capture_dropped_total 0.0" in _page(gateway)
        assert 2 <= gateway.log.count("ERROR") <= 12
        assert "traces are stored again; 0 were dropped meanwhile" in gateway.log
        assert "Traceback" not in gateway.log
        assert "sesame" not in gateway.log


def _page(gateway: Launched) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/metrics", timeout=10) as page:
        return page.read().decode()
