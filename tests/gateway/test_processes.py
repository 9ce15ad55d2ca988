"""The gateway as processes: several workers, signals, drains, kills."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from tests.gateway.conftest import ANSWER, SURE, UNSURE, Frontier, Loop, body, chunk, running, send, sse
from tests.gateway.launching import Launched, Line, Reply, config, launched, question, request, until


def steady(frontier: Frontier, seconds: float = 0.05) -> Callable[[web.Request], Any]:
    """A frontier that takes its time, and streams in six parts."""

    async def behave(asked: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        data = json.loads(await asked.read())
        if not data.get("stream"):
            return web.json_response({**ANSWER, "model": data["model"]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(asked)
        for part in sse(*map(chunk, "delivery"), b"[DONE]"):
            await response.write(part)
            await asyncio.sleep(0.05)
        return response

    return behave


async def opened(port: int, count: int) -> list[Line]:
    return [await Line.open(port) for _ in range(count)]


async def ask_all(port: int, raw: bytes, count: int) -> list[Reply]:
    """So many requests at once, each on a new connection."""
    lines = await opened(port, count)
    replies = await asyncio.gather(*(line.ask(raw) for line in lines))
    for line in lines:
        line.close()
    return replies


def clients_of(process: psutil.Process, port: int) -> set[int]:
    """Ports of the clients whose connections a process has accepted."""
    found = process.net_connections("tcp4")
    return {c.raddr.port for c in found if c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED}


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class TestWorkers:
    @pytest.fixture(scope="class")
    def slow(self, loop: Loop) -> Iterator[Frontier]:
        frontier = Frontier()
        frontier.behave = steady(frontier, 0.2)
        app = web.Application()
        app.router.add_post("/v1/{path:.*}", frontier.handle)
        with running(loop, app) as frontier.url:
            yield frontier

    @pytest.fixture(scope="class")
    def crew(self, slow: Frontier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
        text = config(frontier=slow.url, server="workers = 3\ndrain_s = 5\n")
        with launched(tmp_path_factory.mktemp("crew"), text) as crew:
            yield crew

    def test_each_takes_connections_from_one_port(self, crew: Launched) -> None:
        assert len(crew.workers()) == 3

        async def spread() -> list[int]:
            lines = await opened(crew.port, 12)
            for _ in range(20):
                replies = await asyncio.gather(*(line.ask(question(UNSURE)) for line in lines))
                assert all(reply.good for reply in replies)
                taken = [len(clients_of(worker, crew.port)) for worker in crew.workers()]
                if all(taken):
                    break
                lines += await opened(crew.port, 12)
            for line in lines:
                line.close()
            return taken

        assert all(asyncio.run(spread()))

    def test_one_that_is_killed_hurts_no_request_of_another_and_is_replaced(self, crew: Launched) -> None:
        before = crew.workers()

        async def kill_one() -> tuple[set[int], list[tuple[int, Reply]]]:
            lines = await opened(crew.port, 24)
            assert all(r.good for r in await asyncio.gather(*(line.ask(question(UNSURE)) for line in lines)))
            its = clients_of(before[0], crew.port)
            asking = [asyncio.create_task(line.ask(question(UNSURE))) for line in lines]
            await asyncio.sleep(0.1)
            before[0].kill()
            replies = await asyncio.gather(*asking)
            return its, [(line.port, reply) for line, reply in zip(lines, replies, strict=True)]

        its, replies = asyncio.run(kill_one())
        assert {port for port, reply in replies if not reply.good} == its & {port for port, _ in replies}
        assert all(reply.good for reply in asyncio.run(ask_all(crew.port, question(UNSURE), 12)))
        crew.logged("a worker ended (SIGKILL); another takes its place")
        after = until(lambda: (found := crew.workers()) and len(found) == 3 and found)
        assert len({p.pid for p in before} & {p.pid for p in after}) == 2

    def test_metrics_add_up_all_and_keep_what_a_dead_one_counted(self, crew: Launched) -> None:
        def count() -> int:
            return int(crew.metrics().get("tiercel_requests_total", 0))

        def settled() -> tuple[int] | None:
            """The count once all that was answered before is in it."""
            before = count()
            time.sleep(0.5)
            return (before,) if before == count() else None

        (began,) = until(settled)
        assert all(reply.good for reply in asyncio.run(ask_all(crew.port, question(UNSURE), 24)))
        until(lambda: count() == began + 24, "the count of 24 requests")
        for worker in crew.workers()[:2]:
            worker.kill()
        until(lambda: len(crew.workers()) == 3 and crew.log.count("another takes its place") >= 2)
        assert count() == began + 24
        assert crew.metrics()["tiercel_in_flight"] == 0
        assert all(reply.good for reply in asyncio.run(ask_all(crew.port, question(UNSURE), 6)))
        until(lambda: count() == began + 30, "the count of 6 more")

    def test_all_read_the_configuration_again_and_so_does_one_that_comes_later(
        self, crew: Launched, slow: Frontier
    ) -> None:
        def models() -> set[str]:
            replies = asyncio.run(ask_all(crew.port, question(UNSURE), 24))
            assert all(reply.good for reply in replies)
            return {json.loads(reply.body)["model"] for reply in replies}

        until(lambda: len(crew.workers()) == 3)
        text = config(frontier=slow.url, server="workers = 3\ndrain_s = 5\n")
        crew.write(text.replace("[[provider]]", '[[provider]]\nmodel = "renamed"'))
        crew.tell(signal.SIGHUP)
        crew.logged("configuration read again; changed: provider frontier.model", 3)
        assert models() == {"renamed"}
        for worker in crew.workers():
            worker.kill()
        assert models() == {"renamed"}
        crew.write("[[provider]\n")
        crew.tell(signal.SIGHUP)
        crew.logged("the configuration stays as it was")
        assert models() == {"renamed"}
        assert crew.log.count("the configuration stays as it was") == 1

    def test_one_that_comes_after_a_reload_writes_into_the_store_of_the_others(
        self, tmp_path: Path, frontier: Frontier
    ) -> None:
        def text(store: str) -> str:
            return config(f'[capture]\nstore = "{store}"\n', frontier=frontier.url, server="workers = 2\n")

        with launched(tmp_path / "gateway", text("store.db")) as gateway:
            gateway.write(text("other.db"))
            gateway.tell(signal.SIGHUP)
            gateway.logged("a restart is needed for: capture.store", 2)
            old = {worker.pid for worker in gateway.workers()}
            for worker in gateway.workers():
                worker.kill()
            until(lambda: len({worker.pid for worker in gateway.workers()} - old) == 2, "two other workers")
            replies = asyncio.run(ask_all(gateway.port, question(UNSURE), 4))
            assert all(reply.good for reply in replies)
            assert gateway.end() == 0
            assert gateway.ids() == {reply.id for reply in replies}
            assert not (gateway.folder / "other.db").exists()


class TestStart:
    def test_a_worker_that_can_not_start_is_one_error_and_not_a_loop(self, bundle_folder: Path, tmp_path: Path) -> None:
        broken = shutil.copytree(bundle_folder, tmp_path / "bundle")
        next(broken.glob("**/*.safetensors")).write_bytes(b"\0" * 64)
        text = config(f'[[workload]]\nname = "helpdesk"\nbundle = "{broken}"\n', server="workers = 3\n")
        with launched(tmp_path / "gateway", text, ready=False) as crew:
            assert crew.process.wait(60) == 2
            assert crew.log.count("error") == 1
            assert crew.log.startswith("error: ")
            assert "Traceback" not in crew.log

    def test_every_worker_answers_from_the_bundle(
        self, bundle_folder: Path, tmp_path: Path, frontier: Frontier
    ) -> None:
        table = f'[[workload]]\nname = "helpdesk"\nbundle = "{bundle_folder}"\nthreads = 1\n'
        text = config(table, frontier=frontier.url, server="workers = 2\n")
        with launched(tmp_path / "gateway", text) as crew:
            replies = asyncio.run(ask_all(crew.port, question(SURE), 12))
            assert {reply.headers["x-tiercel-tier"] for reply in replies if reply.good} == {"student"}
            assert crew.end() == 0
            assert {reply.id for reply in replies} <= crew.ids()  # audits, drawn by chance, are there too

    def test_workers_that_are_killed_while_they_start_end_the_program(self, tmp_path: Path, frontier: Frontier) -> None:
        with launched(tmp_path / "gateway", config(frontier=frontier.url, server="workers = 2\n"), ready=False) as crew:
            until(lambda: crew.process.poll() is not None or ((w := crew.workers()) and w[0].kill() is None))
            assert crew.process.wait(30) == 1
            assert "ended while it started (SIGKILL)" in crew.log

    def test_a_connection_made_while_it_starts_is_answered_once_it_is_ready(
        self, tmp_path: Path, frontier: Frontier
    ) -> None:
        with launched(tmp_path / "gateway", config(frontier=frontier.url), ready=False) as gateway:

            async def ask() -> Reply:
                while True:
                    try:
                        line = await Line.open(gateway.port)
                    except OSError:
                        await asyncio.sleep(0.01)
                    else:
                        return await line.ask(request(path="/readyz"))

            reply = asyncio.run(ask())
            assert (reply.status, json.loads(reply.body)["status"]) == (200, "ready")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
    def test_a_signal_before_it_answers_ends_it(
        self, tmp_path: Path, frontier: Frontier, number: int, code: int
    ) -> None:
        with launched(tmp_path / "gateway", config(frontier=frontier.url), ready=False) as gateway:
            until(lambda: psutil.Process(gateway.process.pid).net_connections("tcp4"), "the socket")
            assert gateway.end(number) == code
            assert "Traceback" not in gateway.log


class TestEnd:
    @pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)])
    def test_a_signal_to_all_processes_lets_requests_end_and_a_drain_is_no_failure(
        self, tmp_path: Path, frontier: Frontier, workers: int, number: int
    ) -> None:
        """As Ctrl-C in a terminal and a supervisor's kill of a control group do it."""
        frontier.behave = steady(frontier, 0.5)
        text = config(frontier=frontier.url, server=f"workers = {workers}\n")
        with launched(tmp_path / "gateway", text) as gateway:

            async def ask() -> list[Reply]:
                asking = asyncio.create_task(ask_all(gateway.port, question(UNSURE), 8))
                while len(frontier.requests) < 8:
                    await asyncio.sleep(0.01)
                os.killpg(gateway.process.pid, number)
                return await asking

            replies = asyncio.run(ask())
            assert all(reply.good for reply in replies)
            assert gateway.process.wait(30) == 0
            assert gateway.ids() == {reply.id for reply in replies}
            assert "Traceback" not in gateway.log

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {143, -15}), (signal.SIGINT, {130})])
    def test_a_second_signal_ends_it_at_once(
        self, tmp_path: Path, frontier: Frontier, workers: int, number: int, codes: set[int]
    ) -> None:
        async def never(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response(ANSWER)

        frontier.behave = never
        text = config(frontier=frontier.url, server=f"workers = {workers}\ndrain_s = 600\n")
        with launched(tmp_path / "gateway", text) as gateway:
            processes = [psutil.Process(gateway.process.pid), *gateway.workers()]

            async def ask() -> Reply:
                line = await Line.open(gateway.port)
                asking = asyncio.create_task(line.ask(question(UNSURE)))
                while not frontier.requests:
                    await asyncio.sleep(0.01)
                gateway.tell(number)
                while "stopping" not in gateway.log:
                    await asyncio.sleep(0.01)
                gateway.tell(number)
                return await asking

            assert not asyncio.run(ask()).whole
            assert gateway.process.wait(30) in codes
            until(lambda: not any(map(is_alive, processes)))
            assert "Traceback" not in gateway.log
        frontier.released.set()

    def test_workers_do_not_outlive_a_keeper_that_is_killed(self, tmp_path: Path, frontier: Frontier) -> None:
        frontier.behave = steady(frontier, 0.5)
        with launched(tmp_path / "gateway", config(frontier=frontier.url, server="workers = 2\n")) as gateway:
            workers = gateway.workers()
            assert len(workers) == 2

            async def ask() -> list[Reply]:
                asking = asyncio.create_task(ask_all(gateway.port, question(UNSURE), 8))
                while len(frontier.requests) < 8:
                    await asyncio.sleep(0.01)
                gateway.tell(signal.SIGKILL)
                return await asking

            replies = asyncio.run(ask())
            assert all(reply.good for reply in replies)
            until(lambda: not any(map(is_alive, workers)), "the workers' end")
            assert gateway.ids() == {reply.id for reply in replies}

    def test_options_of_the_command_line_outlive_a_reload(self, tmp_path: Path, frontier: Frontier) -> None:
        with launched(tmp_path / "gateway", config(frontier=frontier.url), "--no-capture") as gateway:
            gateway.write(config("[cache]\nenabled = true\n", frontier=frontier.url))
            gateway.tell(signal.SIGHUP)
            gateway.logged("changed: cache.enabled")
            assert send(gateway.url, body(UNSURE))[0] == 200
            assert gateway.end() == 0
            assert "restart" not in gateway.log
            with closing(sqlite3.connect(gateway.store)) as store:
                assert store.execute("SELECT count(*) FROM entries").fetchone() == (1,)
                assert store.execute("SELECT count(*) FROM contents").fetchone() == (0,)


class TestDrain:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_under_load_loses_nothing_and_cuts_nothing(self, tmp_path: Path, frontier: Frontier, workers: int) -> None:
        """16 connections of raw sockets, 16 of aiohttp, 8 streams: all busy when SIGTERM comes."""
        frontier.behave = steady(frontier)
        with launched(tmp_path / "gateway", config(frontier=frontier.url, server=f"workers = {workers}\n")) as gateway:
            replies: list[Reply] = []
            told = float("inf")

            async def raw(line: Line, asked: bytes) -> None:
                while True:
                    reply = await line.ask(asked)
                    replies.append(reply)
                    if not reply.whole or reply.headers.get("connection") == "close":
                        return

            async def through_aiohttp(session: aiohttp.ClientSession) -> None:
                while True:
                    reply = Reply(sent=time.monotonic())
                    try:
                        async with session.post(f"{gateway.url}/chat/completions", json=body(UNSURE)) as response:
                            reply.status = response.status
                            reply.headers = {k.lower(): v for k, v in response.headers.items()}
                            reply.body, reply.whole = await response.read(), True
                    except aiohttp.ClientConnectorError:
                        return  # it was told to close the connection, and nobody takes a new one
                    except aiohttp.ClientError:
                        pass
                    reply.ended = time.monotonic()
                    replies.append(reply)
                    if not reply.whole:
                        return

            async def load() -> None:
                nonlocal told
                lines = await opened(gateway.port, 24)
                asked = itertools.chain([question(UNSURE, stream=True)] * 8, itertools.repeat(question(UNSURE)))
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                    clients = [asyncio.create_task(raw(line, next(asked))) for line in lines]
                    clients += [asyncio.create_task(through_aiohttp(session)) for _ in range(16)]
                    await asyncio.sleep(1)
                    told = time.monotonic()
                    gateway.tell(signal.SIGTERM)
                    await asyncio.gather(*clients)

            asyncio.run(load())
            assert gateway.process.wait(30) == 0
            assert [reply for reply in replies if not reply.good] == []
            late = [reply for reply in replies if reply.sent > told]
            assert len([reply for reply in replies if reply.sent < told < reply.ended]) >= 30
            assert late == [] or {reply.headers.get("connection") for reply in late} == {"close"}
            assert gateway.ids() == {reply.id for reply in replies}

    def test_what_else_is_asked_meanwhile_is_answered_and_the_connection_closed(
        self, tmp_path: Path, frontier: Frontier
    ) -> None:
        async def slow(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response(ANSWER)

        frontier.behave = slow
        paths = ("/readyz", "/healthz", "/metrics", "/v1/models", "/openapi.json", "/nothing")
        with launched(tmp_path / "gateway", config(frontier=frontier.url)) as gateway:

            async def ask() -> tuple[Reply, list[Reply]]:
                lines = await opened(gateway.port, len(paths) + 1)
                asking = asyncio.create_task(lines[0].ask(question(UNSURE)))
                while not frontier.requests:
                    await asyncio.sleep(0.01)
                gateway.tell(signal.SIGTERM)
                while "stopping" not in gateway.log:
                    await asyncio.sleep(0.01)
                told = [await line.ask(request(path=path)) for line, path in zip(lines[1:], paths, strict=True)]
                frontier.released.set()
                return await asking, told

            reply, told = asyncio.run(ask())
            assert reply.good
            assert [r.status for r in told] == [503, 200, 200, 200, 200, 404]
            assert {r.headers.get("connection") for r in told} == {"close"}
            assert json.loads(told[0].body)["status"] == "draining"
            assert gateway.process.wait(30) == 0

    def test_requests_beyond_the_time_for_it_are_cut_and_no_second_time_is_granted(
        self, tmp_path: Path, frontier: Frontier
    ) -> None:
        async def never(_: web.Request) -> web.Response:
            await frontier.until_released()
            return web.json_response(ANSWER)

        frontier.behave = never
        with launched(tmp_path / "gateway", config(frontier=frontier.url, server="drain_s = 1\n")) as gateway:

            async def ask() -> Reply:
                line = await Line.open(gateway.port)
                asking = asyncio.create_task(line.ask(question(UNSURE)))
                while not frontier.requests:
                    await asyncio.sleep(0.01)
                gateway.tell(signal.SIGTERM)
                return await asking

            assert not asyncio.run(ask()).whole
            assert gateway.process.wait(30) == 0
            assert frontier.cancelled.wait(5)
            assert len(gateway.ids()) == 1
        frontier.released.set()


def test_a_kill_under_load_leaves_a_whole_store_without_at_most_the_last_moments(
    tmp_path: Path, frontier: Frontier
) -> None:
    frontier.behave = steady(frontier, 0.01)
    text = config(frontier=frontier.url)
    replies: list[Reply] = []
    with launched(tmp_path / "gateway", text) as gateway:

        async def ask(line: Line) -> None:
            while (reply := await line.ask(question(SURE))).whole:
                replies.append(reply)

        async def load() -> float:
            clients = [asyncio.create_task(ask(line)) for line in await opened(gateway.port, 16)]
            await asyncio.sleep(1.5)
            while len(replies) < 100:
                await asyncio.sleep(0.01)
            killed = time.monotonic()
            gateway.tell(signal.SIGKILL)
            await asyncio.gather(*clients)
            return killed

        killed = asyncio.run(load())
        kept = gateway.ids()
        # The benchmark holds the gateway to 200 ms; a machine that is busy with other tests gets more.
        assert {reply.id for reply in replies if reply.ended < killed - 1} <= kept
        assert kept
        with closing(sqlite3.connect(gateway.store)) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert store.execute("SELECT count(*) FROM contents").fetchone() == (len(kept),)
    with launched(tmp_path / "gateway", text) as again:
        assert send(again.url, body(UNSURE))[0] == 200
        assert again.end() == 0
        assert len(again.ids()) == len(kept) + 1
