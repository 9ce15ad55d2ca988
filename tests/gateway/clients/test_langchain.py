"""langchain-openai: ChatOpenAI invoked, streamed, with tools and with structured outputs, over both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
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
from tests.gateway.conftest import SURE, SYSTEM, UNSURE

TOOL = {"type": "function", "function": WEATHER_TOOL}


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int


@pytest.fixture
def chat(gateway: Gateway) -> Callable[..., Any]:
    """Makes a ChatOpenAI."""
    from langchain_openai import ChatOpenAI

    def chat(key: str = "any", **more: Any) -> Any:
        given = {"model": MODEL, "base_url": gateway.url, "api_key": gateway.keys[key], "max_retries": 0, "timeout": 20}
        return ChatOpenAI(**given | more)

    return chat


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, chat: Callable[..., Any]) -> Any:
    """A ChatOpenAI over chat completions, and one over Responses."""
    return chat(use_responses_api=request.param, stream_usage=True)


def text_of(message: Any) -> str:
    return message.text if isinstance(message.text, str) else message.text()


def test_student_and_frontier_answer_an_invocation(model: Any) -> None:
    answer = model.invoke([("system", SYSTEM), ("human", SURE)])
    assert text_of(answer) == "billing"
    assert answer.response_metadata["model_name"] == "tiercel/helpdesk"
    answer = model.invoke([("system", SYSTEM), ("human", UNSURE)])
    assert text_of(answer) == "delivery"
    told = answer.usage_metadata
    assert (told["input_tokens"], told["input_token_details"]["cache_read"], told["output_tokens"]) == (40, 16, 12)


def test_headers_are_shown_where_they_are_asked_for(chat: Callable[..., Any]) -> None:
    answer = chat(include_response_headers=True).invoke([("system", SYSTEM), ("human", SURE)])
    assert answer.response_metadata["headers"]["x-tiercel-tier"] == "student"


@pytest.mark.parametrize(("system", "text", "said"), [("Hello.", POEM, POEM_ANSWER), (SYSTEM, SURE, "billing")])
def test_a_stream_adds_up_to_the_answer(model: Any, system: str, text: str, said: str) -> None:
    chunks = list(model.stream([("system", system), ("human", text)]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert text_of(whole) == said
    assert whole.usage_metadata["input_tokens"] > 0
    if said == POEM_ANSWER:
        assert sum(bool(text_of(chunk)) for chunk in chunks) > 5
        assert whole.usage_metadata["total_tokens"] == 52


def test_tools_are_called_and_their_results_go_back(model: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    model = model.bind_tools([TOOL])
    conversation: list[Any] = [HumanMessage(WEATHER)]
    answer = model.invoke(conversation)
    assert [(c["id"], c["name"], c["args"]) for c in answer.tool_calls] == [
        ("call_paris", "get_weather", PARIS),
        ("call_rome", "get_weather", ROME),
    ]
    assert not answer.invalid_tool_calls
    conversation += [answer, ToolMessage("18", tool_call_id="call_paris"), ToolMessage("24", tool_call_id="call_rome")]
    assert text_of(model.invoke(conversation)) == WEATHER_ANSWER


def test_a_stream_of_calls_adds_up(model: Any) -> None:
    whole: Any = None
    for chunk in model.bind_tools([TOOL]).stream(WEATHER):
        whole = chunk if whole is None else whole + chunk
    assert [(c["id"], c["args"]) for c in whole.tool_calls] == [("call_paris", PARIS), ("call_rome", ROME)]


def test_a_structured_output_is_parsed(model: Any) -> None:
    assert model.with_structured_output(Person).invoke(PERSON) == Person(**PERSON_ANSWER)


def test_an_image_passes(model: Any, gateway: Gateway) -> None:
    image = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    message = {"role": "user", "content": [{"type": "text", "text": PICTURE}, image]}
    assert text_of(model.invoke([message])) == PICTURE_ANSWER
    assert PNG in str(gateway.provider.last.body)


def test_many_at_once(chat: Callable[..., Any]) -> None:
    # One run for both: its asynchronous connections belong to the loop that opened them, and it keeps them.
    async def run() -> list[str]:
        models = [chat(use_responses_api=False), chat(use_responses_api=True)]
        asked = [m.ainvoke([("system", SYSTEM), ("human", text)]) for m in models for text in (SURE, UNSURE) * 2]
        return [text_of(answer) for answer in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == ["billing", "delivery"] * 4


def test_embeddings_are_the_providers(gateway: Gateway) -> None:
    from langchain_openai import OpenAIEmbeddings

    # It would fetch a tokenizer from the network to cut long texts.
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=gateway.url,
        api_key=gateway.keys["any"],  # type: ignore[arg-type]
        max_retries=0,
        check_embedding_ctx_length=False,
    )
    if gateway.kind == "anthropic":
        with pytest.raises(openai.BadRequestError):
            embeddings.embed_query("the sea")
        return
    first, second = embeddings.embed_documents(["the sea", "a parcel"])
    assert first == embeddings.embed_query("the sea") != second


@pytest.mark.parametrize(
    ("key", "name", "kind"),
    [
        ("small", MODEL, openai.PermissionDeniedError),
        ("any", "tiercel/nobody", openai.NotFoundError),
        ("poor", MODEL, openai.RateLimitError),
        ("local", MODEL, openai.InternalServerError),
    ],
)
def test_errors_are_those_of_the_openai_package(
    chat: Callable[..., Any], key: str, name: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind):
        chat(key, model=name).invoke([("system", SYSTEM), ("human", UNSURE)])
    with pytest.raises(kind):
        list(chat(key, model=name).stream([("system", SYSTEM), ("human", UNSURE)]))
