"""Asking a teacher that fails, bills, dawdles and is interrupted: what it is asked and what that costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.flows.conftest import write_rows
from tests.flows.label_folder import Folder, requests
from tests.flows.teacher_server import KEY, TeacherServer, failing
from tiercel.errors import ConfigurationError, ProviderError


class TestFailures:
    def test_what_fails_in_passing_is_asked_again(self, folder: Folder, teacher: TeacherServer) -> None:
        def behave(text: str, times: int) -> Any:
            number = int(text.split()[-1])
            if times > 1 or number % 2:
                return "delivery"
            kinds: list[Any] = [
                failing(429, headers={"Retry-After": "0.01"}),
                failing(500),
                web.Response(text="no json", content_type="application/json"),
                web.json_response({"error": {"message": "overloaded"}}),
                web.json_response({"choices": []}),
                failing(529),
            ]
            return kinds[number // 2 % len(kinds)]

        teacher.behave = behave
        counts = folder.label(requests(24))
        assert (counts.labelled, counts.failed, counts.sent_again) == (24, 0, 12)

    def test_a_provider_that_asks_to_wait_is_left_alone(self, folder: Folder, teacher: TeacherServer) -> None:
        def behave(text: str, times: int) -> Any:
            return failing(429, headers={"Retry-After": "0.4"}) if len(teacher.times) == 1 else "delivery"

        teacher.behave = behave
        folder.label(requests(6), at_once=1)
        assert teacher.times[1] - teacher.times[0] >= 0.4

    def test_a_slow_answer_is_timed_out_and_asked_again(self, folder: Folder, teacher: TeacherServer) -> None:
        async def slowly() -> str:
            await asyncio.sleep(5)
            return "late"

        teacher.behave = lambda text, times: slowly() if times == 1 else "delivery"
        counts = folder.label(requests(3), frontier={"timeout_s": 0.2})
        assert (counts.labelled, counts.sent_again) == (3, 3)

    def test_one_request_that_always_fails_does_not_stop_the_others(
        self, folder: Folder, teacher: TeacherServer
    ) -> None:
        teacher.behave = lambda text, times: failing(500) if text.endswith(" 3") else "delivery"
        counts = folder.label(requests(10))
        assert (counts.labelled, counts.failed) == (9, 1)
        assert [(r["id"], r["kind"]) for r in folder.rejects] == [("q3", "failed")]
        assert "answered 500 (t) after 4 tries" in folder.rejects[0]["reason"]
        assert teacher.asked["where is parcel 3"] == 4
        teacher.behave = lambda text, times: "delivery"
        assert folder.label(requests(10)).labelled == 10
        assert len(teacher.bodies) == 9 + 4 + 1, "what was answered is not asked again"

    @pytest.mark.parametrize(
        "answer",
        [
            lambda: failing(401),
            lambda: failing(404),
            lambda: failing(429, code="insufficient_quota"),
            lambda: failing(429, headers={"Retry-After": "86400"}),
            lambda: failing(422),
        ],
    )
    def test_a_provider_that_will_not_answer_ends_it(
        self, folder: Folder, teacher: TeacherServer, answer: Callable[[], Any]
    ) -> None:
        teacher.behave = lambda text, times: answer()
        with pytest.raises(ProviderError, match="the same command goes on") as caught:
            folder.label(requests(200))
        assert len(teacher.bodies) < 30
        assert not folder.output.exists()
        assert KEY not in str(caught.value)
        assert not folder.holds(KEY)

    def test_nobody_there(self, folder: Folder, prices: Path) -> None:
        with pytest.raises(ProviderError, match="can't be reached"):
            folder.label(requests(20), frontier={"url": "http://127.0.0.1:9/v1"}, prices=prices, budget=1e6)
        charged = [json.loads(line)["charged"] for line in folder.journal.read_text().splitlines() if "charged" in line]
        assert charged
        assert not any(charged), "what never left can't be billed"


class TestBudget:
    @pytest.mark.parametrize("samples", [1, 3])
    @pytest.mark.parametrize("budget", [0.0, 0.5, 4.1, 6.789])
    def test_it_is_never_exceeded(
        self, folder: Folder, teacher: TeacherServer, prices: Path, budget: float, samples: int
    ) -> None:
        counts = folder.label(requests(120), budget=budget, prices=prices, samples=samples, max_tokens=2, at_once=4)
        cost = sum(0.01 + 0.02 * b.get("n", 1) for b in teacher.bodies)
        assert cost <= budget + 1e-9
        assert counts.spent_usd == pytest.approx(cost)
        assert counts.labelled + counts.left == 120
        assert counts.labelled == len(folder.rows) == len(teacher.bodies)
        if counts.left:
            # The first request that does not fit ends it: less than the most that one may cost is left over.
            assert counts.rest_at_most_usd is not None
            most = counts.rest_at_most_usd / counts.left
            assert budget - cost < most * 1.02
        if counts.labelled and counts.left:
            assert counts.rest_usd == pytest.approx(counts.left * cost / counts.labelled)

    def test_exactly_what_all_may_cost_is_enough(self, folder: Folder, teacher: TeacherServer, prices: Path) -> None:
        counts = folder.label(requests(40), budget=0.0, prices=prices, max_tokens=2)
        assert counts.left == 40
        assert not teacher.bodies
        assert counts.rest_at_most_usd is not None
        counts = folder.label(requests(40), budget=counts.rest_at_most_usd, prices=prices, max_tokens=2)
        assert (counts.left, counts.labelled) == (0, 40)

    def test_a_larger_budget_goes_on_and_counts_what_was_spent(
        self, folder: Folder, teacher: TeacherServer, prices: Path
    ) -> None:
        first = folder.label(requests(100), budget=1.5, prices=prices, max_tokens=2)
        assert 0 < first.labelled < 100
        same = folder.label(requests(100), budget=1.5, prices=prices, max_tokens=2)
        assert (same.labelled, same.spent_usd) == (first.labelled, first.spent_usd), "the budget is of all runs"
        last = folder.label(requests(100), budget=5.0, prices=prices, max_tokens=2)
        assert (last.labelled, len(teacher.bodies)) == (100, 100)
        assert last.spent_usd == pytest.approx(3.0)

    def test_a_call_that_may_have_been_billed_counts_in_full(
        self, folder: Folder, teacher: TeacherServer, prices: Path
    ) -> None:
        teacher.behave = lambda text, times: (
            web.Response(text="x", content_type="application/json") if times == 1 else "delivery"
        )
        counts = folder.label(requests(1), budget=5.0, prices=prices, max_tokens=2)
        assert counts.spent_usd is not None
        assert counts.unsure_usd > 0.1
        assert counts.spent_usd == pytest.approx(0.03 + counts.unsure_usd)

    def test_a_refused_call_costs_nothing(self, folder: Folder, teacher: TeacherServer, prices: Path) -> None:
        teacher.behave = lambda text, times: failing(503) if times == 1 else "delivery"
        counts = folder.label(requests(4), budget=5.0, prices=prices, max_tokens=2)
        assert (counts.spent_usd, counts.unsure_usd) == (pytest.approx(0.12), 0.0)

    def test_a_provider_that_does_not_count_is_charged_the_most(
        self, folder: Folder, teacher: TeacherServer, prices: Path
    ) -> None:
        teacher.usage = False
        counts = folder.label(requests(100), budget=1.5, prices=prices, max_tokens=2)
        assert counts.labelled < 10
        assert counts.unsure_usd == counts.spent_usd
        assert counts.spent_usd is not None
        assert counts.spent_usd <= 1.5

    def test_a_budget_needs_prices(self, folder: Folder, teacher: TeacherServer) -> None:
        with pytest.raises(ConfigurationError, match=r"no price is known for teacher-1.*--prices"):
            folder.label(requests(2), budget=1.0)
        assert not teacher.bodies

    def test_a_budget_needs_requests_that_can_be_bounded(
        self, folder: Folder, teacher: TeacherServer, prices: Path
    ) -> None:
        image = {
            "id": "i",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        }
        with pytest.raises(ConfigurationError, match="image"):
            folder.label([image], budget=1.0, prices=prices)
        assert not teacher.bodies


class TestPace:
    def test_the_rate_is_kept(self, folder: Folder, teacher: TeacherServer) -> None:
        began = time.monotonic()
        folder.label(requests(12), rate=1200.0)
        # What is sent may come late, but never early.
        assert all(at - began >= i * 0.05 for i, at in enumerate(sorted(teacher.times)))
        assert len(teacher.times) == 12

    def test_so_many_at_once_and_no_more(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.delay = 0.02
        folder.label(requests(30), at_once=5)
        assert teacher.most_at_once == 5


def program(folder: Folder, *more: str) -> list[str]:
    code = "from tiercel.cli import main; main()"
    source = str(folder.folder / "requests.jsonl")
    where = ["--output", str(folder.output), "--frontier-url", folder.teacher.url, "--model", "teacher-1"]
    return [sys.executable, "-c", code, "label", source, *where, *more]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


ENVIRONMENT = {**os.environ, "TIERCEL_FRONTIER_KEY": KEY, "NO_COLOR": "1"}


class TestResume:
    def test_after_a_kill_nothing_that_was_answered_is_asked_again(
        self, folder: Folder, teacher: TeacherServer, prices: Path
    ) -> None:
        teacher.delay = 0.03
        write_rows(folder.folder / "requests.jsonl", requests(60))
        limits = ["--budget", "9", "--max-tokens", "2", "--prices", str(prices), "--at-once", "4"]
        with subprocess.Popen(program(folder, *limits), env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
            wait_for(lambda: len(teacher.bodies) >= 20)
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        assert not folder.output.exists()
        records = [json.loads(line) for line in folder.journal.read_bytes().split(b"\n")[:-1]]
        kept = {r["key"] for r in records if r["kind"] == "answered"}
        under_way = len([r for r in records if r["kind"] == "asked"]) - len(kept)
        assert 10 <= len(kept) < 60
        before = len(teacher.bodies)
        done = subprocess.run(
            program(folder, *limits, "--json"), env=ENVIRONMENT, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        counts = json.loads(done.stdout)
        assert counts["labelled"] == 60
        assert len(teacher.bodies) - before == 60 - len(kept)
        assert sum(times > 1 for times in teacher.asked.values()) <= under_way <= 4
        bound = counts["unsure_usd"] / under_way if under_way else 0.0
        assert counts["spent_usd"] == pytest.approx(60 * 0.03 + under_way * bound)
        assert len(folder.rows) == 60
        assert not folder.holds(KEY)
        assert KEY not in done.stdout + done.stderr

    def test_ctrl_c_lets_what_is_under_way_come_in(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.delay = 0.15
        write_rows(folder.folder / "requests.jsonl", requests(60))
        started = program(folder, "--at-once", "4")
        with subprocess.Popen(started, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: len(teacher.bodies) >= 8)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr is not None
            assert process.stderr.read().splitlines()[-1] == "interrupted"
        assert not folder.output.exists()
        assert len(teacher.bodies) < 60
        teacher.delay = 0.0
        assert subprocess.run(program(folder), env=ENVIRONMENT, check=False, capture_output=True).returncode == 0
        assert len(folder.rows) == 60
        assert set(teacher.asked.values()) == {1}, "nothing is paid for twice"

    def test_a_second_run_asks_nothing(self, folder: Folder, teacher: TeacherServer) -> None:
        folder.label(requests(9))
        first = folder.output.read_bytes()
        folder.label(requests(9))
        assert len(teacher.bodies) == 9
        assert folder.output.read_bytes() == first

    def test_another_model_is_asked_anew(self, folder: Folder, teacher: TeacherServer) -> None:
        folder.label(requests(3))
        folder.label(requests(3), frontier={"model": "teacher-2"})
        assert len(teacher.bodies) == 6
        assert {r["metadata"]["teacher"] for r in folder.rows} == {"teacher-2"}

    def test_two_runs_at_a_time_are_told_apart(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.delay = 0.5
        write_rows(folder.folder / "requests.jsonl", requests(3))
        with subprocess.Popen(program(folder), env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
            wait_for(lambda: len(teacher.bodies) == 3)
            with pytest.raises(ConfigurationError, match="another run"):
                folder.label(requests(3))
            assert process.wait(20) == 0
