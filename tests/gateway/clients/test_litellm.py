"""litellm as a client: its openai and anthropic routes pointed at the gateway by `api_base`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from tests.gateway.clients.conftest import Gateway
from tests.gateway.clients.conversations import (
    MODEL,
    PARIS,
    PERSON,
    PERSON_ANSWER,
    PICTURE,
    PICTURE_ANSWER,
    PNG,
    POEM,
    POEM_ANSWER,
    ROME,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_TOOL,
)
from tests.gateway.conftest import SURE, UNSURE, messages

TOOLS = [{"type": "function", "function": WEATHER_TOOL}]
ASK = [{"role": "user", "content": POEM}]


class Person(BaseModel):
    name: str
    born: int


@pytest.fixture(scope="package")
def litellm(quiet: None) -> ModuleType:
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


@pytest.fixture(params=["openai", "anthropic"], ids=["as-openai", "as-anthropic"])
def route(request: pytest.FixtureRequest) -> str:
    """The API that litellm speaks to the gateway."""
    return request.param


@pytest.fixture
def given(gateway: Gateway, route: str) -> Callable[..., dict[str, Any]]:
    """Arguments that point a call at the gateway."""

    def given(key: str = "any", model: str = MODEL, **more: Any) -> dict[str, Any]:
        base = gateway.url if route == "openai" else gateway.root
        return {
            "model": f"{route}/{model}",
            "api_base": base,
            "api_key": gateway.keys.get(key, key),
            "num_retries": 0,
            "max_retries": 0,
            "timeout": 20,
            **more,
        }

    return given


def tier(answer: Any) -> str:
    """Who answered, by the headers that litellm shows."""
    return answer._hidden_params["additional_headers"]["llm_provider-x-tiercel-tier"]


def test_student_and_frontier_answer(litellm: ModuleType, given: Callable[..., Any]) -> None:
    answer = litellm.completion(**given(messages=messages(SURE)))
    assert answer.choices[0].message.content == "billing"
    assert answer.choices[0].finish_reason == "stop"
    assert tier(answer) == "student"
    answer = litellm.completion(**given(messages=messages(UNSURE)))
    assert answer.choices[0].message.content == "delivery"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens) == (40, 16, 12)
    assert tier(answer) == "frontier"


@pytest.mark.parametrize(("asked", "said"), [(ASK, POEM_ANSWER), (messages(SURE), "billing")])
def test_a_stream_is_complete(litellm: ModuleType, given: Callable[..., Any], asked: Any, said: str) -> None:
    stream = litellm.completion(**given(messages=asked, stream=True, stream_options={"include_usage": True}))
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == said
    if said == POEM_ANSWER:
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (40, 12)


def test_tools_are_called_and_their_results_go_back(litellm: ModuleType, given: Callable[..., Any]) -> None:
    conversation: list[Any] = [{"role": "user", "content": WEATHER}]
    answer = litellm.completion(**given(messages=conversation, tools=TOOLS))
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("call_paris", "get_weather", PARIS),
        ("call_rome", "get_weather", ROME),
    ]
    conversation.append(choice.message.model_dump(exclude_none=True))
    conversation += [
        {"role": "tool", "tool_call_id": call.id, "content": told}
        for call, told in zip(calls, ("18", "24"), strict=True)
    ]
    answer = litellm.completion(**given(messages=conversation, tools=TOOLS))
    assert answer.choices[0].message.content == WEATHER_ANSWER


def test_a_stream_of_calls_is_put_together(litellm: ModuleType, given: Callable[..., Any]) -> None:
    asked = [{"role": "user", "content": WEATHER}]
    chunks = list(litellm.completion(**given(messages=asked, tools=TOOLS, stream=True)))
    calls = litellm.stream_chunk_builder(chunks, messages=asked).choices[0].message.tool_calls
    assert [(c.id, json.loads(c.function.arguments)) for c in calls] == [("call_paris", PARIS), ("call_rome", ROME)]


def test_a_structured_output_has_its_schema(litellm: ModuleType, given: Callable[..., Any]) -> None:
    asked = [{"role": "user", "content": PERSON}]
    answer = litellm.completion(**given(messages=asked, response_format=Person))
    assert Person.model_validate_json(answer.choices[0].message.content) == Person(**PERSON_ANSWER)


def test_an_image_passes(litellm: ModuleType, given: Callable[..., Any], gateway: Gateway) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    asked = [{"role": "user", "content": [{"type": "text", "text": PICTURE}, image]}]
    assert litellm.completion(**given(messages=asked)).choices[0].message.content == PICTURE_ANSWER
    assert PNG in json.dumps(gateway.provider.last.body)


def test_many_at_once(litellm: ModuleType, given: Callable[..., Any]) -> None:
    async def run() -> list[str]:
        asked = [litellm.acompletion(**given(messages=messages(text))) for _ in range(3) for text in (SURE, UNSURE)]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == ["billing", "delivery"] * 3


@pytest.mark.parametrize(
    ("key", "model", "kind", "status"),
    [
        ("another key", MODEL, "AuthenticationError", 401),
        ("any", "tiercel/nobody", "NotFoundError", 404),
        ("poor", MODEL, "RateLimitError", 429),
        ("any", "tiercel/broken", "BadGatewayError", 502),
        ("local", MODEL, "ServiceUnavailableError", 503),
    ],
)
def test_errors_are_the_librarys_own(
    litellm: ModuleType, given: Callable[..., Any], key: str, model: str, kind: str, status: int
) -> None:
    with pytest.raises(Exception) as caught:
        litellm.completion(**given(key, model, messages=messages(UNSURE)))
    error: Any = caught.value
    assert error.status_code == status
    assert isinstance(error, getattr(litellm.exceptions, kind))
