"""What the gateway serves, as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tiercel._version import __version__
from tiercel.gateway._openapi_bodies import ANSWERS, REQUESTS, error_schemas
from tiercel.gateway.sections import Settings

__all__ = ["openapi_document"]

Json = dict[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"


class _Call(Struct, frozen=True, kw_only=True):
    """One endpoint that answers a request body."""

    summary: str
    request: str
    """Schema of the body."""
    answer: str
    """Schema of the answer."""
    error: str = "Error"
    """Schema of an error."""
    stream: bool = False
    """Whether the answer may come as events."""
    routed: bool = True
    """Whether tiers answer it, so that the headers of routing mean something."""


_CALLS = {
    "/v1/chat/completions": _Call(
        summary="Answer a chat", request="ChatCompletionRequest", answer="ChatCompletion", stream=True
    ),
    "/v1/completions": _Call(summary="Complete a text", request="CompletionRequest", answer="Completion", stream=True),
    "/v1/embeddings": _Call(summary="Embed texts", request="EmbeddingRequest", answer="EmbeddingList"),
    "/v1/responses": _Call(
        summary="Answer with OpenAI's Responses API", request="ResponseRequest", answer="Response", stream=True
    ),
    "/v1/messages": _Call(
        summary="Answer with Anthropic's Messages API",
        request="MessageRequest",
        answer="Message",
        error="AnthropicError",
        stream=True,
    ),
    "/v1/messages/count_tokens": _Call(
        summary="Count a request's tokens",
        request="CountTokensRequest",
        answer="TokenCount",
        error="AnthropicError",
        routed=False,
    ),
}

_ERRORS = {
    "400": "The body is no JSON, is nested too deep, lacks a field, or is longer than its workload allows.",
    "401": "The key is missing, unknown or expired.",
    "403": "The key is not for this workload, tier, answer or page; or a page of another site asks without one.",
    "404": "No such path, model or workload.",
    "405": "The path knows other methods; `Allow` lists them.",
    "408": "The body did not arrive in time.",
    "413": "The body is larger than `max_body_mb`.",
    "415": "The body is not announced as JSON, or is compressed.",
    "429": "A limit or a budget is reached, here or at the provider; `Retry-After` says how long.",
    "4XX": "The provider refused the request; its own status and words are passed on.",
    "500": "The gateway failed.",
    "502": "No provider gave an answer that can be read.",
    "503": "No provider is configured or well, too many wait for a student, or the gateway is stopping.",
    "504": "No answer came in time.",
}
_SMALL = ("400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "503")
"""Errors of an endpoint that asks no provider."""


def openapi_document(settings: Settings) -> Json:
    """The OpenAPI 3.1 document of a gateway.

    Args:
        settings: of it; they say whether requests need a key, and what is served beside the APIs.
    """
    needs_key = settings.server.needs_keys
    paths: Json = {path: {"post": _post(path, call, settings)} for path, call in _CALLS.items()}
    paths["/v1/models"] = {"get": _models()}
    paths["/v1/models/{model}"] = {"get": _model()}
    paths["/v1/feedback"] = {"post": _feedback(settings)}
    paths["/v1/monitor"] = {"get": _monitor()}
    paths["/healthz"] = {"get": _state("Whether the process is up", "health")}
    paths["/readyz"] = {"get": _state("Whether requests may be sent here; 503 while it starts and stops", "ready")}
    if settings.telemetry.metrics:
        paths["/metrics"] = {"get": _metrics()}
    paths["/openapi.json"] = {"get": _document()}
    keys: list[Json] = [{"bearer": []}, {"apiKey": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tiercel",
            "version": __version__,
            "summary": "Requests answered by small models where that is certified, and by the frontier elsewhere.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": keys if needs_key else [{}, *keys],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A virtual key of this gateway."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
            },
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "schemas": {**REQUESTS, **ANSWERS, **error_schemas()},
        },
    }


_PARAMETERS: Json = {
    "Tier": {
        "name": "x-tiercel-tier",
        "in": "header",
        "description": "Who has to answer; auto leaves it to the gate.",
        "schema": {"type": "string", "enum": ["auto", "student", "frontier"], "default": "auto"},
    },
    "Capture": {
        "name": "x-tiercel-capture",
        "in": "header",
        "description": "off keeps the text of this request and its answer out of the store.",
        "schema": {"type": "string", "enum": ["on", "off"], "default": "on"},
    },
}


def _header(about: str, kind: str = "string", **more: Any) -> Json:
    return {"description": about, "schema": {"type": kind, **more}}


_HEADERS: Json = {
    "tier": _header("Who answered.", enum=["cache", "student", "frontier", "none"]),
    "bundle": _header("Version of the workload's bundle: the first 16 digits of its manifest's SHA-256."),
    "confidence": _header("The gate's score of the student's answer.", "number", minimum=0, maximum=1),
    "reason": _header("Why that tier answered, such as accepted, unsure or another workload."),
    "cost-usd": _header("What the answer cost; left out of a stream, which begins before that is known.", "number"),
    "saved-usd": _header("What the frontier would have cost beyond that.", "number"),
    "workload": _header("Name of the workload that was recognised."),
    "id": _header("Of this answer in the ledger; feedback refers to it."),
    "retry-after": _header("Seconds to wait before another try.", "integer", minimum=0),
    "allow": _header("Methods that the path knows."),
}
_OF_ANSWERS = ("tier", "bundle", "confidence", "reason", "cost-usd", "saved-usd", "workload", "id")


def _headers_of(names: tuple[str, ...]) -> Json:
    plain = ("retry-after", "allow")
    return {
        (name.title() if name in plain else f"x-tiercel-{name}"): {"$ref": f"#/components/headers/{name}"}
        for name in names
    }


def _schema(name: str) -> Json:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _error(status: str, schema: str) -> Json:
    response: Json = {"description": _ERRORS[status], "content": {JSON: _schema(schema)}}
    if status in ("429", "503"):
        response["headers"] = _headers_of(("retry-after",))
    elif status == "405":
        response["headers"] = _headers_of(("allow",))
    return response


def _post(path: str, call: _Call, settings: Settings) -> Json:
    content: Json = {JSON: _schema(call.answer)}
    if call.stream:
        content[EVENTS] = {"schema": {"description": "Events as the API words them."}}
    answer: Json = {"description": "The answer.", "content": content}
    operation: Json = {
        "summary": call.summary,
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "requestBody": _body(call.request, settings),
        "responses": {"200": answer, **{status: _error(status, call.error) for status in _ERRORS}},
    }
    if call.routed:
        answer["headers"] = _headers_of(_OF_ANSWERS)
        operation["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    return operation


def _body(schema: str, settings: Settings) -> Json:
    about = f"At most {settings.server.max_body_mb:g} MB, nested at most {settings.server.max_depth} levels deep."
    return {"required": True, "description": about, "content": {JSON: _schema(schema)}}


def _feedback(settings: Settings) -> Json:
    known = {"404": "No such answer.", "409": "That answer was judged already."}
    responses: Json = {"202": {"description": "Recorded.", "content": {JSON: _schema("Feedback")}}}
    responses |= {status: _error(status, "Error") for status in _SMALL}
    responses |= {status: {"description": text, "content": {JSON: _schema("Error")}} for status, text in known.items()}
    return {
        "summary": "Judge an answer, or give the right one",
        "operationId": "feedback",
        "requestBody": _body("FeedbackRequest", settings),
        "responses": responses,
    }


def _models() -> Json:
    return {
        "summary": "List workloads and models",
        "operationId": "models",
        "responses": {
            "200": {"description": "The list.", "content": {JSON: _schema("ModelList")}},
            **{status: _error(status, "Error") for status in ("401", "403", "405", "500")},
        },
    }


def _monitor() -> Json:
    return {
        "summary": "How the workloads stand whose answers are audited",
        "operationId": "monitor",
        "responses": {
            "200": {"description": "The list.", "content": {JSON: _schema("MonitorList")}},
            **{status: _error(status, "Error") for status in ("401", "403", "405", "429", "500", "503")},
        },
    }


def _model() -> Json:
    name = {"name": "model", "in": "path", "required": True, "description": "Its id.", "schema": {"type": "string"}}
    return {
        "summary": "Look one model up",
        "operationId": "model",
        "parameters": [name],
        "responses": {
            "200": {"description": "The model.", "content": {JSON: _schema("Model")}},
            **{status: _error(status, "Error") for status in ("401", "404", "405", "429", "500", "503")},
        },
    }


def _state(summary: str, name: str) -> Json:
    content = {JSON: _schema("Health")}
    return {
        "summary": summary,
        "operationId": name,
        "security": [],
        "responses": {
            "200": {"description": "Yes.", "content": content},
            "405": _error("405", "Error"),
            "503": {"description": "Not now.", "content": content},
        },
    }


def _metrics() -> Json:
    return {
        "summary": "Metrics in Prometheus' text form",
        "operationId": "metrics",
        "responses": {
            "200": {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **{status: _error(status, "Error") for status in ("401", "403", "405")},
        },
    }


def _document() -> Json:
    return {
        "summary": "This document",
        "operationId": "openapi",
        "security": [],
        "responses": {
            "200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}},
            "405": _error("405", "Error"),
        },
    }
