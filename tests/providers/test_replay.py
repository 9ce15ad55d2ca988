from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import anthropic
import openai
import pytest

from tests.conftest import calling, example
from tiercel.errors import ConfigurationError, DataError
from tiercel.providers import replay
from tiercel.providers.faults import FAULTS
from tiercel.providers.replay import FAULT_HEADER, ReplayCounts, ReplayServer, ReplaySettings
from tiercel.types import Example, Message, Response, Usage

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TEXT = "Your parcel is on its way: it left Köln  this morning.\n"
ROWS = [
    example("where is my parcel", TEXT, "be kind", usage=Usage(input_tokens=21, cached_input_tokens=5, output_tokens=9), model="big-1"),
    example("where is my parcel", "no idea", model="big-1"),
    Example(id="3", messages=(Message(role="user", content="how warm is it in Rom"),), tools=[WEATHER], answer=calling(("weather", {"city": "Rom"}))),
    example("hello", "hi", model="big-1", responses=(Response(model="small-1", content="hey", latency_s=0.2),), metadata={"latency_s": 0.1}),
]  # fmt: skip
T = TypeVar("T")


def playing(act: Callable[[str, ReplayCounts], Awaitable[T]], rows: list[Example] = ROWS, **settings: Any) -> T:
    """What `act` finds at a server that plays `rows`."""

    async def run() -> T:
        server = ReplayServer(rows, ReplaySettings(**settings))
        async with server as url:
            return await asyncio.wait_for(act(url, server.counts), 20)

    return asyncio.run(run())


def chat(text: str, system: str | None = None, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    return {"model": "big-1", "messages": [*messages, {"role": "user", "content": text}], **more}


def asking(
    body: Any, path: str = "/chat/completions", fault: str | None = None, **settings: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""

    async def act(url: str, _: ReplayCounts) -> tuple[int, dict[str, str], bytes]:
        headers = {FAULT_HEADER: fault} if fault else {}
        async with aiohttp.ClientSession() as session:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with session.post(url + path, data=data, headers=headers) as response:
                return response.status, dict(response.headers), await response.read()

    return playing(act, **settings)


def content(body: bytes) -> str:
    return json.loads(body)["choices"][0]["message"]["content"]


class TestMatching:
    def test_the_same_messages_get_their_own_answer(self) -> None:
        assert content(asking(chat("where is my parcel", "be kind"))[2]) == TEXT
        assert content(asking(chat("where is my parcel"))[2]) == "no idea"

    def test_another_prompt_gets_the_answer_to_the_last_user_message(self) -> None:
        assert content(asking(chat("where is my parcel", "be rude"))[2]) == TEXT

    def test_text_in_parts_is_the_same_text(self) -> None:
        body = chat("where is my parcel", "be kind")
        body["messages"][1]["content"] = [{"type": "text", "text": "where is my parcel"}]
        assert content(asking(body)[2]) == TEXT

    def test_a_conversation_goes_on_whatever_form_its_tools_have(self) -> None:
        asked = Message(role="user", content="how warm")
        called = Message(role="assistant", tool_calls=calling(("weather", {"city": "Rom"})).tool_calls)
        told = Message(role="tool", tool_call_id="1", content="21")
        rows = [
            Example(id="1", messages=(asked,), tools=[WEATHER], answer=calling(("weather", {"city": "Rom"}))),
            Example(id="2", messages=(asked, called, told), tools=[WEATHER], answer=example("", "21 degrees").answer),
        ]
        worded = {**WEATHER, "function": {**WEATHER["function"], "strict": True, "description": "in other words"}}
        call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom"}'}}
        messages = [
            {"role": "user", "content": "how warm"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "21"},
        ]
        assert content(asking({"messages": messages, "tools": [worded]}, rows=rows)[2]) == "21 degrees"

    def test_a_model_that_answered_is_played_when_named(self) -> None:
        assert content(asking(chat("hello") | {"model": "small-1"})[2]) == "hey"
        assert content(asking(chat("hello") | {"model": "other"})[2]) == "hi"

    def test_what_is_not_recorded_is_a_404_in_the_words_of_the_api(self) -> None:
        status, _, body = asking(chat("unknown"))
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_recorded")
        status, _, body = asking(chat("unknown"), "/messages")
        assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")

    def test_a_fallback_answers_what_is_not_recorded(self) -> None:
        assert content(asking(chat("unknown"), fallback="first")[2]) == TEXT
        assert content(asking(chat("unknown"), fallback="echo")[2]) == "unknown"

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"messages":[]}', b'{"messages":[{"role":1}]}', b"[" * 100_000, b"\xff"]
    )
    @pytest.mark.parametrize("path", ["/chat/completions", "/messages"])
    def test_a_body_that_is_no_request_is_refused(self, body: bytes, path: str) -> None:
        status, _, told = asking(body, path)
        assert status == 400
        assert json.loads(told)["error"]["message"]

    def test_another_path_is_a_json_error(self) -> None:
        status, _, body = asking({}, "/elsewhere")
        assert (status, "chat/completions" in json.loads(body)["error"]["message"]) == (404, True)


