"""The openai package for Node.js, from a folder that TIERCEL_TEST_NODE_MODULES names.

npm install --prefix ~/.cache/tiercel-node openai@6
TIERCEL_TEST_NODE_MODULES=~/.cache/tiercel-node/node_modules
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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
from tests.gateway.conftest import SURE, UNSURE, messages

SCRIPT = Path(__file__).with_name("openai_client.cjs")
NODE = shutil.which("node")
MODULES = Path(os.environ.get("TIERCEL_TEST_NODE_MODULES", "")).expanduser()

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (MODULES / "openai").is_dir(),
        reason="TIERCEL_TEST_NODE_MODULES names no node_modules folder with the package openai",
    ),
]
Json = dict[str, Any]


@pytest.fixture(scope="session")
def found(gateway: Gateway) -> Json:
    """What the package made of the gateway's answers; one run of Node.js for all."""
    properties = {"name": {"type": "string"}, "born": {"type": "integer"}}
    given = {
        "url": gateway.url,
        "keys": gateway.keys,
        "model": MODEL,
        "tool": WEATHER_TOOL,
        "sure": messages(SURE),
        "unsure": messages(UNSURE),
        "poem": POEM,
        "weather": WEATHER,
        "picture": PICTURE,
        "image": f"data:image/png;base64,{PNG}",
        "person": PERSON,
        "schema": {"type": "object", "properties": properties, "required": ["name", "born"]},
        "text": TEXT,
    }
    done = subprocess.run(
        [str(NODE), str(SCRIPT)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NODE_PATH": str(MODULES)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_student_and_frontier_answer(found: Json) -> None:
    sure, unsure = found["whole"]["sure"], found["whole"]["unsure"]
    assert (sure["choices"][0]["message"]["content"], sure["tier"]) == ("billing", "student")
    assert (unsure["choices"][0]["message"]["content"], unsure["tier"]) == ("delivery", "frontier")
    assert unsure["usage"]["prompt_tokens_details"]["cached_tokens"] == 16
    assert unsure["requestId"] == "req_of_the_provider"
    assert sure["requestId"] in sure["id"]


def test_streams_are_complete(found: Json) -> None:
    poem, sure = found["stream"]["poem"], found["stream"]["sure"]
    assert (poem["text"], poem["ends"], poem["usage"]["total_tokens"]) == (POEM_ANSWER, ["stop"], 52)
    assert (sure["text"], sure["ends"]) == ("billing", ["stop"])
    assert sure["usage"]["prompt_tokens"] > 0


def test_tools_are_called_and_their_results_go_back(found: Json) -> None:
    assert found["helper"] == [["call_paris", "get_weather", PARIS], ["call_rome", "get_weather", ROME]]
    assert found["tools"] == {"answer": WEATHER_ANSWER, "asked": [PARIS, ROME]}


def test_structured_outputs_and_images_pass(found: Json) -> None:
    assert found["structured"] == PERSON_ANSWER
    assert found["image"] == PICTURE_ANSWER


def test_responses_whole_and_as_a_stream(found: Json) -> None:
    answer = found["responses"]
    assert answer["text"] == answer["final"] == POEM_ANSWER
    assert (answer["kinds"][0], answer["kinds"][-1]) == ("response.created", "response.completed")
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 16


def test_embeddings_models_and_completions(found: Json, gateway: Gateway) -> None:
    others = found["others"]
    assert {"tiercel/helpdesk", MODEL} <= set(others["models"])
    assert others["retrieved"]["owned_by"] == "tiercel"
    assert others["completion"] == TEXT_ANSWER
    assert others["embeddings"] == ([256, 256] if gateway.kind == "openai" else "BadRequestError")


@pytest.mark.parametrize(
    ("what", "kind", "status", "code"),
    [
        ("key", "AuthenticationError", 401, "invalid_api_key"),
        ("tier", "PermissionDeniedError", 403, "tier_not_allowed"),
        ("model", "NotFoundError", 404, "model_not_found"),
        ("body", "BadRequestError", 400, None),
        ("budget", "RateLimitError", 429, "budget_exceeded"),
        ("throttled", "RateLimitError", 429, None),
        ("broken", "InternalServerError", 502, "frontier_unreadable"),
        ("local", "InternalServerError", 503, "local_only"),
    ],
)
def test_errors_are_the_librarys_own(found: Json, what: str, kind: str, status: int, code: str | None) -> None:
    error = found["errors"][what]
    assert (error["kind"], error["status"], error["known"]) == (kind, status, True)
    assert error["code"] == code or code is None
    assert error["requestId"] == error["tiercelId"] is not None


def test_the_library_does_not_try_again_what_can_not_help(found: Json) -> None:
    assert found["retries"] == {"poor": 1, "local": 1}
