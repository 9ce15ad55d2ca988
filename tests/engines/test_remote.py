"""What is special to an engine by URL; the server's faults are played by a small server, the rest is llama.cpp's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.engines.conftest import CONTEXT, Serving, asked
from tests.engines.tiny_llama import TOOLS
from tests.ports import free_port
from tiercel.engines._dialects import DIALECTS
from tiercel.engines._llama_server import REFUSED, TOO_LONG, llama_error
from tiercel.engines.protocol import Engine
from tiercel.engines.remote import RemoteEngine
from tiercel.errors import ConfigurationError, ContextOverflowError, EngineError, ProviderError, TiercelError

KEY = "sk-0123456789"
ANSWER: dict[str, Any] = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


class Scripted:
    """A server that lists one model and answers each path with what the test says."""

    def __init__(self) -> None:
        self.owner = "someone"
        self.answers: dict[str, tuple[int, Any]] = {"/v1/chat/completions": (200, ANSWER)}
        self.bodies: list[dict[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else {}
                if self.path == "/v1/chat/completions":
                    scripted.bodies.append(body)
                models = {"data": [{"id": "m", "owned_by": scripted.owner}]}
                status, found = scripted.answers.get(
                    self.path, (200, models) if self.path == "/v1/models" else (404, {})
                )
                raw = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header(
                    "Content-Type", "text/event-stream" if isinstance(found, bytes) else "application/json"
                )
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def engine_of(scripted: Scripted) -> Iterator[Callable[..., RemoteEngine]]:
    made: list[RemoteEngine] = []

    def engine(**more: Any) -> RemoteEngine:
        made.append(RemoteEngine(scripted.url, **{"context": 512, "api_key": KEY, "timeout_s": 10, **more}))
        return made[-1]

    yield engine
    for one in made:
        one.close()


def test_llama_cpps_server_says_what_it_is(remote: RemoteEngine) -> None:
    assert remote.name.startswith("llama.cpp's server with tiny.gguf at 127.0.0.1:")
    assert remote.context == CONTEXT
    assert isinstance(remote, Engine)


def test_an_estimate_is_marked(engine_of: Callable[..., RemoteEngine]) -> None:
    engine = engine_of()
    assert not engine.counts_exactly
    assert engine.count_tokens(asked("three plain words").messages) == 4 + 3
    with pytest.raises(ContextOverflowError, match="about"):
        engine.generate(asked("word " * 600))
    with pytest.raises(ConfigurationError, match="does not show its rendered prompts"):
        engine.render(asked().messages)
    with pytest.raises(ConfigurationError, match="does not show its tokens"):
        engine.tokenize("a")


def test_an_answer_without_counts_is_estimated_and_marked(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine]
) -> None:
    scripted.answers["/v1/chat/completions"] = (200, {"choices": ANSWER["choices"]})
    found = engine_of().generate(asked("three plain words"))
    assert (found.estimated, found.input_tokens, found.output_tokens) == (True, 7, 1)


@pytest.mark.parametrize(
    ("owner", "dialect"), [("vllm", "vLLM"), ("sglang", "SGLang"), ("library", "Ollama"), ("someone", "the server")]
)
def test_the_server_is_known_by_its_list(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine], owner: str, dialect: str
) -> None:
    scripted.owner = owner
    assert engine_of().name.startswith(dialect + " with m at")


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("vllm", {"structured_outputs": {"grammar": "root ::= [a]"}}),
        ("sglang", {"ebnf": "root ::= [a]"}),
    ],
)
def test_a_grammar_goes_by_each_servers_field(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine], dialect: str, fields: dict[str, Any]
) -> None:
    scripted.answers["/version"] = (200, {"version": "0.32.0"})
    scripted.answers["/tokenize"] = (200, {"tokens": [1, 2, 3]})
    engine_of(dialect=dialect).generate(asked(grammar="root ::= [a]"))
    assert fields.items() <= scripted.bodies[-1].items()
    scripted.answers["/version"] = (200, {"version": "0.10.2"})
    if dialect == "vllm":
        engine_of(dialect=dialect).generate(asked(grammar="root ::= [a]"))
        assert scripted.bodies[-1]["guided_grammar"] == "root ::= [a]"


def test_what_a_server_can_not_do_is_refused_before_it_is_sent(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine]
) -> None:
    engine = engine_of()
    for fields, says in (({"grammar": "root ::= [a]"}, "takes no grammar"), ({"adapter": "x"}, "takes no adapter")):
        with pytest.raises(ConfigurationError, match=says):
            engine.generate(asked(**fields))
    assert scripted.bodies == []


def test_a_schema_goes_by_the_response_format(scripted: Scripted, engine_of: Callable[..., RemoteEngine]) -> None:
    engine = engine_of()
    with pytest.raises(EngineError, match="no JSON although the request has a schema"):
        engine.generate(asked(schema={"type": "object"}))
    sent = scripted.bodies[-1]["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", {"type": "object"})


def test_a_server_that_ignores_the_tool_choice_is_told_of(engine_of: Callable[..., RemoteEngine]) -> None:
    with pytest.raises(EngineError, match="without the tool call"):
        engine_of().generate(asked(tools=TOOLS, tool_choice="required"))


def test_a_prompt_that_a_server_cut_is_told_of(scripted: Scripted, engine_of: Callable[..., RemoteEngine]) -> None:
    cut = {"choices": [{"message": {"content": "ye"}, "finish_reason": "length"}], "usage": ANSWER["usage"]}
    scripted.answers["/v1/chat/completions"] = (200, cut)
    with pytest.raises(ContextOverflowError):
        engine_of().generate(asked(max_tokens=20))


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "This model's maximum context length is 512 tokens"}, ContextOverflowError),
        (400, {"message": "too long", "type": TOO_LONG}, ContextOverflowError),
        (422, {"message": "temperature must be a number"}, ConfigurationError),
        (401, {"message": f"wrong key {KEY}"}, ProviderError),
        (429, {"message": "slow down"}, ProviderError),
        (500, {"message": "out of memory"}, ProviderError),
    ],
)
def test_every_refusal_is_one_of_our_errors(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine], status: int, error: dict[str, str], kind: type
) -> None:
    scripted.answers["/v1/chat/completions"] = (status, {"error": error})
    engine = engine_of()
    with pytest.raises(kind) as caught:
        engine.generate(asked())
    with pytest.raises(kind):
        list(engine.stream(asked()))
    assert KEY not in str(caught.value)
    assert "frontier" not in str(caught.value)
    assert getattr(caught.value, "status", status) == status


def test_an_error_in_a_stream_and_what_is_no_json_are_told_of(
    scripted: Scripted, engine_of: Callable[..., RemoteEngine]
) -> None:
    for raw, says in (
        (b'data: {"error": {"message": "gone"}}\n\n', "gone"),
        (b"data: {oops\n\n", "no JSON"),
        (b'data: {"choices": 3}\n\n', "no chunk"),
    ):
        scripted.answers["/v1/chat/completions"] = (200, raw)
        with pytest.raises(EngineError, match=says):
            list(engine_of().stream(asked()))


def test_an_answer_that_is_none_is_told_of(scripted: Scripted, engine_of: Callable[..., RemoteEngine]) -> None:
    scripted.answers["/v1/chat/completions"] = (200, {"choices": []})
    with pytest.raises(EngineError, match="no chat completion"):
        engine_of().generate(asked())


def test_nobody_there_is_a_providers_error() -> None:
    with pytest.raises(ProviderError, match="can't be reached"):
        RemoteEngine(f"http://127.0.0.1:{free_port()}/v1", context=512)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dialect": "klingon"}, "dialect 'klingon' is none"),
        ({"slots": 0}, "slots is 0"),
        ({"context": None}, "does not say how long its context is; give context"),
        ({"timeout_s": -1}, "the engine's timeout"),
    ],
)
def test_an_argument_that_can_not_be_is_refused(
    engine_of: Callable[..., RemoteEngine], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        engine_of(**fields)


def test_a_closed_engine_says_so(serving: Serving) -> None:
    engine = RemoteEngine(serving.url)
    stream = engine.stream(asked(max_tokens=900))
    engine.close()
    engine.close()
    assert list(stream) == []
    with pytest.raises(EngineError, match="was closed"):
        engine.generate(asked())


@pytest.mark.parametrize(
    "kind", [*REFUSED, TOO_LONG, "server_error", "unavailable_error", "not_found_error", "new_one"]
)
def test_every_error_of_llama_cpp_is_mapped(kind: str) -> None:
    error = llama_error({"type": kind, "message": "so it is", "n_ctx": 8, "n_prompt_tokens": 9}, max_tokens=2)
    assert isinstance(error, TiercelError)
    expected = ContextOverflowError if kind == TOO_LONG else ConfigurationError if kind in REFUSED else EngineError
    assert type(error) is expected


def test_every_dialect_is_sorted_and_named() -> None:
    assert list(DIALECTS) == sorted(DIALECTS)
    assert len({d.title for d in DIALECTS.values()}) == len(DIALECTS)
