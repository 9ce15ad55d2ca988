"""pydantic-ai: agents with tools and structured outputs, over its models for OpenAI's two APIs and for Anthropic's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from tests.gateway.clients.conftest import Gateway
from tests.gateway.clients.conversations import (
    MODEL,
    PARCEL,
    PARCEL_ANSWER,
    PARCEL_STATE,
    PERSON,
    PERSON_ANSWER,
    PICTURE,
    PICTURE_ANSWER,
    PNG,
    POEM,
    POEM_ANSWER,
)
from tests.gateway.conftest import SURE, SYSTEM, UNSURE

Making = Callable[..., Any]


class Parcel(BaseModel):
    place: str
    days: int


class Person(BaseModel):
    name: str
    born: int


@pytest.fixture(params=["chat", "responses", "anthropic"])
def making(request: pytest.FixtureRequest, gateway: Gateway) -> Making:
    """Makes an agent; within a running loop, to which its connections then belong."""

    def make(*, key: str = "any", model: str = MODEL, **more: Any) -> Any:
        import anthropic
        import openai
        from pydantic_ai import Agent
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.anthropic import AnthropicProvider
        from pydantic_ai.providers.openai import OpenAIProvider

        secret = gateway.keys.get(key, key)
        if request.param == "anthropic":
            own = anthropic.AsyncAnthropic(base_url=gateway.root, api_key=secret, max_retries=0)
            return Agent(AnthropicModel(model, provider=AnthropicProvider(anthropic_client=own)), **more)
        client = openai.AsyncOpenAI(base_url=gateway.url, api_key=secret, max_retries=0)
        kind = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
        return Agent(kind(model, provider=OpenAIProvider(openai_client=client)), **more)

    return make


def run(act: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(act())


def test_student_and_frontier_answer(making: Making) -> None:
    async def act() -> None:
        agent = making(instructions=SYSTEM)
        sure, unsure = await agent.run(SURE), await agent.run(UNSURE)
        assert (sure.output, unsure.output) == ("billing", "delivery")
        usage = unsure.usage
        assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (40, 16, 12)

    run(act)


def test_a_stream_adds_up_to_the_answer(making: Making) -> None:
    async def act() -> None:
        async with making().run_stream(POEM) as streamed:
            parts = [part async for part in streamed.stream_text(delta=True, debounce_by=None)]
            assert "".join(parts) == POEM_ANSWER
            assert len(parts) > 5
            assert streamed.usage.output_tokens == 12
        async with making(instructions=SYSTEM).run_stream(SURE) as streamed:
            assert await streamed.get_output() == "billing"

    run(act)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_agent_calls_its_tool_and_gives_a_structured_output(making: Making, stream: bool) -> None:
    asked: list[int] = []

    async def act() -> None:
        agent = making(output_type=Parcel)

        @agent.tool_plain
        def track(parcel: int) -> str:
            """Where a parcel is."""
            asked.append(parcel)
            return PARCEL_STATE

        if stream:
            async with agent.run_stream(PARCEL) as streamed:
                output, history = await streamed.get_output(), streamed.all_messages()
        else:
            result = await agent.run(PARCEL)
            output, history = result.output, result.all_messages()
        assert output == Parcel(**PARCEL_ANSWER)
        calls = [part for message in history for part in message.parts if part.part_kind == "tool-call"]
        assert [(c.tool_name, c.tool_call_id) for c in calls] == [
            ("track", "call_parcel"),
            ("final_result", "call_final"),
        ]

    run(act)
    assert asked == [17]


def test_a_native_structured_output(making: Making) -> None:
    async def act() -> None:
        from pydantic_ai import NativeOutput

        # It knows by the name which models take a schema.
        agent = making(model="claude-sonnet-4-5", output_type=NativeOutput(Person))
        assert (await agent.run(PERSON)).output == Person(**PERSON_ANSWER)

    run(act)


def test_an_image_passes(making: Making, gateway: Gateway) -> None:
    async def act() -> None:
        from pydantic_ai import BinaryContent

        picture = BinaryContent(data=base64.b64decode(PNG), media_type="image/png")
        assert (await making().run([PICTURE, picture])).output == PICTURE_ANSWER

    run(act)
    assert PNG in str(gateway.provider.last.body)


@pytest.mark.parametrize(
    ("key", "model", "status"),
    [
        ("another key", MODEL, 401),
        ("any", "tiercel/nobody", 404),
        ("poor", MODEL, 429),
        ("any", "tiercel/broken", 502),
        ("local", MODEL, 503),
    ],
)
def test_errors_are_the_librarys_own(making: Making, key: str, model: str, status: int) -> None:
    async def act() -> None:
        from pydantic_ai.exceptions import ModelHTTPError

        with pytest.raises(ModelHTTPError) as caught:
            await making(key=key, model=model, instructions=SYSTEM).run(UNSURE)
        assert caught.value.status_code == status
        assert caught.value.model_name == model

    run(act)