class TestClients:
    def test_openai_whole_stream_tools_models_and_embeddings(self) -> None:
        async def act(url: str, counts: ReplayCounts) -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
                asked: Any = chat("where is my parcel", "be kind")
                whole = await client.chat.completions.create(**asked)
                assert whole.choices[0].message.content == TEXT
                assert whole.usage is not None
                assert whole.usage.prompt_tokens_details is not None
                assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (21, 9)
                assert whole.usage.prompt_tokens_details.cached_tokens == 5
                stream = await client.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in stream]
                assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
                assert len(chunks) > 8
                assert chunks[-1].usage == whole.usage
                assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
                tools: Any = [WEATHER]
                async with client.chat.completions.stream(
                    model="m", messages=[{"role": "user", "content": "how warm is it in Rom"}], tools=tools
                ) as events:
                    final = await events.get_final_completion()
                assert final.choices[0].finish_reason == "tool_calls"
                (call,) = final.choices[0].message.tool_calls or ()
                assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rom"})
                assert [m.id async for m in client.models.list()] == ["big-1", "small-1"]
                one = await client.embeddings.create(model="e", input=["a parcel", "a parcel", "no"], dimensions=64)
                plain = await client.embeddings.create(
                    model="e", input="a parcel", dimensions=64, encoding_format="float"
                )
                assert one.data[0].embedding == one.data[1].embedding != one.data[2].embedding
                assert one.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
                assert math.hypot(*one.data[0].embedding) == pytest.approx(1, abs=1e-6)
                two = await client.chat.completions.create(**asked, n=2)
                assert [c.message.content for c in two.choices] == [TEXT] * 2
            assert counts.answered == 6

        playing(act)

    def test_legacy_completions_whole_and_as_a_stream(self) -> None:
        async def act(url: str, _: ReplayCounts) -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as client:
                asked: Any = {"model": "big-1", "prompt": "hello"}
                whole = await client.completions.create(**asked)
                assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("hi", "stop")
                stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
                chunks = [chunk async for chunk in stream]
                assert "".join(c.choices[0].text for c in chunks if c.choices) == "hi"
                assert chunks[-1].usage == whole.usage
                with pytest.raises(openai.BadRequestError, match="prompt"):
                    await client.completions.create(model="big-1", prompt=["a", "b"])

        playing(act)

    def test_tokens_of_messages_are_counted_as_recorded_or_estimated(self) -> None:
        async def act(url: str, _: ReplayCounts) -> None:
            async with anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="-", max_retries=0) as client:
                count = client.messages.count_tokens
                told = await count(
                    model="m", system="be kind", messages=[{"role": "user", "content": "where is my parcel"}]
                )
                assert told.input_tokens == 21
                assert (
                    await count(model="m", messages=[{"role": "user", "content": "not recorded"}])
                ).input_tokens == 7

        playing(act)

    def test_anthropic_whole_stream_and_tools(self) -> None:
        tool: Any = {"name": "weather", "description": "now", "input_schema": WEATHER["function"]["parameters"]}  # type: ignore[index]
        warm: Any = {
            "model": "c",
            "max_tokens": 9,
            "tools": [tool],
            "messages": [{"role": "user", "content": "how warm is it in Rom"}],
        }
        kind: Any = {
            "model": "c",
            "max_tokens": 9,
            "system": "be kind",
            "messages": [{"role": "user", "content": "where is my parcel"}],
        }

        async def act(url: str, _: ReplayCounts) -> None:
            async with anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="k", max_retries=0) as client:
                whole = await client.messages.create(**kind)
                assert [(b.type, getattr(b, "text", "")) for b in whole.content] == [("text", TEXT)]
                usage = whole.usage
                assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (16, 5, 9)
                async with client.messages.stream(**kind) as stream:
                    assert "".join([t async for t in stream.text_stream]) == TEXT
                    assert (await stream.get_final_message()).usage.output_tokens == 9
                for final in (await client.messages.create(**warm), await _final(client, warm)):
                    (block,) = final.content
                    assert (block.type, block.name, block.input) == ("tool_use", "weather", {"city": "Rom"})
                    assert final.stop_reason == "tool_use"
                with pytest.raises(anthropic.NotFoundError):
                    await client.messages.create(
                        model="c", max_tokens=1, messages=[{"role": "user", "content": "unknown"}]
                    )

        playing(act)

    def test_a_conversation_with_a_tool_is_found_in_both_dialects(self) -> None:
        asked = (
            Message(role="user", content="how warm"),
            Message(role="assistant", tool_calls=calling(("weather", {"city": "Rom", "unit": "C"})).tool_calls),
            Message(role="tool", tool_call_id="recorded-id", content="21"),
        )
        rows = [
            example("how warm", "which city"),
            Example(id="1", messages=asked, answer=example("", "21 degrees").answer),
        ]
        call = {
            "id": "new",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"unit":"C","city":"Rom"}'},
        }
        openais = [
            {"role": "user", "content": "how warm"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "new", "content": "21"},
        ]
        used = {"type": "tool_use", "id": "new", "name": "weather", "input": {"unit": "C", "city": "Rom"}}
        told = {"type": "tool_result", "tool_use_id": "new", "content": [{"type": "text", "text": "21"}]}
        anthropics = [
            {"role": "user", "content": "how warm"},
            {"role": "assistant", "content": [used]},
            {"role": "user", "content": [told]},
        ]
        assert content(asking({"messages": openais}, rows=rows)[2]) == "21 degrees"
        assert (
            json.loads(asking({"messages": anthropics}, "/messages", rows=rows)[2])["content"][0]["text"]
            == "21 degrees"
        )


