"""The gateway as a whole: keys, limits, cache, tiers, privacy, records, reload."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from tests.flows.test_span_training import written
from tests.flows.tiny import make_encoder
from tests.gateway.conftest import (
    ANSWER,
    KEY,
    SURE,
    SYSTEM,
    UNSURE,
    Frontier,
    Loop,
    Running,
    answering,
    body,
    chunk,
    get,
    messages,
    send,
    serving,
    sse,
)
from tiercel.datasets.contract import example_from
from tiercel.flows.span_training import train_spans
from tiercel.gateway.sections import Cache, Capture, Costs, Privacy, Secret, Server, Settings, Workload
from tiercel.store.export import export_traces
from tiercel.store.keys import create_key, revoke_key
from tiercel.store.limits import Scope, spent

Configured = Callable[..., Settings]
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
PLAIN = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
EMPTY = {"type": "reasoning", "id": "rs_1", "summary": []}


def key_header(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


class TestKeys:
    @pytest.fixture
    def keyed(self, loop: Loop, configured: Configured, frontier: Frontier) -> Iterator[Running]:
        with serving(loop, configured(frontier.provider(), server=Server(require_keys=True, drain_s=0.2))) as running:
            yield running

    def make(self, gateway: Running, **limits: Any) -> tuple[str, str]:
        key, secret = create_key(gateway.database, "test", **limits)
        gateway.worker.keys.refresh()
        return key.id, secret

    def test_who_has_none_is_refused_before_anything_is_read(self, keyed: Running, frontier: Frontier) -> None:
        for headers in ({}, key_header("sk-of-another-house"), key_header("tcl-" + "A" * 43)):
            status, _, raw = send(keyed.url, b"no JSON at all", headers=headers)
            assert (status, json.loads(raw)["error"]["code"]) == (401, "invalid_api_key")
            assert "tiercel keys create" in json.loads(raw)["error"]["message"]
        assert get(keyed.url + "/models")[0] == 401
        assert get(keyed.url.removesuffix("/v1") + "/metrics")[0] == 401
        assert get(keyed.url.removesuffix("/v1") + "/healthz")[0] == 200
        assert not frontier.requests

    @pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
    def test_a_key_opens_and_never_reaches_the_provider(self, keyed: Running, frontier: Frontier, header: str) -> None:
        id_, secret = self.make(keyed)
        value = f"Bearer {secret}" if header == "authorization" else secret
        assert send(keyed.url, body(UNSURE), headers={header: value})[0] == 200
        assert frontier.headers[0]["authorization"] == f"Bearer {KEY}"
        assert secret not in json.dumps([frontier.headers, frontier.requests])
        assert keyed.entries(1)[0].key == id_

    def test_a_revoked_key_no_longer_opens(self, keyed: Running) -> None:
        id_, secret = self.make(keyed)
        assert send(keyed.url, body(SURE), headers=key_header(secret))[0] == 200
        revoke_key(keyed.database, id_)
        keyed.worker.keys.refresh()
        assert send(keyed.url, body(SURE), headers=key_header(secret))[0] == 401

    def test_a_key_is_for_its_workloads_and_tiers(self, keyed: Running, frontier: Frontier) -> None:
        _, other = self.make(keyed, workloads=("another",))
        status, _, raw = send(keyed.url, body(SURE), headers=key_header(other))
        assert (status, json.loads(raw)["error"]["code"]) == (403, "workload_not_allowed")
        _, small = self.make(keyed, tiers=("student",))
        assert send(keyed.url, body(SURE), headers=key_header(small))[1]["x-tiercel-tier"] == "student"
        status, _, raw = send(keyed.url, body(UNSURE), headers=key_header(small))
        assert (status, json.loads(raw)["error"]["code"]) == (403, "tier_not_allowed")
        assert not frontier.requests
        _, large = self.make(keyed, tiers=("frontier",))
        _, headers, _ = send(keyed.url, body(SURE), headers=key_header(large))
        assert (headers["x-tiercel-tier"], headers["x-tiercel-reason"]) == ("frontier", "not allowed")

    def test_a_key_sees_the_models_that_it_may_use(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        first = configured(
            frontier.provider(models={"gpt-frontier": "frontier-1"}), server=Server(require_keys=True, drain_s=0.2)
        )
        other = Workload(name="payroll", requests_per_minute=1_000)
        with serving(loop, replace(first, workloads=(*first.workloads, other))) as gateway:

            def seen(**limits: Any) -> tuple[set[str], int]:
                headers = key_header(self.make(gateway, **limits)[1])
                listed = get(gateway.url + "/models", headers=headers)[1]["data"]
                return {m["id"] for m in listed}, get(gateway.url + "/models/tiercel/payroll", headers=headers)[0]

            everything = {"tiercel/helpdesk", "tiercel/payroll", "gpt-frontier"}
            assert seen() == (everything, 200)
            assert seen(workloads=["helpdesk"]) == ({"tiercel/helpdesk"}, 404)
            assert seen(local_only=True)[0] == seen(tiers=["student"])[0] == everything - {"gpt-frontier"}

    def test_the_figures_of_all_are_for_operators(self, keyed: Running) -> None:
        base = keyed.url.removesuffix("/v1")
        _, plain = self.make(keyed)
        _, operator = self.make(keyed, permissions=["operator"], tiers=["cache"])
        for url in (base + "/metrics", keyed.url + "/monitor"):
            status, raw = get(url, raw=True, headers=key_header(plain))
            assert (status, json.loads(raw)["error"]["code"]) == (403, "operators_only")
            assert get(url, raw=True, headers=key_header(operator))[0] == 200
        assert set(get(base + "/readyz", headers=key_header(plain))[1]) == {"status", "version"}
        assert "helpdesk" in get(base + "/readyz", headers=key_header(operator))[1]["workloads"]

    def test_requests_a_minute(self, keyed: Running) -> None:
        _, secret = self.make(keyed, requests_per_minute=2)
        statuses = [send(keyed.url, body(SURE), headers=key_header(secret)) for _ in range(3)]
        assert [s[0] for s in statuses] == [200, 200, 429]
        assert 1 <= int(statuses[2][1]["retry-after"]) <= 61
        assert json.loads(statuses[2][2])["error"]["code"] == "rate_limit_exceeded"

    def test_a_budget_holds_and_is_charged_what_the_answer_cost(self, keyed: Running, frontier: Frontier) -> None:
        answer = {**ANSWER, "model": "gpt-4o", "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
        frontier.behave = answering(200, answer)
        id_, secret = self.make(keyed, budget_usd=0.02, period="total")
        asked = body(UNSURE, model="gpt-4o", max_tokens=200)
        status, headers, _ = send(keyed.url, asked, headers=key_header(secret))
        cost = (1000 * 2.5 + 100 * 10) / 1e6
        assert status == 200
        assert float(headers["x-tiercel-cost-usd"]) == pytest.approx(cost, rel=0.01)
        keyed.entries(1)
        scope = Scope(kind="key", name=id_, budget_usd=0.02, period="total")
        assert spent(keyed.database, [scope], 1e9 * 2)[0].spent_usd == pytest.approx(cost, rel=0.01)
        granted = 1
        while True:
            status, headers, raw = send(keyed.url, asked, headers=key_header(secret))
            if status == 429:
                break
            granted += 1
            keyed.entries(granted)
        # Each costs .0035 and is reckoned at .0021 before it is sent: the budget of .02 lets six through.
        assert granted == 6
        error = json.loads(raw)["error"]
        assert (error["code"], error["type"]) == ("budget_exceeded", "insufficient_quota")
        assert headers["x-should-retry"] == "false"
        assert "retry-after" in headers
        assert send(keyed.url, body(SURE), headers=key_header(secret))[1]["x-tiercel-tier"] == "student"

    def test_what_was_refused_upstream_costs_nothing(self, keyed: Running, frontier: Frontier) -> None:
        frontier.behave = answering(500, {"error": {"message": "x"}})
        id_, secret = self.make(keyed, budget_usd=1.0)
        assert send(keyed.url, body(UNSURE, model="gpt-4o"), headers=key_header(secret))[0] == 502
        keyed.entries(1)
        used = spent(keyed.database, [Scope(kind="key", name=id_, budget_usd=1.0)], 2e9)[0]
        assert (used.spent_usd, used.reserved_usd) == (0, 0)


class TestTiers:
    def test_a_header_forces_the_frontier(self, server: str, frontier: Frontier) -> None:
        _, headers, _ = send(server, body(SURE), headers={"x-tiercel-tier": "frontier"})
        assert (headers["x-tiercel-tier"], headers["x-tiercel-reason"]) == ("frontier", "asked for")
        assert len(frontier.requests) == 1

    def test_a_header_forces_the_student_whatever_the_gate_says(self, server: str, frontier: Frontier) -> None:
        status, headers, raw = send(server, body(UNSURE), headers={"x-tiercel-tier": "student"})
        assert (status, headers["x-tiercel-tier"]) == (200, "student")
        assert headers["x-tiercel-reason"] == "asked for, unsure"
        assert json.loads(raw)["choices"][0]["message"]["content"] in ("billing", "delivery", "returns", "account")
        assert not frontier.requests

    def test_a_forced_student_never_escalates(self, server: str, frontier: Frontier) -> None:
        asked = {"model": "m", "messages": [{"role": "user", "content": "a stranger"}]}
        status, _, raw = send(server, asked, headers={"x-tiercel-tier": "student"})
        assert (status, json.loads(raw)["error"]["code"]) == (503, "local_only")
        assert not frontier.requests

    def test_an_unknown_tier_is_the_clients_mistake(self, server: str) -> None:
        assert send(server, body(SURE), headers={"x-tiercel-tier": "best"})[0] == 400

    @pytest.mark.parametrize("name", ["tiercel/helpdesk", "fingerprint"])
    def test_a_workload_is_named_outright(self, gateway: Running, frontier: Frontier, name: str) -> None:
        workload = gateway.worker.gateway.state.workloads.known[0]
        name = f"tiercel/{workload.fingerprint}" if name == "fingerprint" else name
        assert send(gateway.url, body(SURE, model=name))[1]["x-tiercel-tier"] == "student"
        status, headers, _ = send(gateway.url, body(UNSURE, model=name))
        assert (status, headers["x-tiercel-tier"]) == (200, "frontier")
        assert frontier.requests[0]["model"] == "gpt-frontier"  # the model of the traffic that it was trained on

    @pytest.mark.parametrize("path", ["/models/%0a", "/models/a%0d%0aX", "/models/", "/%0a", "/nothing"])
    def test_a_path_that_leads_nowhere_is_answered_in_json(self, server: str, path: str) -> None:
        status, told = get(server + path)
        assert status == 404
        assert told["error"]["message"]

    def test_a_workload_that_is_not_there_is_not_found(self, server: str, frontier: Frontier) -> None:
        status, _, raw = send(server, body(SURE, model="tiercel/nothing"))
        assert (status, json.loads(raw)["error"]["code"]) == (404, "model_not_found")
        assert not frontier.requests

    def test_another_provider_takes_over(self, loop: Loop, configured: Configured, frontier: Frontier) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            dead = frontier.provider(name="dead", url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
            with serving(loop, configured(dead, frontier.provider(name="alive"))) as gateway:
                for stream in (False, True):
                    assert send(gateway.url, body(UNSURE, stream=stream))[0] == 200
                assert [e.provider for e in gateway.entries(2)] == ["alive", "alive"]


class TestModels:
    def test_a_request_is_sent_only_to_who_may_have_its_model(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        first = frontier.provider(name="first", only=("gpt-*",))
        second = frontier.provider(name="second", only=("claude-*",), models={"other": "theirs"})
        with serving(loop, configured(first, second)) as gateway:
            for model in ("claude-x", "gpt-x", "other"):
                assert send(gateway.url, body(UNSURE, model=model))[0] == 200
            status, _, raw = send(gateway.url, body(UNSURE, model="gemini-x"))
            assert [e.provider for e in gateway.entries(4)] == ["second", "first", "second", None]
        assert (status, json.loads(raw)["error"]["code"]) == (400, "unsupported_by_provider")
        assert [r["model"] for r in frontier.requests] == ["claude-x", "gpt-x", "theirs"]

    def test_a_failure_is_told_rather_than_that_another_does_not_know_the_model(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        async def behave(request: Any) -> Any:
            status = 500 if request.headers["authorization"].endswith("one") else 404
            return await answering(status, {"error": {"message": "x"}})(request)

        frontier.behave = behave
        one, two = (frontier.provider(name=n, api_key=Secret(n)) for n in ("one", "two"))
        with serving(loop, configured(one, two)) as gateway:
            status, headers, _ = send(gateway.url, body(UNSURE))
        assert (status, headers["x-should-retry"]) == (502, "false")


LIMITS = {
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-tokens": "6m0s",
    "anthropic-ratelimit-tokens-remaining": "7000",
    "openai-processing-ms": "412",
    "x-request-id": "req_of_the_provider",
}
OTHERS = {"openai-organization": "ours", "set-cookie": "a=b", "x-tiercel-tier": "student", "server": "theirs"}


class TestProvidersHeaders:
    @pytest.mark.parametrize("stream", [False, True])
    def test_what_the_provider_says_of_its_limits_reaches_the_client(
        self, server: str, frontier: Frontier, stream: bool
    ) -> None:
        async def behave(_: web.Request) -> web.Response:
            headers = {**LIMITS, **OTHERS, "x-ratelimit-of": KEY, "x-ratelimit-long": "x" * 300}
            if stream:
                headers["Content-Type"] = "text/event-stream"
                return web.Response(body=b"".join(sse(chunk("delivery", "stop"), b"[DONE]")), headers=headers)
            return web.json_response(ANSWER, headers=headers)

        frontier.behave = behave
        status, headers, _ = send(server, body(UNSURE, stream=stream))
        assert status == 200
        assert {name: headers.get(name) for name in LIMITS} == LIMITS
        assert headers["x-tiercel-tier"] == "frontier"
        assert headers["server"] != "theirs"
        assert not {"openai-organization", "set-cookie", "x-ratelimit-of", "x-ratelimit-long"} & set(headers)

    def test_a_refusal_brings_them_too(self, server: str, frontier: Frontier) -> None:
        told = {**LIMITS, "Retry-After": "7", "retry-after-ms": "6400"}
        frontier.behave = answering(429, {"error": {"message": "slow down"}}, **told)
        status, headers, _ = send(server, body(UNSURE))
        assert status == 429
        assert {name: headers.get(name) for name in LIMITS} == LIMITS
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("7", "6400")

    def test_only_the_provider_that_answered_is_heard(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        async def behave(request: web.Request) -> web.Response:
            if request.headers["Authorization"] == "Bearer one":
                return web.Response(status=500, headers={"x-ratelimit-of-one": "1"})
            return web.json_response(ANSWER, headers={"x-ratelimit-of-two": "2"})

        frontier.behave = behave
        one, two = (frontier.provider(name=n, api_key=Secret(n)) for n in ("one", "two"))
        with serving(loop, configured(one, two, cache=Cache(enabled=True))) as gateway:
            told = [send(gateway.url, body(text))[1] for text in (UNSURE, UNSURE, SURE)]
        found = [{name for name in headers if name.startswith("x-ratelimit-")} for headers in told]
        assert [headers["x-tiercel-tier"] for headers in told] == ["frontier", "cache", "student"]
        assert found == [{"x-ratelimit-of-two"}, set(), set()]


class TestCache:
    @pytest.fixture
    def caching(self, loop: Loop, configured: Configured, frontier: Frontier) -> Iterator[Running]:
        with serving(loop, configured(frontier.provider(), cache=Cache(enabled=True))) as running:
            yield running

    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("second", [False, True])
    def test_the_same_request_is_asked_once(
        self, caching: Running, frontier: Frontier, first: bool, second: bool
    ) -> None:
        if first:
            stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
            head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "frontier-1"}
            said = {"index": 0, "delta": {"role": "assistant", "content": "delivery"}, "finish_reason": None}
            chunks = sse({**head, "choices": [said]}, {**head, "choices": [stop]}, b"[DONE]")
            frontier.behave = lambda request: frontier.stream(request, *chunks)
        assert send(caching.url, body(UNSURE, stream=first))[0] == 200
        status, headers, raw = send(caching.url, body(UNSURE, stream=second))
        assert (status, headers["x-tiercel-tier"]) == (200, "cache")
        assert b"delivery" in raw
        assert raw.endswith(b"data: [DONE]\n\n") == second
        assert len(frontier.requests) == 1
        kept = caching.entries(2)[1]
        assert (kept.tier, kept.cost_usd) == ("cache", 0)

    def test_errors_are_asked_again(self, caching: Running, frontier: Frontier) -> None:
        frontier.behave = answering(400, {"error": {"message": "no"}})
        assert send(caching.url, body(UNSURE))[0] == 400
        frontier.behave = None
        assert send(caching.url, body(UNSURE))[1]["x-tiercel-tier"] == "frontier"

    def test_tenants_share_nothing(self, caching: Running, frontier: Frontier) -> None:
        secrets = [create_key(caching.database, name)[1] for name in ("a", "b")]
        caching.worker.keys.refresh()
        tiers = [
            send(caching.url, body(UNSURE), headers=key_header(s))[1]["x-tiercel-tier"] for s in (*secrets, secrets[0])
        ]
        assert tiers == ["frontier", "frontier", "cache"]

    def test_headers_that_change_the_answer_are_part_of_what_was_asked(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        told = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn"}
        told |= {"content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 1, "output_tokens": 1}}
        frontier.behave = answering(200, told)
        asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        settings = configured(frontier.provider(kind="anthropic"), cache=Cache(enabled=True))
        with serving(loop, settings) as gateway:
            tiers = [
                send(gateway.url, asked, "/messages", headers={"anthropic-beta": beta})[1]["x-tiercel-tier"]
                for beta in ("one", "two", "one")
            ]
            assert tiers == ["frontier", "frontier", "cache"]
            # Translated, this is the same chat; but the answer is another API's.
            chat = {"model": "claude", "max_tokens": 9, "messages": asked["messages"]}
            assert send(gateway.url, chat)[1]["x-tiercel-tier"] == "frontier"
            cited = [{"type": "text", "text": "hello", "citations": [{"type": "char_location", "cited_text": "h"}]}]
            frontier.behave = answering(200, told | {"content": cited})
            for _ in range(2):
                _, headers, raw = send(gateway.url, {**asked, "temperature": 0.5}, "/messages")
                assert headers["x-tiercel-tier"] == "frontier"
                assert json.loads(raw)["content"] == cited

    @pytest.mark.parametrize(
        ("output", "second"),
        [
            ([{"type": "message", "role": "assistant", "content": [PLAIN]}], "cache"),
            ([EMPTY, {"type": "message", "role": "assistant", "content": [PLAIN]}], "cache"),
            ([EMPTY | {"encrypted_content": "E"}, {"type": "message", "content": [PLAIN]}], "frontier"),
            ([{"type": "message", "content": [PLAIN | {"annotations": [{"type": "url_citation"}]}]}], "frontier"),
            ([{"type": "message", "content": [PLAIN | {"logprobs": [{"token": "hello"}]}]}], "frontier"),
            ([{"type": "message", "content": [PLAIN]}, {"type": "message", "content": [PLAIN]}], "frontier"),
            ([{"type": "web_search_call", "id": "ws"}, {"type": "message", "content": [PLAIN]}], "frontier"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_response_is_kept_only_where_it_can_be_given_back_whole(
        self, loop: Loop, configured: Configured, frontier: Frontier, output: Any, second: str, stream: bool
    ) -> None:
        told = RESPONSE | {"output": output, "usage": {"input_tokens": 1, "output_tokens": 1}}
        frontier.behave = answering(200, told)
        if stream:
            done = {"type": "response.completed", "sequence_number": 0, "response": told}
            frontier.behave = lambda request: frontier.stream(request, *sse(done))
        settings = configured(frontier.provider(responses=True), cache=Cache(enabled=True))
        with serving(loop, settings) as gateway:

            def tier(**more: Any) -> str:
                asked = {"model": "m", "input": "hi", "store": False, "stream": stream, **more}
                return send(gateway.url, asked, "/responses")[1]["x-tiercel-tier"]

            assert [tier(), tier()] == ["frontier", second]
            others = [{"include": ["reasoning.encrypted_content"]}, {"reasoning": {"summary": "auto"}}]
            for other in [*others, {"max_tool_calls": 1}]:
                assert tier(**other) == "frontier", other

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("logprobs", "second"), [(None, "cache"), ({"tokens": ["hello"]}, "frontier")])
    def test_a_text_with_log_probabilities_is_not_kept(
        self, caching: Running, frontier: Frontier, logprobs: Any, second: str, stream: bool
    ) -> None:
        choice = {"index": 0, "text": "hello", "logprobs": logprobs, "finish_reason": "stop"}
        told = {"id": "cmpl", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        frontier.behave = answering(200, told)
        if stream:
            frontier.behave = lambda request: frontier.stream(request, *sse(told, b"[DONE]"))
        asked = {"model": "m", "prompt": "Once", "stream": stream}
        tiers = [send(caching.url, asked, "/completions")[1]["x-tiercel-tier"] for _ in range(2)]
        assert tiers == ["frontier", second]


@contextmanager
def watched() -> Iterator[list[Any]]:
    """Addresses to which any socket of this process connects, loops in C included: the system is asked, not Python."""
    import psutil

    process, seen, over = psutil.Process(), set[Any](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.update(c.raddr for c in process.net_connections("inet") if c.raddr)

    found: list[Any] = []
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        seen.update(c.raddr for c in process.net_connections("inet") if c.raddr)
        found += sorted({tuple(a) for a in seen})


class TestPrivacy:
    @pytest.mark.parametrize("where", ["workload", "key"])
    def test_local_only_never_connects_to_a_provider(
        self, loop: Loop, configured: Configured, frontier: Frontier, where: str
    ) -> None:
        local = where == "workload"
        settings = configured(frontier.provider(), workload={"local_only": local})
        port = int(frontier.url.split(":")[2].split("/")[0])
        with serving(loop, settings) as gateway:
            _, secret = create_key(gateway.database, "local", local_only=not local)
            gateway.worker.keys.refresh()
            with watched() as addresses:
                for stream in (False, True):
                    for path in ("/chat/completions", "/messages", "/responses"):
                        asked = _as_of(path, UNSURE, stream)
                        status, headers, raw = send(gateway.url, asked, path, headers=key_header(secret))
                        assert (status, headers["x-tiercel-tier"]) == (503, "none")
                        assert "may not leave the machine" in json.loads(raw)["error"]["message"]
                assert send(gateway.url, body(SURE), headers=key_header(secret))[0] == 200
            assert port not in {a[1] for a in addresses}
            assert not frontier.requests
            if local:  # a request of no form that can be read may be one of that workload
                hosted = {"model": "m", "input": UNSURE, "tools": [{"type": "web_search"}]}
                assert send(gateway.url, hosted, "/responses")[0] == 503
                assert not frontier.requests
            # The watch sees a connection where there is one.
            if local:
                stranger = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
                with watched() as addresses:
                    assert send(gateway.url, stranger)[0] == 200
                assert port in {a[1] for a in addresses}

    @pytest.mark.parametrize("stream", [False, True])
    def test_personal_data_does_not_leave_and_answers_keep_their_sense(
        self, loop: Loop, configured: Configured, frontier: Frontier, stream: bool
    ) -> None:
        async def echo(request: Any) -> Any:
            text = frontier.requests[-1]["messages"][-1]["content"]
            if not stream:
                answer = json.loads(json.dumps(ANSWER))
                answer["choices"][0]["message"]["content"] = f"I write to {text.split()[-1]} now"
                return web.json_response(answer)
            head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            pieces = [f"I write to {text.split()[-1][:4]}", f"{text.split()[-1][4:]} now"]
            chunks = [
                {**head, "choices": [{"index": 0, "delta": {"content": p}, "finish_reason": None}]} for p in pieces
            ]
            end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            return await frontier.stream(request, *sse(*chunks, end, b"[DONE]"))

        frontier.behave = echo
        privacy = Privacy(redact_escalation=("email",), redact_storage=("email",))
        cache = Cache(enabled=True)
        with serving(loop, configured(frontier.provider(), privacy=privacy, cache=cache)) as gateway:
            asked = {"model": "m", "messages": [{"role": "user", "content": "please answer ada@example.org"}]}
            status, _, raw = send(gateway.url, {**asked, "stream": stream})
            assert status == 200
            told = (
                "".join(
                    json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    for line in raw.decode().splitlines()
                    if line.startswith("data: {")
                )
                if stream
                else json.loads(raw)["choices"][0]["message"]["content"]
            )
            assert told == "I write to ada@example.org now"
            assert "ada@" not in json.dumps(frontier.requests)
            _, headers, again = send(gateway.url, asked)
            assert headers["x-tiercel-tier"] == "cache"
            assert json.loads(again)["choices"][0]["message"]["content"] == "I write to ada@example.org now"
            gateway.entries(2)
            rows = list(export_traces(gateway.database))
            assert "ada@" not in json.dumps(rows)
            assert rows[0]["messages"][-1]["content"] == "I write to <EMAIL_1> now"
            path = gateway.database.path
        assert path is not None
        for file in path.parent.glob(path.name + "*"):
            assert b"ada@example" not in file.read_bytes()

    def test_names_stay_here_with_a_recogniser_that_marked_texts_taught(
        self, loop: Loop, configured: Configured, frontier: Frontier, tmp_path: Path
    ) -> None:
        texts = written(200, 1)
        train_spans(
            texts, tmp_path / "names", encoder=str(make_encoder(tmp_path / "base", [t.text for t in texts])), threads=1
        )
        privacy = Privacy(redact_escalation=("person", "email"), recogniser_folders=(tmp_path / "names",))
        with serving(loop, configured(frontier.provider(), privacy=privacy)) as gateway:
            asked = {"model": "m", "messages": [{"role": "user", "content": "Please call Wanda about the order"}]}
            status, _, _ = send(gateway.url, asked)
        assert status == 200
        assert frontier.requests[-1]["messages"][0]["content"] == "Please call <PERSON_1> about the order"

    def test_what_can_not_be_redacted_does_not_leave(
        self, loop: Loop, configured: Configured, frontier: Frontier
    ) -> None:
        with serving(loop, configured(frontier.provider(), privacy=Privacy(redact_escalation=True))) as gateway:
            status, _, raw = send(gateway.url, {"model": "e", "input": "ada@example.org"}, "/embeddings")
        assert (status, json.loads(raw)["error"]["code"]) == (400, "cannot_redact")
        assert not frontier.requests

    def test_a_page_of_another_site_can_not_spend_the_owners_money(self, server: str, frontier: Frontier) -> None:
        assert send(server, body(UNSURE), headers={"origin": "https://evil.example"})[0] == 403
        assert send(server, body(UNSURE), headers={"content-type": "text/plain"})[0] == 415
        assert not frontier.requests
        assert send(server, body(UNSURE), headers={"origin": "http://localhost:3000"})[0] == 200


def _as_of(path: str, text: str, stream: bool) -> dict[str, Any]:
    if path == "/responses":
        return {"model": "m", "instructions": SYSTEM, "input": text, "stream": stream}
    if path == "/messages":
        said = [{"role": "user", "content": text}]
        return {"model": "m", "max_tokens": 10, "system": SYSTEM, "messages": said, "stream": stream}
    return body(text, stream=stream)


class TestRecords:
    def test_an_entry_says_who_answered_and_what_it_cost(self, gateway: Running, frontier: Frontier) -> None:
        answer = {**ANSWER, "model": "gpt-4o"}
        answer["usage"] = {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 400},
        }
        frontier.behave = answering(200, answer)
        ids = [send(gateway.url, body(text, model="gpt-4o", user="u-1"))[1]["x-tiercel-id"] for text in (SURE, UNSURE)]
        small, large = gateway.entries(2)
        assert [small.id, large.id] == ids
        assert (small.tier, small.workload, small.status, small.model) == (
            "student",
            "helpdesk",
            200,
            "tiercel/helpdesk",
        )
        assert small.cost_usd is not None
        assert small.frontier_cost_usd is not None
        assert small.cost_usd < small.frontier_cost_usd / 10
        assert small.compute_s > 0
        assert (large.tier, large.provider, large.model, large.counted_by) == (
            "frontier",
            "frontier",
            "gpt-4o",
            "provider",
        )
        assert (large.input_tokens, large.cached_input_tokens, large.output_tokens) == (1000, 400, 100)
        assert large.frontier_cost_usd == pytest.approx((600 * 2.5 + 400 * 1.25 + 100 * 10) / 1e6)
        assert small.user == large.user
        assert small.user not in (None, "u-1")

    def test_what_is_captured_is_the_data_contract(self, gateway: Running, frontier: Frontier) -> None:
        send(gateway.url, body(SURE, temperature=0))
        send(gateway.url, body(UNSURE, stream=True))
        gateway.entries(2)
        rows = list(export_traces(gateway.database, tiers=("student", "frontier")))
        examples = [example_from(row) for row in rows]
        assert [e.answer.text for e in examples if e.answer] == ["billing", "delivery"]
        assert [m.role for m in examples[0].messages] == ["system", "user"]
        assert rows[1]["metadata"]["workload"] == "helpdesk"

    def test_content_is_not_kept_where_the_client_or_the_key_says_so(self, gateway: Running) -> None:
        _, secret = create_key(gateway.database, "quiet", capture=False)
        gateway.worker.keys.refresh()
        send(gateway.url, body(SURE), headers={"x-tiercel-capture": "off"})
        send(gateway.url, body(SURE), headers=key_header(secret))
        send(gateway.url, body(SURE))
        assert [e.content is not None for e in gateway.entries(3)] == [False, False, True]

    @pytest.mark.parametrize("more", [{"capture": Capture(content=False)}, {"workload": {"capture": False}}])
    def test_content_is_not_kept_where_the_settings_say_so(
        self, loop: Loop, configured: Configured, more: dict[str, Any], tmp_path: Path
    ) -> None:
        if "capture" in more:
            more = {"capture": replace(more["capture"], store=str(tmp_path / "store.db"))}
        with serving(loop, configured(**more)) as gateway:
            send(gateway.url, body(SURE))
            assert gateway.entries(1)[0].content is None

    def test_a_share_of_the_content_is_kept(self, loop: Loop, configured: Configured) -> None:
        with serving(loop, configured(workload={"capture": 0.3})) as gateway:
            for _ in range(60):
                send(gateway.url, body(SURE))
            kept = [e.content is not None for e in gateway.entries(60)]
        assert 5 <= sum(kept) <= 33  # binomial(60, .3): outside with a probability below 1e-4

    def test_errors_are_entries_too(self, gateway: Running, frontier: Frontier) -> None:
        frontier.behave = answering(429, {"error": {"message": "slow"}})
        send(gateway.url, b"{")
        send(gateway.url, body(UNSURE))
        assert [(e.status, e.tier) for e in gateway.entries(2)] == [(400, "none"), (429, "frontier")]

    def test_metrics_count_what_the_ledger_holds(self, gateway: Running) -> None:
        for text in (SURE, SURE, UNSURE):
            send(gateway.url, body(text))
        gateway.entries(3)
        _, page = get(gateway.url.removesuffix("/v1") + "/metrics", raw=True)
        lines = dict(line.rsplit(" ", 1) for line in page.decode().splitlines() if not line.startswith("#"))
        labels = 'api="chat",status="200",tier="%s",workload="helpdesk"'
        assert float(lines["tiercel_requests_total{" + labels % "student" + "}"]) == 2
        assert float(lines["tiercel_requests_total{" + labels % "frontier" + "}"]) == 1
        assert float(lines["tiercel_capture_dropped_total"]) == 0
        assert float(lines['tiercel_upstream_attempts_total{outcome="answered",provider="frontier"}']) == 1
        for secret in (KEY, SURE, UNSURE):
            assert secret not in page.decode()

    def test_a_local_answer_costs_its_seconds(self, loop: Loop, configured: Configured) -> None:
        with serving(loop, configured(costs=Costs(cpu_hour_usd=3600.0))) as gateway:
            _, headers, _ = send(gateway.url, body(SURE))
            entry = gateway.entries(1)[0]
        assert float(headers["x-tiercel-cost-usd"]) == pytest.approx(entry.compute_s, abs=1e-8)
        assert entry.cost_usd == pytest.approx(entry.compute_s)


def test_a_slow_or_broken_store_slows_and_breaks_no_request(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiercel.gateway.bookkeeping as module

    real, free = module.append, threading.Event()

    def stuck(*arguments: Any) -> Any:
        if not free.is_set():
            raise OSError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(module, "append", stuck)
    for _ in range(20):
        assert send(gateway.url, body(SURE))[0] == 200
    free.set()
    assert len(gateway.entries(20)) == 20


def test_a_full_queue_keeps_what_a_request_cost_and_not_its_text(
    loop: Loop, configured: Configured, frontier: Frontier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier.behave = answering(200, {**ANSWER, "model": "gpt-4o", "usage": None})
    capture = Capture(store=str(tmp_path / "store.db"), queue=2)
    with serving(loop, configured(frontier.provider(), capture=capture)) as gateway:
        recorder, free = gateway.worker.recorder, threading.Event()
        real = recorder._write
        monkeypatch.setattr(recorder, "_write", lambda batch: (free.wait(10), real(batch)))
        key, secret = create_key(gateway.database, "test", budget_usd=1.0, period="total")
        gateway.worker.keys.refresh()
        asked = body(UNSURE, model="gpt-4o", max_tokens=200)
        for _ in range(10):
            assert send(gateway.url, asked, headers=key_header(secret))[0] == 200
        held = [item for item, _ in recorder._queue]
        texts = [exchange for exchange in held if exchange.body is not None or exchange.answer is not None]
        assert len(texts) == 2
        dropped = recorder.dropped
        assert dropped >= 5
        free.set()
        kept = gateway.entries(10)
        assert sum(entry.content is None for entry in kept) == dropped
        account = spent(gateway.database, [key.scope], 1e9 * 2)[0]
        assert account.reserved_usd == 0
        assert account.spent_usd == pytest.approx(sum(entry.cost_usd or 0 for entry in kept))
        assert min(entry.cost_usd or 0 for entry in kept) > 0


def test_an_anthropic_provider_answers_chat_clients(loop: Loop, configured: Configured, frontier: Frontier) -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "returns"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "output_tokens": 2,
        },
    }
    frontier.behave = answering(200, message)
    with serving(loop, configured(frontier.provider(kind="anthropic"))) as gateway:
        status, _, raw = send(gateway.url, body(UNSURE, max_tokens=50))
        answer = json.loads(raw)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "returns")
        assert answer["usage"]["prompt_tokens"] == 12
        native = _as_of("/messages", UNSURE, False)
        assert json.loads(send(gateway.url, native, "/messages")[2]) == message
        first, second = gateway.entries(2)
    assert frontier.headers[0]["x-api-key"] == KEY
    assert (first.input_tokens, first.cached_input_tokens, first.output_tokens) == (12, 5, 2)
    assert (second.input_tokens, second.api) == (12, "messages")
    assert second.content is not None
    assert json.loads(second.content.response)["content"] == "returns"


def test_a_reload_changes_what_answers_and_drops_nothing(
    loop: Loop, configured: Configured, frontier: Frontier, tmp_path: Path
) -> None:
    settings = configured(frontier.provider())
    with serving(loop, settings) as gateway:
        worker = gateway.worker
        desk = worker.gateway.state.workloads.known[0].desk
        results: list[int] = []

        async def slow(_: Any) -> Any:
            await frontier.until_released()
            return web.json_response(ANSWER)

        frontier.behave = slow
        thread = threading.Thread(target=lambda: results.append(send(gateway.url, body(UNSURE))[0]))
        thread.start()
        assert frontier.asked.wait(5)
        old = worker.gateway.state
        loop.run(worker._reload(lambda: replace(settings, cache=Cache(enabled=True), providers=())))
        assert worker.gateway.state is not old
        assert worker.gateway.state.workloads.known[0].desk is desk  # the bundle did not change
        status, _, _ = send(gateway.url, body(UNSURE))
        assert status == 503  # the new configuration has no provider
        frontier.released.set()
        thread.join(5)
        assert results == [200]
        assert send(gateway.url, body(SURE))[0] == 200

        def broken() -> Settings:
            from tiercel.errors import ConfigurationError

            raise ConfigurationError("a mistake")

        loop.run(worker._reload(broken))
        assert send(gateway.url, body(SURE))[0] == 200


def test_secrets_are_in_no_representation(configured: Configured, frontier: Frontier) -> None:
    settings = configured(frontier.provider(headers={"x-more": Secret("s3cret-value")}))
    assert KEY not in repr(settings)
    assert "s3cret-value" not in repr(settings)


def test_messages_of_a_request_are_recognised_in_every_dialect(server: str, frontier: Frontier) -> None:
    for path in ("/chat/completions", "/messages", "/responses"):
        for stream in (False, True):
            status, headers, raw = send(server, _as_of(path, SURE, stream), path)
            assert (status, headers["x-tiercel-tier"], b"billing" in raw) == (200, "student", True), path
    assert not frontier.requests
    assert messages(SURE)[0]["content"] == SYSTEM
