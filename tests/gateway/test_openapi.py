from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiercel.gateway import fronts
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.sections import Server, Settings, Telemetry

schemathesis = pytest.importorskip("schemathesis")
jsonschema = pytest.importorskip("jsonschema")

OPEN = openapi_document(Settings())
CLOSED = openapi_document(Settings(server=Server(host="0.0.0.0"), telemetry=Telemetry(metrics=False)))
OPERATIONS = [(path, method, op) for path, item in OPEN["paths"].items() for method, op in item.items()]


def everything(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


@pytest.mark.parametrize("document", [OPEN, CLOSED], ids=["open", "closed"])
def test_the_document_is_valid(document: dict[str, Any]) -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    OPENAPI_31_VALIDATOR.validate(document)
    assert msgspec.json.decode(msgspec.json.encode(document)) == document
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("document", [OPEN, CLOSED], ids=["open", "closed"])
def test_every_reference_leads_somewhere_and_everything_is_referred_to(document: dict[str, Any]) -> None:
    references = {part["$ref"] for part in everything(document) if "$ref" in part}
    kinds = ("schemas", "headers", "parameters")
    known = {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}
    assert references == known


def test_schemathesis_loads_every_operation() -> None:
    loaded = schemathesis.openapi.from_dict(OPEN)
    found = {(r.ok().path, r.ok().method.lower()) for r in loaded.get_all_operations()}
    assert found == {(path, method) for path, method, _ in OPERATIONS}


def test_everything_that_the_gateway_serves_is_described() -> None:
    assert set(OPEN["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/feedback",
        "/v1/monitor",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
    assert "/metrics" not in CLOSED["paths"]
    assert len({op["operationId"] for _, _, op in OPERATIONS}) == len(OPERATIONS)


def test_a_key_is_needed_where_the_settings_say_so() -> None:
    assert CLOSED["security"] == [{"bearer": []}, {"apiKey": []}]
    assert {} in OPEN["security"]
    without = {path for path, _, op in OPERATIONS if op.get("security") == []}
    assert without == {"/healthz", "/readyz", "/openapi.json"}


def test_each_api_words_errors_its_own_way() -> None:
    statuses = {"400", "401", "403", "404", "405", "408", "413", "415", "429", "502", "503", "504"}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"):
        responses = OPEN["paths"][path]["post"]["responses"]
        assert statuses <= set(responses)
        name = "AnthropicError" if path.startswith("/v1/messages") else "Error"
        for status in statuses:
            assert responses[status]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{name}")
        assert "Retry-After" in responses["429"]["headers"]
        assert "Allow" in responses["405"]["headers"]


def test_an_answer_names_the_headers_of_routing() -> None:
    post = OPEN["paths"]["/v1/chat/completions"]["post"]
    names = ["tier", "bundle", "confidence", "reason", "cost-usd", "saved-usd", "workload", "id"]
    assert list(post["responses"]["200"]["headers"]) == [f"x-tiercel-{name}" for name in names]
    asked = {p["name"]: p["schema"]["enum"] for p in OPEN["components"]["parameters"].values()}
    assert asked == {"x-tiercel-tier": ["auto", "student", "frontier"], "x-tiercel-capture": ["on", "off"]}


def test_bodies_are_open_and_streams_are_described() -> None:
    for name, schema in OPEN["components"]["schemas"].items():
        assert schema["additionalProperties"] is True, name
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        assert "text/event-stream" in OPEN["paths"][path]["post"]["responses"]["200"]["content"]


CHAT = schemathesis.openapi.from_dict(OPEN)["/v1/chat/completions"]["POST"]


@given(case=CHAT.as_strategy())
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_chat_that_fits_the_document_is_read(case: Any) -> None:
    fronts.CHAT.read(msgspec.json.encode(case.body), 500)


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("ChatCompletionRequest", {"messages": [{"role": "user", "content": "hello"}], "model": "m", "x_own": [1]}),
    ("ChatCompletionRequest", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "n": None}),
    ("CompletionRequest", {"prompt": ["a", "b"], "model": "m"}),
    ("CompletionRequest", {"prompt": [1, 2], "model": "m"}),
    ("EmbeddingRequest", {"input": "a", "model": "m"}),
    ("ResponseRequest", {"input": [{"role": "user", "content": "a"}], "model": "m"}),
    ("MessageRequest", {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}),
    ("CountTokensRequest", {"model": "m", "messages": [{"role": "user", "content": "a"}]}),
    ("FeedbackRequest", {"id": "x", "score": 0.5}),
    ("FeedbackRequest", {"id": "x", "reference": "refund"}),
]


@pytest.mark.parametrize(("name", "body"), BODIES)
def test_a_right_body_fits_and_one_without_its_first_field_does_not(name: str, body: dict[str, Any]) -> None:
    schema = OPEN["components"]["schemas"][name]
    jsonschema.validate(body, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({k: v for k, v in body.items() if k != next(iter(body))}, schema)


def test_a_feedback_that_says_nothing_does_not_fit() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"id": "x"}, OPEN["components"]["schemas"]["FeedbackRequest"])


@given(st.floats(0.1, 100), st.integers(8, 500))
def test_the_limits_of_a_body_are_told(size: float, depth: int) -> None:
    document = openapi_document(Settings(server=Server(max_body_mb=size, max_depth=depth)))
    about = document["paths"]["/v1/messages"]["post"]["requestBody"]["description"]
    assert re.search(rf"At most {re.escape(f'{size:g}')} MB, nested at most {depth} levels", about)