async def _final(client: anthropic.AsyncAnthropic, asked: Any) -> anthropic.types.Message:
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


class TestTime:
    @pytest.mark.parametrize(
        ("model", "speed", "least"), [("big-1", 1.0, 0.1), ("small-1", 1.0, 0.2), ("small-1", 4.0, 0.05)]
    )
    def test_an_answer_takes_its_recorded_time(self, model: str, speed: float, least: float) -> None:
        async def act(url: str, _: ReplayCounts) -> float:
            async with aiohttp.ClientSession() as session:
                begun = time.monotonic()
                async with session.post(url + "/chat/completions", json=chat("hello") | {"model": model}) as response:
                    await response.read()
                return time.monotonic() - begun

        assert playing(act, speed=speed) >= least - 0.01

    def test_tokens_of_a_stream_are_spread(self) -> None:
        async def act(url: str, _: ReplayCounts) -> list[float]:
            times: list[float] = []
            async with aiohttp.ClientSession() as session:
                body = chat("where is my parcel", "be kind", stream=True)
                async with session.post(url + "/chat/completions", json=body) as response:
                    async for line in response.content:
                        if b'"content":"' in line:
                            times.append(time.monotonic())
            return times

        times = playing(act, tokens_per_second=100)
        assert times[-1] - times[0] >= 0.009 * (len(times) - 1)


