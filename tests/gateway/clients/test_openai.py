"""The openai package: chat, streams, tools, structured outputs, responses, embeddings, models, completions, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseErrorEvent
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
    TEXT,
    TEXT_ANSWER,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_TOOL,
)
from tests.gateway.conftest import SURE, SYSTEM, UNSURE, messages

TOOLS: Any = [{"type": "function", "function": WEATHER_TOOL}]
ASK: Any = [{"role": "user", "content": POEM}]


class Person(BaseModel):
    name: str
    born: int


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url, api_key=gateway.keys["any"], max_retries=0, timeout=20) as client:
        yield client


def counted(usage: Any) -> tuple[int, int, int]:
    """Input, cached and output tokens of a chat."""
    return usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens


class TestChat:
    def test_a_student_answers_and_the_headers_say_so(self, client: openai.OpenAI, gateway: Gateway) -> None:
        before = len(gateway.provider.requests)
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages(SURE))
        answer = raw.parse()
        assert answer.choices[0].message.content == "billing"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == "tiercel/helpdesk"
        assert answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert raw.headers["x-tiercel-tier"] == "student"
        assert raw.headers["x-tiercel-workload"] == "helpdesk"
        assert float(raw.headers["x-tiercel-confidence"]) > 0.5
        assert float(raw.headers["x-tiercel-saved-usd"]) > float(raw.headers["x-tiercel-cost-usd"]) > 0
        assert answer._request_id == raw.request_id == raw.headers["x-tiercel-id"]
        assert len(gateway.provider.requests) == before
        entry = gateway.entry(raw.headers["x-tiercel-id"])
        assert (entry.tier, entry.input_tokens) == ("student", answer.usage.prompt_tokens)

    def test_what_the_student_is_not_sure_of_is_the_frontiers(self, client: openai.OpenAI, gateway: Gateway) -> None:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages(UNSURE))
        answer = raw.parse()
        assert answer.choices[0].message.content == "delivery"
        assert answer.choices[0].finish_reason == "stop"
        assert counted(answer.usage) == (40, 16, 12)
        assert raw.headers["x-tiercel-tier"] == "frontier"
        assert raw.request_id == "req_of_the_provider"
        entry = gateway.entry(raw.headers["x-tiercel-id"])
        assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (40, 16, 12)
        assert entry.cost_usd == pytest.approx(float(raw.headers["x-tiercel-cost-usd"]), abs=1e-9)

    def test_a_header_forces_the_tier(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": MODEL, "messages": messages(SURE), "extra_headers": {"x-tiercel-tier": "frontier"}}
        with pytest.raises(openai.NotFoundError) as caught:  # which has no answer to it
            client.chat.completions.create(**asked)
        assert caught.value.code == "frontier_refused" or caught.value.code == "not_recorded"

    def test_a_workload_named_outright_is_answered_by_its_student(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="tiercel/helpdesk", messages=messages(SURE))
        assert answer.choices[0].message.content == "billing"

    @pytest.mark.parametrize("include_usage", [True, False])
    def test_a_stream_of_the_frontier_is_complete_and_in_order(
        self, client: openai.OpenAI, gateway: Gateway, include_usage: bool
    ) -> None:
        options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
        stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True, **options)
        chunks = list(stream)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == POEM_ANSWER
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
        assert len({c.id for c in chunks}) == 1
        if include_usage:
            assert chunks[-1].choices == []
            assert counted(chunks[-1].usage) == (40, 16, 12)
            assert not any(c.usage for c in chunks[:-1])
        else:
            assert all(c.choices and not c.usage for c in chunks)
        entry = gateway.entry(stream.response.headers["x-tiercel-id"])
        # The gateway asks for the counts where the client does not.
        assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (40, 16, 12)

    def test_a_stream_of_the_student_has_the_same_form(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": MODEL, "messages": messages(SURE), "stream": True}
        with client.chat.completions.with_streaming_response.create(
            **asked, stream_options={"include_usage": True}
        ) as raw:
            assert raw.headers["x-tiercel-tier"] == "student"
            chunks = list(raw.parse())
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "billing"
        assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.prompt_tokens > 0

    def test_the_librarys_own_stream_helper_puts_an_answer_together(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(model=MODEL, messages=ASK) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert "".join(deltas) == final.choices[0].message.content == POEM_ANSWER
        assert len(deltas) > 5

    def test_an_image_reaches_the_frontier_as_it_was_sent(self, client: openai.OpenAI, gateway: Gateway) -> None:
        url = f"data:image/png;base64,{PNG}"
        content: Any = [{"type": "text", "text": PICTURE}, {"type": "image_url", "image_url": {"url": url}}]
        answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
        assert answer.choices[0].message.content == PICTURE_ANSWER
        sent = gateway.provider.last.body["messages"][0]["content"]
        if gateway.kind == "openai":
            assert sent == content
        else:
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            assert sent == [{"type": "text", "text": PICTURE}, {"type": "image", "source": source}]

    def test_fields_that_nobody_knows_reach_the_frontier(self, client: openai.OpenAI, gateway: Gateway) -> None:
        client.chat.completions.create(model=MODEL, messages=ASK, extra_body={"x_vendor": {"depth": [1, None]}})
        assert gateway.provider.last.body["x_vendor"] == {"depth": [1, None]}

    def test_no_key_or_header_of_the_client_reaches_the_frontier(self, client: openai.OpenAI, gateway: Gateway) -> None:
        client.chat.completions.create(model=MODEL, messages=ASK, extra_headers={"x-mine": "yes"})
        sent = gateway.provider.last.headers
        assert not any("tcl-" in value for value in sent.values())
        assert not any(name.startswith(("x-stainless", "x-mine", "user-agent")) for name in sent)


class TestTools:
    def test_calls_come_with_ids_and_arguments_and_results_go_back(self, client: openai.OpenAI) -> None:
        conversation: list[Any] = [{"role": "user", "content": WEATHER}]
        answer = client.chat.completions.create(model=MODEL, messages=conversation, tools=TOOLS)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        calls: list[Any] = choice.message.tool_calls or []
        assert [(c.id, c.type, c.function.name) for c in calls] == [
            ("call_paris", "function", "get_weather"),
            ("call_rome", "function", "get_weather"),
        ]
        assert [json.loads(c.function.arguments) for c in calls] == [PARIS, ROME]
        conversation.append(choice.message.to_dict())
        conversation += [
            {"role": "tool", "tool_call_id": call.id, "content": told}
            for call, told in zip(calls, ("18", "24"), strict=True)
        ]
        answer = client.chat.completions.create(model=MODEL, messages=conversation, tools=TOOLS)
        assert answer.choices[0].message.content == WEATHER_ANSWER

    def test_a_stream_of_calls_is_put_together(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": WEATHER}], "tools": TOOLS}
        with client.chat.completions.stream(**asked) as stream:
            done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
            choice = stream.get_final_completion().choices[0]
        assert [json.loads(event.arguments) for event in done] == [PARIS, ROME]
        assert choice.finish_reason == "tool_calls"
        assert [c.id for c in choice.message.tool_calls or ()] == ["call_paris", "call_rome"]

    def test_a_structured_output_is_parsed(self, client: openai.OpenAI, gateway: Gateway) -> None:
        asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": PERSON}], "response_format": Person}
        answer = client.chat.completions.parse(**asked)
        assert answer.choices[0].message.parsed == Person(**PERSON_ANSWER)
        sent = gateway.provider.last.body
        schema = (
            sent["response_format"]["json_schema"]["schema"]
            if gateway.kind == "openai"
            else sent["output_config"]["format"]["schema"]
        )
        assert schema["required"] == ["name", "born"]
        with client.chat.completions.stream(**asked) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == Person(**PERSON_ANSWER)


class TestResponses:
    def test_an_answer_of_the_student(self, client: openai.OpenAI) -> None:
        raw = client.responses.with_raw_response.create(model=MODEL, instructions=SYSTEM, input=SURE)
        answer = raw.parse()
        assert (answer.output_text, answer.status) == ("billing", "completed")
        assert raw.headers["x-tiercel-tier"] == "student"
        assert answer.usage and answer.usage.input_tokens > 0

    def test_an_answer_of_the_frontier(self, client: openai.OpenAI, gateway: Gateway) -> None:
        answer = client.responses.create(model=MODEL, input=POEM, metadata={"team": "support"})
        assert (answer.output_text, answer.status, answer.object) == (POEM_ANSWER, "completed", "response")
        usage = answer.usage
        assert usage
        assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) == (40, 16, 12)
        assert answer.metadata == {"team": "support"}
        assert answer._request_id == "req_of_the_provider"

    def test_events_come_in_order_and_complete(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model=MODEL, input=POEM, stream=True))
        kinds = [event.type for event in events]
        deltas = kinds.count("response.output_text.delta")
        assert kinds == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * deltas,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == POEM_ANSWER
        last: Any = events[-1]
        assert last.response.output_text == POEM_ANSWER
        assert last.response.usage.total_tokens == 52

    def test_calls_and_their_results(self, client: openai.OpenAI) -> None:
        tools: Any = [{"type": "function", "strict": False, **WEATHER_TOOL}]
        conversation: list[Any] = [{"role": "user", "content": WEATHER}]
        with client.responses.stream(model=MODEL, input=conversation, tools=tools) as stream:
            kinds = [event.type for event in stream]
            answer = stream.get_final_response()
        assert kinds.count("response.function_call_arguments.done") == 2
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(c.call_id, c.name, json.loads(c.arguments)) for c in calls] == [
            ("call_paris", "get_weather", PARIS),
            ("call_rome", "get_weather", ROME),
        ]
        conversation += [item.to_dict() for item in answer.output]
        conversation += [
            {"type": "function_call_output", "call_id": call.call_id, "output": told}
            for call, told in zip(calls, ("18", "24"), strict=True)
        ]
        answer = client.responses.create(model=MODEL, input=conversation, tools=tools)
        assert answer.output_text == WEATHER_ANSWER

    def test_a_structured_output_is_parsed(self, client: openai.OpenAI) -> None:
        answer = client.responses.parse(model=MODEL, input=PERSON, text_format=Person)
        assert answer.output_parsed == Person(**PERSON_ANSWER)

    def test_an_image_passes(self, client: openai.OpenAI, gateway: Gateway) -> None:
        url = f"data:image/png;base64,{PNG}"
        content = [{"type": "input_text", "text": PICTURE}, {"type": "input_image", "image_url": url, "detail": "low"}]
        asked: Any = [{"role": "user", "content": content}]
        assert client.responses.create(model=MODEL, input=asked).output_text == PICTURE_ANSWER
        assert PNG in json.dumps(gateway.provider.last.body)


class TestOtherEndpoints:
    def test_embeddings_are_the_providers(self, client: openai.OpenAI, gateway: Gateway) -> None:
        asked: Any = {"model": "text-embedding-3-small", "input": ["the sea", "the sea", "a parcel"]}
        if gateway.kind == "anthropic":
            with pytest.raises(openai.BadRequestError, match="need a provider that serves /embeddings"):
                client.embeddings.create(**asked)
            return
        found = client.embeddings.create(**asked)
        first, second, third = (item.embedding for item in found.data)
        assert first == second != third
        assert len(first) == 256
        assert found.usage.prompt_tokens > 0
        assert found._request_id == "req_of_the_provider"

    def test_models_are_listed_and_looked_up(self, client: openai.OpenAI) -> None:
        listed = {model.id: model for model in client.models.list()}
        assert {"tiercel/helpdesk", MODEL} <= set(listed)
        assert listed["tiercel/helpdesk"].owned_by == "tiercel"
        assert listed["tiercel/helpdesk"].created > 1_700_000_000
        assert client.models.retrieve("tiercel/helpdesk") == listed["tiercel/helpdesk"]
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("nobody")
        assert caught.value.code == "model_not_found"

    def test_legacy_completions_whole_and_as_a_stream(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model=MODEL, prompt=TEXT)
        assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
            "text_completion",
            TEXT_ANSWER,
            "stop",
        )
        assert answer.usage and answer.usage.prompt_tokens == 40
        chunks = list(
            client.completions.create(model=MODEL, prompt=TEXT, stream=True, stream_options={"include_usage": True})
        )
        assert "".join(c.choices[0].text for c in chunks if c.choices) == TEXT_ANSWER
        assert chunks[-1].usage == answer.usage


ERRORS: list[tuple[str, str, str, type[openai.APIStatusError], int, str | None]] = [
    ("another key", MODEL, UNSURE, openai.AuthenticationError, 401, "invalid_api_key"),
    ("small", MODEL, UNSURE, openai.PermissionDeniedError, 403, "tier_not_allowed"),
    ("any", "tiercel/nobody", UNSURE, openai.NotFoundError, 404, "model_not_found"),
    ("any", MODEL, "never recorded", openai.NotFoundError, 404, None),
    ("poor", MODEL, UNSURE, openai.RateLimitError, 429, "budget_exceeded"),
    ("any", "tiercel/throttled", UNSURE, openai.RateLimitError, 429, None),
    ("any", "tiercel/broken", UNSURE, openai.InternalServerError, 502, "frontier_unreadable"),
    ("local", MODEL, UNSURE, openai.InternalServerError, 503, "local_only"),
]


class TestErrors:
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize(("key", "model", "text", "kind", "status", "code"), ERRORS)
    def test_errors_are_the_librarys_own(
        self,
        client: openai.OpenAI,
        gateway: Gateway,
        key: str,
        model: str,
        text: str,
        kind: type[openai.APIStatusError],
        status: int,
        code: str | None,
        stream: bool,
    ) -> None:
        client = client.with_options(api_key=gateway.keys.get(key, key))
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model=model, messages=messages(text), stream=stream)
        error = caught.value
        assert type(error) is kind
        assert error.status_code == status
        assert error.code == code or code is None
        assert error.type and error.message
        assert text not in error.message
        own = error.response.headers["x-tiercel-id"]
        assert error.request_id == ("req_of_the_provider" if text == "never recorded" else own)
        if status == 429:
            assert float(error.response.headers["retry-after"]) > 0

    def test_a_wrong_request_names_the_field(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model=MODEL, messages=[])
        with pytest.raises(openai.BadRequestError, match="input"):
            client.post("/embeddings", body={"model": MODEL}, cast_to=dict[str, Any])

    @pytest.mark.parametrize(("key", "status"), [("poor", 429), ("local", 503)])
    def test_the_library_does_not_try_again_what_can_not_help(
        self, client: openai.OpenAI, gateway: Gateway, key: str, status: int
    ) -> None:
        asked: list[Any] = []
        client = client.with_options(api_key=gateway.keys[key], max_retries=3)
        client._client.event_hooks["request"].append(asked.append)
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=MODEL, messages=messages(UNSURE))
        assert caught.value.status_code == status
        assert len(asked) == 1

    def test_a_stream_that_breaks_off_is_an_error_after_what_came(self, client: openai.OpenAI) -> None:
        said = ""
        with pytest.raises(openai.APIError, match="half"):
            for chunk in client.chat.completions.create(model="tiercel/half", messages=ASK, stream=True):
                said += chunk.choices[0].delta.content or ""
        assert said and said != POEM_ANSWER and POEM_ANSWER.startswith(said)
        # Of this API the library hands errors on as events.
        events: list[Any] = list(client.responses.create(model="tiercel/half", input=POEM, stream=True))
        error = ResponseErrorEvent.model_validate(events[-1].to_dict())
        assert "half" in error.message
        assert [event.sequence_number for event in events] == list(range(len(events)))

    def test_more_requests_than_a_minute_allows_get_the_time_to_wait(self, gateway: Gateway) -> None:
        with openai.OpenAI(base_url=gateway.url, api_key=gateway.keys["slow"], max_retries=0) as client:

            def ask() -> Any:
                return client.chat.completions.create(model=MODEL, messages=messages(SURE))

            with pytest.raises(openai.RateLimitError) as caught:
                for _ in range(2):
                    ask()
        assert caught.value.code == "rate_limit_exceeded"
        assert 0 < float(caught.value.response.headers["retry-after"]) < 70


class TestAsync:
    def test_many_at_once(self, gateway: Gateway) -> None:
        async def run() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=gateway.url, api_key=gateway.keys["any"], max_retries=0) as client:

                async def whole(text: str) -> str | None:
                    answer = await client.chat.completions.create(model=MODEL, messages=messages(text))
                    return answer.choices[0].message.content

                async def streamed() -> str:
                    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
                    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

                async def parsed() -> Any:
                    answer = await client.responses.parse(model=MODEL, input=PERSON, text_format=Person)
                    return answer.output_parsed

                asked: list[Callable[[], Any]] = [lambda: whole(SURE), lambda: whole(UNSURE), streamed, parsed]
                return await asyncio.gather(*[ask() for _ in range(4) for ask in asked])

        expected = ["billing", "delivery", POEM_ANSWER, Person(**PERSON_ANSWER)]
        assert asyncio.run(run()) == expected * 4
