"""What the gateway tells of itself: spans that a collector takes, lines of the log that a program can read."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.conftest import (
    ANSWER,
    KEY,
    SURE,
    SYSTEM,
    UNSURE,
    Frontier,
    Loop,
    answering,
    body,
    chunk,
    running,
    send,
    serving,
    sse,
)
from tests.gateway.launching import Line, config, launched, until
from tests.ports import free_port
from tiercel.gateway.sections import Provider, Settings, Telemetry

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
gen_ai_attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """An OTLP collector over HTTP."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""
    status: int = 200

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        assert request.content_type == "application/x-protobuf"
        if self.status == 200:
            self.raw += raw
            for resource in trace_service.ExportTraceServiceRequest.FromString(raw).resource_spans:
                self.resources.append(values(resource.resource))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status, content_type="application/x-protobuf")

    def of(self, id_: str) -> Any:
        """The span of a trace's id."""
        found = [span for span in self.spans if values(span)["tiercel.id"] == id_]
        assert len(found) == 1
        return found[0]


def values(told: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in told.attributes}


@pytest.fixture
def collector(loop: Loop) -> Iterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    with running(loop, app) as url:
        collector.url = url.removesuffix("/v1")
        yield collector


@pytest.fixture
def traced(configured: Callable[..., Settings], collector: Collector) -> Callable[..., Settings]:
    """Settings of a gateway that sends its spans to the collector."""

    def settings(*providers: Provider, **more: Any) -> Settings:
        return configured(*providers, telemetry=Telemetry(otlp_endpoint=collector.url), **more)

    return settings