class TestFaults:
    @pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/embeddings"])
    def test_refusals(self, path: str) -> None:
        body = chat("hello") | {"input": "x"}
        status, headers, told = asking(body, path, "429", retry_after_s=2.5)
        assert (status, headers["Retry-After"]) == (429, "2.5")
        assert json.loads(told)["error"]["type"] == "rate_limit_error"
        assert asking(body, path, "500")[0] == 500

    def test_garbage_is_no_json(self) -> None:
        status, headers, body = asking(chat("hello"), fault="garbage")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        with pytest.raises(ValueError):
            json.loads(body)
        _, headers, body = asking(chat("hello", stream=True), fault="garbage")
        assert headers["Content-Type"] == "text/event-stream"
        with pytest.raises(ValueError):
            json.loads(body.split(b"\n")[0].removeprefix(b"data: "))

    @pytest.mark.parametrize("stream", [False, True])
    def test_half_an_answer_breaks_off_after_its_beginning(self, stream: bool) -> None:
        async def act(url: str, _: ReplayCounts) -> bytes:
            async with aiohttp.ClientSession() as session:
                body = chat("where is my parcel", "be kind", stream=stream)
                async with session.post(
                    url + "/chat/completions", json=body, headers={FAULT_HEADER: "half"}
                ) as response:
                    got = b""
                    with pytest.raises(aiohttp.ClientPayloadError):
                        while True:
                            got += await response.content.readany()
            return got

        got = playing(act)
        assert b"chatcmpl" in got
        assert b"[DONE]" not in got

    def test_a_reset_and_a_timeout_give_no_answer(self) -> None:
        async def act(url: str, counts: ReplayCounts) -> None:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
                with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                    await session.post(url + "/chat/completions", json=chat("hello"), headers={FAULT_HEADER: "reset"})
                with pytest.raises(TimeoutError):
                    await session.post(url + "/chat/completions", json=chat("hello"), headers={FAULT_HEADER: "timeout"})
            while not counts.left:
                await asyncio.sleep(0.005)
            assert (counts.left, counts.answered, dict(counts.faults)) == (1, 0, {"reset": 1, "timeout": 1})

        playing(act)

    def test_slow_bytes_are_the_same_bytes(self) -> None:
        assert content(asking(chat("where is my parcel", "be kind"), fault="slow", slow_s=0.0001)[2]) == TEXT

    def test_an_unknown_fault_of_a_request_is_refused(self) -> None:
        status, _, body = asking(chat("hello"), fault="earthquake")
        assert status == 400
        assert all(name in json.loads(body)["error"]["message"] for name in FAULTS)

    def test_faults_come_as_often_as_asked_and_the_same_each_time(self) -> None:
        async def act(url: str, counts: ReplayCounts) -> list[int]:
            found: list[int] = []
            async with aiohttp.ClientSession() as session:
                for _ in range(300):
                    async with session.post(url + "/embeddings", json={"input": "x"}) as response:
                        found.append(response.status)
            assert sum(counts.faults.values()) == 300 - found.count(200)
            return found

        first = playing(act, faults={"429": 0.1, "500": 0.2}, seed=3)
        assert (first.count(429) / 300, first.count(500) / 300) == (
            pytest.approx(0.1, abs=0.06),
            pytest.approx(0.2, abs=0.08),
        )
        assert first == playing(act, faults={"429": 0.1, "500": 0.2}, seed=3)
        assert first != playing(act, faults={"429": 0.1, "500": 0.2}, seed=4)

    def test_none_spares_a_request_from_the_faults(self) -> None:
        assert asking(chat("hello"), fault="none", faults={"500": 1.0})[0] == 200

    def test_a_client_that_leaves_is_counted_and_no_error(self, caplog: pytest.LogCaptureFixture) -> None:
        async def act(url: str, counts: ReplayCounts) -> None:
            async with aiohttp.ClientSession() as session:
                body = chat("where is my parcel", "be kind", stream=True)
                async with session.post(url + "/chat/completions", json=body) as response:
                    await response.content.readany()
                    response.close()
                while not counts.left:
                    await asyncio.sleep(0.005)

        playing(act, tokens_per_second=20)
        assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"speed": 0}, "--speed"),
            ({"speed": math.nan}, "--speed"),
            ({"tokens_per_second": 0}, "--tokens-per-second"),
            ({"tokens_per_second": math.inf}, "--tokens-per-second"),
            ({"retry_after_s": -1}, "--retry-after"),
            ({"fallback": "last"}, "--fallback"),
            ({"faults": {"flood": 0.1}}, "flood"),
            ({"faults": {"429": 1.5}}, "429"),
            ({"faults": {"429": 0.6, "500": 0.6}}, "add up"),
        ],
    )
    def test_what_can_not_be_is_named(self, wrong: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigurationError, match=named):
            ReplaySettings(**wrong)

    def test_no_answers_are_an_error(self) -> None:
        with pytest.raises(DataError, match="no answer to play"):
            ReplayServer([example("hello")])

    def test_a_port_in_use_is_named(self) -> None:
        async def act(url: str, _: ReplayCounts) -> None:
            port = int(url.split(":")[2].removesuffix("/v1"))
            with pytest.raises(ConfigurationError, match=f":{port}"):
                async with ReplayServer(ROWS, port=port):
                    pass

        playing(act)


def test_the_public_names() -> None:
    assert replay.__all__ == ["FAULT_HEADER", "ReplayCounts", "ReplayServer", "ReplaySettings"]
