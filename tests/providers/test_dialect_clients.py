"""The dialects as real client libraries meet them: a server translates, openai and anthropic judge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import web
from pydantic import BaseModel

from tests.providers.chats import Json
from tiercel.providers.chunks import chunks_of
from tiercel.providers.completions_form import CompletionTexts, chat_from_completions, text_from_completion
from tiercel.providers.messages_form import (
    CompletionChunks,
    MessageEvents,
    anthropic_error,
    chat_from_messages,
    completion_from_message,
    message_from_completion,
    messages_from_chat,
)
from tiercel.providers.responses_form import ResponseEvents, chat_from_responses, response_from_completion
from tiercel.providers.sse import EventReader, encode_event

HELLO: Any = [{"role": "user", "content": "hello"}]
CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Köln"}'}},
    {"id": "call_b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
]
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 9,
    "total_tokens": 39,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def completion(finish: str = "stop", **message: Any) -> Json:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None} | message,
        "logprobs": None,
    }
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
    return head | {"choices": [choice | {"finish_reason": finish}], "usage": USAGE}


@dataclass
class Server:
    """Answers every API with one completion, cut into small pieces where a stream is asked for."""

    answer: Json
    cut_after: int | None = None
    seen: list[Json] = field(default_factory=list)

    def chunks(self) -> list[Json]:
        found = []
        for chunk in chunks_of(self.answer):
            delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
            if text := delta.get("content"):
                found += [self._with(chunk, {"content": c}) for c in text]
            elif (calls := delta.get("tool_calls")) and (arguments := calls[0]["function"]["arguments"]):
                call = calls[0]
                found.append(
                    self._with(chunk, {"tool_calls": [call | {"function": call["function"] | {"arguments": ""}}]})
                )
                found += [
                    self._with(chunk, {"tool_calls": [{"index": call["index"], "function": {"arguments": c}}]})
                    for c in arguments
                ]
            else:
                found.append(chunk)
        return found if self.cut_after is None else found[: self.cut_after]

    def _with(self, chunk: Json, delta: Json) -> Json:
        return chunk | {"choices": [chunk["choices"][0] | {"delta": delta}]}

    async def responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(chat_from_responses(body))
        if not body.get("stream"):
            return web.json_response(response_from_completion(self.answer, request=body))
        return await self.stream(request, ResponseEvents(request=body), self.chunks(), named=True)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(chat_from_messages(body))
        if not body.get("stream"):
            return web.json_response(message_from_completion(self.answer))
        return await self.stream(request, MessageEvents(), self.chunks(), named=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(chat_from_completions(body))
        if not body.get("stream"):
            return web.json_response(text_from_completion(self.answer))
        return await self.stream(request, CompletionTexts(), self.chunks(), named=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Chat completions in front of a provider that speaks Anthropic's API."""
        body = await request.json()
        self.seen.append(messages_from_chat(body, default_max_tokens=100))
        if not body.get("stream"):
            return web.json_response(completion_from_message(message_from_completion(self.answer)))
        events = MessageEvents()
        there = [event for chunk in self.chunks() for event in events.feed(chunk)] + events.end()
        raw = b"".join(encode_event(json.dumps(event).encode(), event["type"]) for event in there)
        back = [json.loads(event.data) for event in EventReader().feed(raw)]
        return await self.stream(request, CompletionChunks(include_usage=True), back, named=False)

    async def stream(self, request: web.Request, form: Any, chunks: list[Json], *, named: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = [event for chunk in chunks for event in form.feed(chunk)] + form.end()
        for event in events:
            await response.write(encode_event(json.dumps(event).encode(), event["type"] if named else None))
        if not named:
            await response.write(encode_event(b"[DONE]"))
        return response


@asynccontextmanager
async def serving(server: Any) -> AsyncIterator[str]:
    app = web.Application()
    for path in ("responses", "messages", "completions"):
        app.router.add_post(f"/v1/{path}", getattr(server, path))
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def asking(server: Any, ask: Callable[[openai.AsyncOpenAI, anthropic.AsyncAnthropic], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with (
            serving(server) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as one,
            anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as other,
        ):
            return await ask(one, other)

    return asyncio.run(run())


class City(BaseModel):
    name: str
    people: int


class TestResponses:
    def test_create(self) -> None:
        answer = asking(
            Server(completion(content="Hi.")), lambda c, _: c.responses.create(model="m", input="hello", store=False)
        )
        assert (answer.output_text, answer.status) == ("Hi.", "completed")
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (30, 20)

    def test_tools_there_and_back(self) -> None:
        server = Server(completion("tool_calls", tool_calls=CALLS))
        tool: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}

        async def ask(client: openai.AsyncOpenAI, _: Any) -> None:
            first = await client.responses.create(model="m", input="hello", tools=[tool])
            calls = [item for item in first.output if item.type == "function_call"]
            assert [(c.call_id, c.name, c.arguments) for c in calls] == [
                (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in CALLS
            ]
            given: Any = [*HELLO, *(item.model_dump(exclude_none=True) for item in first.output)]
            given.append({"type": "function_call_output", "call_id": "call_a", "output": "rain"})
            await client.responses.create(model="m", input=given, tools=[tool])

        asking(server, ask)
        assert server.seen[1]["messages"] == [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
        ]

    def test_parse(self) -> None:
        server = Server(completion(content='{"name":"Köln","people":1}'))
        answer = asking(server, lambda c, _: c.responses.parse(model="m", input="hello", text_format=City))
        assert answer.output_parsed == City(name="Köln", people=1)
        assert server.seen[0]["response_format"]["json_schema"]["name"] == "City"

    @pytest.mark.parametrize(
        "message", [{"content": '{"name":"Köln","people":1}'}, {"tool_calls": CALLS}, {"refusal": "No."}]
    )
    def test_stream(self, message: Json) -> None:
        answer = completion(**message, reasoning_content="hm")

        async def ask(client: openai.AsyncOpenAI, _: Any) -> tuple[list[str], Any]:
            form = {"text_format": City} if "content" in message else {}
            async with client.responses.stream(model="m", input="hello", **form) as stream:
                kinds = [event.type async for event in stream]
                return kinds, await stream.get_final_response()

        kinds, final = asking(Server(answer), ask)
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"
        whole = response_from_completion(answer)["output"]
        assert [
            item.model_dump(exclude_none=True, exclude={"parsed", "parsed_arguments"}) for item in final.output
        ] == [
            {k: v for k, v in item.items() if k != "content"}
            | ({"content": [_dumped(p, final) for p in item["content"]]} if "content" in item else {})
            for item in whole
        ]
        assert final.usage.total_tokens == 39

    def test_a_stream_that_is_cut_has_failed(self) -> None:
        async def ask(client: openai.AsyncOpenAI, _: Any) -> Any:
            events = [event async for event in await client.responses.create(model="m", input="hello", stream=True)]
            return events[-1]

        last = asking(Server(completion(content="Hello."), cut_after=3), ask)
        assert (last.type, last.response.status) == ("response.failed", "failed")


def _dumped(part: Json, final: Any) -> Json:
    parsed = {"parsed": {"name": "Köln", "people": 1}} if part["type"] == "output_text" and final.output_parsed else {}
    return part | parsed


class TestMessages:
    def ask(self, **more: Any) -> Any:
        return {"model": "m", "max_tokens": 50, "messages": HELLO} | more

    def test_create(self) -> None:
        message = asking(Server(completion(content="Hi.")), lambda _, c: c.messages.create(**self.ask()))
        assert [block.type for block in message.content] == ["text"]
        assert (message.stop_reason, message.usage.input_tokens, message.usage.cache_read_input_tokens) == (
            "end_turn",
            10,
            20,
        )

    def test_tools_there_and_back(self) -> None:
        server = Server(completion("tool_calls", content="Let me see.", tool_calls=CALLS))

        async def ask(_: Any, client: anthropic.AsyncAnthropic) -> None:
            first = await client.messages.create(
                **self.ask(tools=[{"name": "get_weather", "input_schema": {"type": "object"}}])
            )
            assert first.stop_reason == "tool_use"
            results = [
                {"type": "tool_result", "tool_use_id": b.id, "content": "rain"}
                for b in first.content
                if b.type == "tool_use"
            ]
            messages = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
            await client.messages.create(**self.ask(messages=messages))

        asking(server, ask)
        assert server.seen[1]["messages"] == [
            *HELLO,
            {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_b", "content": "rain"},
        ]

    def test_stream(self) -> None:
        async def ask(_: Any, client: anthropic.AsyncAnthropic) -> tuple[str, Any]:
            async with client.messages.stream(**self.ask()) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                return text, await stream.get_final_message()

        answer = completion("tool_calls", content="Let me see.", reasoning_content="hm", tool_calls=CALLS)
        text, message = asking(Server(answer), ask)
        assert text == "Let me see."
        assert [b.type for b in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert [b.input for b in message.content[2:]] == [{"city": "Köln"}, {}]
        assert (message.stop_reason, message.usage.output_tokens, message.usage.input_tokens) == ("tool_use", 9, 10)
        assert message.usage.output_tokens_details.thinking_tokens == 4

    def test_structured_output(self) -> None:
        server = Server(completion(content='{"name":"Köln","people":1}'))
        message = asking(server, lambda _, c: c.messages.parse(**self.ask(output_format=City)))
        assert message.parsed_output == City(name="Köln", people=1)
        assert server.seen[0]["response_format"]["json_schema"]["schema"]["properties"].keys() == {"name", "people"}

    def test_a_stream_that_is_cut_is_an_error(self) -> None:
        async def ask(_: Any, client: anthropic.AsyncAnthropic) -> None:
            async with client.messages.stream(**self.ask()) as stream:
                async for _event in stream:
                    pass

        with pytest.raises(anthropic.APIStatusError, match="ended before its answer did"):
            asking(Server(completion(content="Hello."), cut_after=3), ask)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, anthropic.BadRequestError),
            (401, anthropic.AuthenticationError),
            (403, anthropic.PermissionDeniedError),
            (404, anthropic.NotFoundError),
            (413, anthropic.APIStatusError),
            (429, anthropic.RateLimitError),
            (500, anthropic.InternalServerError),
            (529, anthropic.APIStatusError),
        ],
    )
    def test_errors(self, status: int, kind: type[Exception]) -> None:
        class Failing(Server):
            async def messages(self, request: web.Request) -> web.StreamResponse:
                return web.json_response(anthropic_error({"error": {"message": "why"}}, status), status=status)

        with pytest.raises(kind, match="why"):
            asking(Failing({}), lambda _, c: c.messages.create(**self.ask()))


class TestChatBeforeAnthropic:
    def test_create(self) -> None:
        server = Server(completion("tool_calls", content="Let me see.", tool_calls=CALLS))
        tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
        answer = asking(server, lambda c, _: c.chat.completions.create(model="m", messages=HELLO, tools=[tool]))
        message = answer.choices[0].message.model_dump(exclude_none=True)
        assert message == {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS}
        assert answer.usage is not None
        assert answer.usage.model_dump(exclude_none=True) == USAGE | {
            "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 0}
        }
        assert server.seen[0]["max_tokens"] == 100

    def test_stream(self) -> None:
        async def ask(client: openai.AsyncOpenAI, _: Any) -> Any:
            async with client.chat.completions.stream(
                model="m", messages=HELLO, stream_options={"include_usage": True}
            ) as stream:
                async for _event in stream:
                    pass
                return await stream.get_final_completion()

        final = asking(Server(completion("tool_calls", content="Let me see.", tool_calls=CALLS)), ask)
        message = final.choices[0].message
        assert (message.content, final.choices[0].finish_reason, final.usage.prompt_tokens) == (
            "Let me see.",
            "tool_calls",
            30,
        )
        assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls] == [
            ("call_a", "get_weather", {"city": "Köln"}),
            ("call_b", "get_time", {}),
        ]

    def test_a_stream_that_is_cut_is_an_error(self) -> None:
        async def ask(client: openai.AsyncOpenAI, _: Any) -> None:
            async for _chunk in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
                pass

        with pytest.raises(openai.APIError, match="ended before its answer did"):
            asking(Server(completion(content="Hello."), cut_after=3), ask)


class TestCompletions:
    def test_create_and_stream(self) -> None:
        async def ask(client: openai.AsyncOpenAI, _: Any) -> tuple[Any, str]:
            whole = await client.completions.create(model="m", prompt="Once")
            stream = await client.completions.create(model="m", prompt="Once", stream=True)
            return whole, "".join([c.choices[0].text async for c in stream if c.choices])

        whole, text = asking(Server(completion(content=" upon a time")), ask)
        assert whole.choices[0].text == text == " upon a time"
        assert whole.usage.total_tokens == 39