class TestSpans:
    def test_say_what_the_conventions_want_and_whom_they_belong_to(
        self, loop: Loop, traced: Callable[..., Settings], frontier: Frontier, collector: Collector
    ) -> None:
        usage = {
            "prompt_tokens": 40,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
        frontier.behave = answering(200, {**ANSWER, "usage": usage})
        with serving(loop, traced(frontier.provider())) as gateway:
            _, escalated, _ = send(gateway.url, body(UNSURE), headers={"traceparent": PARENT})
            _, answered, _ = send(gateway.url, body(SURE))

        span = collector.of(escalated["x-tiercel-id"])
        assert span.name == "chat frontier-1"
        assert span.kind == 2  # SPAN_KIND_SERVER
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
        assert span.status.code == 0
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
        said = values(span)
        assert {name: said[name] for name in said if name.startswith(("gen_ai.", "http."))} == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-frontier",
            "gen_ai.request.stream": False,
            "gen_ai.response.model": "frontier-1",
            "gen_ai.usage.input_tokens": 40,
            "gen_ai.usage.output_tokens": 9,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.reasoning.output_tokens": 4,
            "http.response.status_code": 200,
        }
        assert (said["tiercel.tier"], said["tiercel.provider"], said["tiercel.reason"]) == (
            "frontier",
            "frontier",
            "unsure",
        )

        span = collector.of(answered["x-tiercel-id"])
        assert span.name == "chat tiercel/helpdesk"
        assert span.parent_span_id == b""
        said = values(span)
        assert (said["gen_ai.provider.name"], said["tiercel.tier"]) == ("tiercel", "student")
        assert said["tiercel.workload"] == "helpdesk"
        assert 0.5 < said["tiercel.confidence"] <= 1
        assert collector.resources[0]["service.name"] == "tiercel"

    def test_names_are_those_of_the_installed_conventions(
        self, loop: Loop, traced: Callable[..., Settings], frontier: Frontier, collector: Collector
    ) -> None:
        known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
        operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
        providers = {one.value for one in gen_ai_attributes.GenAiProviderNameValues}
        with serving(loop, traced(frontier.provider())) as gateway:
            send(gateway.url, body(UNSURE))
            send(gateway.url, body(UNSURE, stream=True))
            send(gateway.url, {"model": "m", "prompt": "x"}, "/completions")
            send(gateway.url, {"model": "m", "input": "x"}, "/embeddings")
            send(gateway.url, {"model": "m", "input": "x"}, "/responses")
            send(
                gateway.url,
                {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
                "/messages",
            )
        assert len(collector.spans) == 6
        said = [values(span) for span in collector.spans]
        assert {name for one in said for name in one if name.startswith("gen_ai.")} <= known
        assert {one["gen_ai.operation.name"] for one in said} == {"chat", "text_completion", "embeddings"} <= operations
        assert {one["gen_ai.provider.name"] for one in said if "gen_ai.provider.name" in one} == {"openai"} <= providers
        assert [one["gen_ai.response.time_to_first_chunk"] > 0 for one in said if one["gen_ai.request.stream"]] == [
            True
        ]

    def test_name_errors_and_hold_no_content(
        self, loop: Loop, traced: Callable[..., Settings], frontier: Frontier, collector: Collector
    ) -> None:
        async def broken(request: web.Request) -> web.StreamResponse:
            if not json.loads(await request.read()).get("stream"):
                return web.json_response({"error": {"message": f"no: {UNSURE}"}}, status=500)
            response = await frontier.stream(request, *sse(chunk("deli")))
            assert request.transport is not None
            request.transport.abort()
            return response

        frontier.behave = broken
        secret = "tcl-never-made"
        with serving(loop, traced(frontier.provider())) as gateway:
            failed = send(gateway.url, body(UNSURE))
            wrong = send(gateway.url, {"messages": UNSURE})
            refused = send(gateway.url, body(UNSURE), headers={"authorization": f"Bearer {secret}"})
            cut = send(gateway.url, body(UNSURE, stream=True))
            fine = send(gateway.url, body(SURE))
        assert [status for status, _, _ in (failed, wrong, refused, cut, fine)] == [502, 400, 401, 200, 200]

        def told(reply: tuple[int, dict[str, str], bytes]) -> tuple[int, str | None]:
            span = collector.of(reply[1]["x-tiercel-id"])
            return span.status.code, values(span).get("error.type")

        assert told(failed) == (2, "502")
        assert told(wrong) == (0, "400")  # the client's error is none of the server's
        assert told(refused) == (0, "401")
        assert told(cut) == (2, "stream_unreachable")
        assert told(fine) == (0, None)
        for text in (UNSURE, "invoice", SYSTEM, "deli", "billing", KEY, secret):
            assert text.encode() not in collector.raw

    def test_follow_the_callers_choice_not_to_sample(
        self, loop: Loop, traced: Callable[..., Settings], frontier: Frontier, collector: Collector
    ) -> None:
        with serving(loop, traced(frontier.provider())) as gateway:
            send(gateway.url, body(UNSURE), headers={"traceparent": PARENT[:-1] + "0"})
            _, kept, _ = send(gateway.url, body(UNSURE), headers={"traceparent": "00-not-a-parent"})
        assert len(collector.spans) == 1
        assert collector.of(kept["x-tiercel-id"]).parent_span_id == b""

    def test_a_collector_that_is_away_costs_no_request_and_holds_up_no_end(
        self, tmp_path: Path, frontier: Frontier
    ) -> None:
        text = config(f'[telemetry]\notlp_endpoint = "http://127.0.0.1:{free_port()}"\n', frontier=frontier.url)
        with launched(tmp_path / "gateway", text) as gateway:
            for _ in range(5):
                assert send(gateway.url, body(UNSURE))[0] == 200
            assert gateway.end() == 0
            assert len(gateway.ids()) == 5
            assert "Traceback" not in gateway.log


def lines(log: str) -> list[dict[str, Any]]:
    """The log, each line of which is a JSON object with the same four names."""
    found = [json.loads(line) for line in log.splitlines()]
    assert found
    for line in found:
        assert set(line) == {"time", "level", "logger", "message"}
        for text in (KEY, UNSURE, "invoice", SYSTEM):
            assert text not in json.dumps(line)
    return found


JSON = '[telemetry]\nlog_format = "json"\n'


class TestJsonLog:
    def test_every_line_of_a_life_is_json(self, tmp_path: Path, frontier: Frontier) -> None:
        frontier.behave = answering(500, {"error": {"message": UNSURE}})
        server = "workers = 2\nhost = '0.0.0.0'\nrequire_keys = false\ninsecure_open = true\n"
        with launched(tmp_path / "gateway", config(JSON, frontier=frontier.url, server=server)) as gateway:

            async def ask() -> None:
                line = await Line.open(gateway.port)
                await line.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization sk-leaked\r\n\r\n")
                line.close()

            asyncio.run(ask())
            send(gateway.url, body(UNSURE))
            send(gateway.url, body(SURE))
            gateway.logged("tier=frontier", 2)
            gateway.workers()[0].kill()
            gateway.logged("another takes its place")
            gateway.write(config("[nonsense]\n", JSON, frontier=frontier.url, server=server))
            gateway.tell(signal.SIGHUP)
            gateway.logged("stays as it was")
            until(lambda: len(gateway.workers()) == 2)
            assert gateway.end() == 0
            told = lines(gateway.log)
            assert "sk-leaked" not in gateway.log
        levels = {line["message"]: line["level"] for line in told}
        assert levels["server.insecure_open: whoever reaches this address can spend your providers' money"] == "warning"
        assert levels["a worker ended (SIGKILL); another takes its place"] == "error"
        assert sum(line["message"].startswith("502 chat tier=frontier") for line in told) == 2

    @pytest.mark.parametrize(
        ("text", "code", "said"),
        [
            ('[capture]\nstore = "/proc/no/store.db"\n', 1, "can't be made"),
            ("[server]\nport = 'x'\nwrokers = 2\n", 2, "has 2 mistakes"),
            ("[server\n", 2, "is no TOML"),
            ('[[workload]]\nname = "w"\nbundle = "nothing"\n', 2, "bundle"),
            ("[server]\nworkers = 2\n[costs]\nprices = 'nothing.csv'\n", 2, "nothing.csv"),
        ],
    )
    def test_a_failure_to_start_is_one_line_of_json(self, tmp_path: Path, text: str, code: int, said: str) -> None:
        with launched(tmp_path / "gateway", JSON + text, ready=False) as gateway:
            assert gateway.process.wait(30) == code
            told = lines(gateway.log)
        assert [line["level"] for line in told if line["level"] != "warning"] == ["critical"]
        assert said in told[-1]["message"]

    def test_a_worker_that_can_not_start_is_one_too(self, tmp_path: Path, bundle_folder: Path) -> None:
        broken = shutil.copytree(bundle_folder, tmp_path / "bundle")
        next(broken.glob("**/*.safetensors")).write_bytes(b"\0" * 64)
        text = config(JSON, f'[[workload]]\nname = "helpdesk"\nbundle = "{broken}"\n', server="workers = 2\n")
        with launched(tmp_path / "gateway", text, ready=False) as gateway:
            assert gateway.process.wait(60) == 2
            assert [line["level"] for line in lines(gateway.log)] == ["critical"]

    def test_warnings_and_what_nobody_has_caught_are_lines_too(self, tmp_path: Path) -> None:
        program = """
import asyncio, threading, warnings
from tiercel.gateway.logs import set_up_logging
from tiercel.gateway.sections import Telemetry
from tiercel.gateway.worker import _log_unhandled
set_up_logging(Telemetry(log_format="json"))
warnings.warn("old")
def fail(): raise ValueError("my invoice")
thread = threading.Thread(target=fail); thread.start(); thread.join()
async def main():
    asyncio.get_running_loop().set_exception_handler(_log_unhandled)
    async def lost(): fail()
    task = asyncio.create_task(lost()); await asyncio.sleep(0.01); del task
asyncio.run(main())
fail()
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        told = lines(ended.stderr)
        assert [line["level"] for line in told] == ["warning", "critical", "error", "critical"]
        assert ["ValueError" in line["message"] for line in told] == [False, True, True, True]
