"""The anthropic package: messages, streams, tools, images, structured outputs, token counts, models, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from tests.gateway.clients.conftest import Gateway
from tests.gateway.clients.conversations import (
    ANTHROPIC_MODEL,
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

TOOL: Any = {
    "name": WEATHER_TOOL["name"],
    "description": WEATHER_TOOL["description"],
    "input_schema": WEATHER_TOOL["parameters"],
}


class Person(BaseModel):
    name: str
    born: int


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.root, api_key=gateway.keys["any"], max_retries=0, timeout=20) as client:
        yield client


def asking(text: str, **more: Any) -> Any:
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": text}], **more}


def counted(usage: Any) -> tuple[int, int | None, int]:
    """Input tokens beside the cached ones, cached and output tokens of a message."""
    return usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens


def test_a_student_answers_and_the_headers_say_so(client: anthropic.Anthropic, gateway: Gateway) -> None:
    before = len(gateway.provider.requests)
    raw = client.messages.with_raw_response.create(**asking(SURE, system=SYSTEM))
    answer = raw.parse()
    assert [(block.type, block.text) for block in answer.content if block.type == "text"] == [("text", "billing")]
    assert (answer.stop_reason, answer.role, answer.type) == ("end_turn", "assistant", "message")
    assert raw.headers["x-tiercel-tier"] == "student"
    assert answer._request_id == raw.headers["x-tiercel-id"]
    assert len(gateway.provider.requests) == before
    entry = gateway.entry(raw.headers["x-tiercel-id"])
    assert (entry.api, entry.tier, entry.input_tokens) == ("messages", "student", answer.usage.input_tokens)


def test_a_system_prompt_in_blocks_is_the_same_workload(client: anthropic.Anthropic) -> None:
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    raw = client.messages.with_raw_response.create(**asking(SURE, system=system))
    assert raw.headers["x-tiercel-tier"] == "student"


def test_what_the_student_is_not_sure_of_is_the_frontiers(client: anthropic.Anthropic, gateway: Gateway) -> None:
    raw = client.messages.with_raw_response.create(**asking(UNSURE, system=SYSTEM))
    answer = raw.parse()
    assert [block.text for block in answer.content if block.type == "text"] == ["delivery"]
    assert counted(answer.usage) == (24, 16, 12)
    assert answer.stop_reason == "end_turn"
    assert raw.headers["x-tiercel-tier"] == "frontier"
    assert answer._request_id == "req_of_the_provider"
    entry = gateway.entry(raw.headers["x-tiercel-id"])
    assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (40, 16, 12)
    sent = gateway.provider.last.body
    if gateway.kind == "anthropic":
        assert (sent["system"], sent["model"], sent["max_tokens"]) == (SYSTEM, ANTHROPIC_MODEL, 200)
    else:
        assert sent["messages"][0] == {"role": "system", "content": SYSTEM}


@pytest.mark.parametrize(("text", "system", "said"), [(POEM, None, POEM_ANSWER), (SURE, SYSTEM, "billing")])
def test_events_come_in_order_and_complete(
    client: anthropic.Anthropic, text: str, system: str | None, said: str
) -> None:
    asked = asking(text, stream=True, **({"system": system} if system else {}))
    events = [event for event in client.messages.create(**asked) if event.type != "ping"]
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    begin, end = events[0], events[-2]
    assert begin.type == "message_start" and begin.message.content == [] and begin.message.stop_reason is None
    assert (
        "".join(e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta")
        == said
    )
    assert end.type == "message_delta" and end.delta.stop_reason == "end_turn"
    assert end.usage.output_tokens == (12 if text == POEM else 1)


def test_the_librarys_own_stream_helper_puts_an_answer_together(client: anthropic.Anthropic, gateway: Gateway) -> None:
    with client.messages.stream(**asking(POEM)) as stream:
        assert "".join(stream.text_stream) == POEM_ANSWER
        assert stream.request_id == "req_of_the_provider"
        final = stream.get_final_message()
        id_ = stream.response.headers["x-tiercel-id"]
    assert counted(final.usage) == (24, 16, 12)
    entry = gateway.entry(id_)
    assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (40, 16, 12)
    assert entry.content is not None


def test_tools_are_called_and_their_results_go_back(client: anthropic.Anthropic) -> None:
    conversation: list[Any] = [{"role": "user", "content": WEATHER}]
    asked: Any = {"model": MODEL, "max_tokens": 200, "tools": [TOOL]}
    answer = client.messages.create(**asked, messages=conversation)
    assert answer.stop_reason == "tool_use"
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert [(c.id, c.name, c.input) for c in calls] == [
        ("call_paris", "get_weather", PARIS),
        ("call_rome", "get_weather", ROME),
    ]
    conversation.append({"role": "assistant", "content": answer.content})
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": told}
        for call, told in zip(calls, ("18", "24"), strict=True)
    ]
    conversation.append({"role": "user", "content": results})
    answer = client.messages.create(**asked, messages=conversation)
    assert [block.text for block in answer.content if block.type == "text"] == [WEATHER_ANSWER]


def test_a_stream_of_calls_is_put_together(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**asking(WEATHER, tools=[TOOL])) as stream:
        ended = [event.content_block for event in stream if event.type == "content_block_stop"]
        final = stream.get_final_message()
    assert [(block.type, block.id, block.input) for block in ended if block.type == "tool_use"] == [
        ("tool_use", "call_paris", PARIS),
        ("tool_use", "call_rome", ROME),
    ]
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize("by", ["data", "url"])
def test_an_image_reaches_the_frontier_as_it_was_sent(client: anthropic.Anthropic, gateway: Gateway, by: str) -> None:
    address = "https://pictures.example/falcon.png"
    source = (
        {"type": "base64", "media_type": "image/png", "data": PNG} if by == "data" else {"type": "url", "url": address}
    )
    content = [{"type": "image", "source": source}, {"type": "text", "text": PICTURE}]
    asked: Any = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": content}]}
    answer = client.messages.create(**asked)
    assert [block.text for block in answer.content if block.type == "text"] == [PICTURE_ANSWER]
    sent = gateway.provider.last.body["messages"][0]["content"]
    if gateway.kind == "anthropic":
        assert sent == content
    else:
        url = f"data:image/png;base64,{PNG}" if by == "data" else address
        assert sent[0] == {"type": "image_url", "image_url": {"url": url}}


def test_a_structured_output_is_parsed(client: anthropic.Anthropic) -> None:
    answer = client.messages.parse(**asking(PERSON, output_format=Person))
    assert answer.parsed_output == Person(**PERSON_ANSWER)


def test_what_only_anthropics_api_knows_reaches_it(client: anthropic.Anthropic, gateway: Gateway) -> None:
    extra = {"top_k": 5, "x_vendor": {"depth": 1}}
    answer = client.beta.messages.create(**asking(POEM, betas=["some-beta-2026-01-01", "other"], extra_body=extra))
    assert [block.text for block in answer.content if block.type == "text"] == [POEM_ANSWER]
    sent = gateway.provider.last
    assert {name: sent.body[name] for name in extra} == extra
    if gateway.kind == "anthropic":
        assert sent.headers["anthropic-beta"] == "some-beta-2026-01-01,other"
    else:
        assert "anthropic-beta" not in sent.headers
    assert not any("tcl-" in value for value in sent.headers.values())


def test_tokens_are_counted_by_the_provider_or_estimated(client: anthropic.Anthropic, gateway: Gateway) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": POEM}], "tools": [TOOL]}
    before = len(gateway.provider.requests)
    raw = client.messages.with_raw_response.count_tokens(**asked)
    counted = raw.parse().input_tokens
    if gateway.kind == "anthropic":
        assert counted == 40
        assert raw.headers["x-tiercel-reason"] == "counted"
        assert gateway.provider.last.body["model"] == ANTHROPIC_MODEL
    else:
        assert 40 < counted < 200
        assert raw.headers["x-tiercel-reason"] == "estimated"
        assert len(gateway.provider.requests) == before


def test_what_may_not_leave_the_machine_is_counted_here(client: anthropic.Anthropic, gateway: Gateway) -> None:
    before = len(gateway.provider.requests)
    local = client.with_options(api_key=gateway.keys["local"])
    assert 0 < local.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": POEM}]).input_tokens < 20
    assert len(gateway.provider.requests) == before


def test_models_are_listed_and_looked_up(client: anthropic.Anthropic) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"tiercel/helpdesk", MODEL} <= set(listed)
    found = client.models.retrieve("tiercel/helpdesk")
    assert found == listed["tiercel/helpdesk"]
    assert (found.type, found.display_name) == ("model", "tiercel/helpdesk")
    assert found.created_at.year >= 2024
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


ERRORS: list[tuple[str, str, str, type[anthropic.APIStatusError], int, str]] = [
    ("another key", MODEL, UNSURE, anthropic.AuthenticationError, 401, "authentication_error"),
    ("small", MODEL, UNSURE, anthropic.PermissionDeniedError, 403, "permission_error"),
    ("any", "tiercel/nobody", UNSURE, anthropic.NotFoundError, 404, "not_found_error"),
    ("any", MODEL, "never recorded", anthropic.NotFoundError, 404, "not_found_error"),
    ("poor", MODEL, UNSURE, anthropic.RateLimitError, 429, "rate_limit_error"),
    ("any", "tiercel/throttled", UNSURE, anthropic.RateLimitError, 429, "rate_limit_error"),
    ("any", "tiercel/broken", UNSURE, anthropic.InternalServerError, 502, "api_error"),
    ("local", MODEL, UNSURE, anthropic.InternalServerError, 503, "api_error"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("key", "model", "text", "kind", "status", "type_"), ERRORS)
def test_errors_are_the_librarys_own(
    client: anthropic.Anthropic,
    gateway: Gateway,
    key: str,
    model: str,
    text: str,
    kind: type[anthropic.APIStatusError],
    status: int,
    type_: str,
    stream: bool,
) -> None:
    client = client.with_options(api_key=gateway.keys.get(key, key))
    with pytest.raises(kind) as caught:
        client.messages.create(**asking(text, system=SYSTEM, stream=stream) | {"model": model})
    error, said = caught.value, caught.value.body
    assert error.status_code == status
    assert isinstance(said, dict) and said["type"] == "error"
    assert said["error"]["type"] == type_
    assert said["error"]["message"] and text not in said["error"]["message"]
    own = error.response.headers["x-tiercel-id"]
    assert error.request_id == ("req_of_the_provider" if text == "never recorded" else own)


def test_a_wrong_request_names_the_field(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages") as caught:
        client.messages.create(model=MODEL, max_tokens=10, messages=[])
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]


@pytest.mark.parametrize(("key", "status"), [("poor", 429), ("local", 503)])
def test_the_library_does_not_try_again_what_can_not_help(
    client: anthropic.Anthropic, gateway: Gateway, key: str, status: int
) -> None:
    asked: list[Any] = []
    client = client.with_options(api_key=gateway.keys[key], max_retries=3)
    client._client.event_hooks["request"].append(asked.append)
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**asking(UNSURE, system=SYSTEM))
    assert caught.value.status_code == status
    assert len(asked) == 1


def test_a_stream_that_breaks_off_is_an_error_after_what_came(client: anthropic.Anthropic) -> None:
    said = ""
    with pytest.raises(anthropic.APIStatusError, match="half"):
        for event in client.messages.create(**asking(POEM, stream=True) | {"model": "tiercel/half"}):
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                said += event.delta.text
    assert said and said != POEM_ANSWER and POEM_ANSWER.startswith(said)


def test_many_at_once(gateway: Gateway) -> None:
    async def run() -> list[Any]:
        async with anthropic.AsyncAnthropic(
            base_url=gateway.root, api_key=gateway.keys["any"], max_retries=0
        ) as client:

            async def whole(text: str) -> Any:
                answer = await client.messages.create(**asking(text, system=SYSTEM))
                return answer.content[0].text  # type: ignore[union-attr]

            async def streamed() -> str:
                async with client.messages.stream(**asking(POEM)) as stream:
                    return await stream.get_final_text()

            return await asyncio.gather(*[ask for _ in range(4) for ask in (whole(SURE), whole(UNSURE), streamed())])

    assert asyncio.run(run()) == ["billing", "delivery", POEM_ANSWER] * 4


def test_a_bearer_token_serves_as_the_key(gateway: Gateway) -> None:
    with anthropic.Anthropic(base_url=gateway.root, auth_token=gateway.keys["any"], max_retries=0) as client:
        assert client.messages.create(**asking(POEM)).stop_reason == "end_turn"
