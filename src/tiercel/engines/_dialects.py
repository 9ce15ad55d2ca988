"""How the servers that speak OpenAI's API differ: which one it is, its extension fields, its tokenizer.

Each dialect turns a request into the body its server wants, and knows the calls beside the API that its server has.
Where a server has no call for a thing, the dialect returns None and the engine estimates or says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tiercel.engines._llama_server import LlamaServer, llama_body
from tiercel.engines.openai_form import messages_json, request_json
from tiercel.engines.protocol import GenerationRequest
from tiercel.engines.tool_form import ToolForm, find_tool_form
from tiercel.errors import ConfigurationError
from tiercel.types import Message

__all__ = ["DIALECTS", "Dialect", "Llama", "Ollama", "Sglang", "Tgi", "Vllm"]

Json = dict[str, Any]
Ask = Callable[[str, str, Json | None], Json]


class Dialect:
    """Plain OpenAI: nothing beside the API.

    Args:
        ask: method, path below the server's root, and body, to the decoded answer.
        model: its name.
        listed: the model's entry in /v1/models.
    """

    title = "the server"

    def __init__(self, ask: Ask, model: str, listed: Json) -> None:
        self.ask = ask
        self.model = model
        self.listed = listed

    def context(self) -> int | None:
        """Tokens of a request and its answer; None where the server does not say."""
        found = self.listed.get("max_model_len")
        return int(found) if found else None

    def body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        """The request as the server wants it."""
        body = request_json(request) | {"model": self.adapted(request)}
        if request.schema is not None:
            body["response_format"] = self.response_format(request.schema)
        if request.grammar is not None:
            body |= self.grammar(request.grammar)
        return body

    def response_format(self, schema: Json) -> Json:
        """The field that holds an answer to a schema."""
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}

    def grammar(self, grammar: str) -> Json:
        """The fields that hold an answer to a grammar."""
        raise ConfigurationError(f"{self.title} takes no grammar; give a schema, or serve with llama.cpp or vLLM")

    def adapted(self, request: GenerationRequest) -> str:
        """The model's name for a request that may name an adapter."""
        if request.adapter is not None:
            raise ConfigurationError(
                f"{self.title} takes no adapter by request; serve the adapter as a model of its own"
            )
        return self.model

    def form(self) -> ToolForm | None:
        """The form of a tool call where only a grammar forces one."""
        return None

    def ids(self, messages: Sequence[Message], tools: list[Json] | None) -> list[int] | None:
        """Token ids of the rendered prompt."""
        return None

    def count(self, messages: Sequence[Message], tools: list[Json] | None) -> int | None:
        """Tokens of the rendered prompt."""
        found = self.ids(messages, tools)
        return None if found is None else len(found)

    def render(self, messages: Sequence[Message], tools: list[Json] | None) -> str | None:
        """The rendered prompt."""
        return None

    def tokenize(self, text: str) -> list[int] | None:
        """Token ids of a rendered prompt."""
        return None


class Llama(Dialect):
    """llama.cpp's server."""

    title = "llama.cpp's server"

    def __init__(self, ask: Ask, model: str, listed: Json) -> None:
        super().__init__(ask, model, listed)
        self._api = LlamaServer(ask)
        self._form: ToolForm | None = None
        self._adapters: tuple[str, ...] | None = None

    def context(self) -> int:
        """Tokens that one slot holds."""
        return self._api.context()

    def body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        """The request with a grammar in the place of schemas and forced calls; adapters go by their file's name."""
        if self._adapters is None:
            self._adapters = tuple(_stem(path) for path in self._api.adapters())
        return llama_body(request, form, self._adapters) | {"model": self.model}

    def form(self) -> ToolForm:
        """The form of a tool call by the model's chat template."""
        if self._form is None:
            self._form = find_tool_form(self._api.render)
        return self._form

    def count(self, messages: Sequence[Message], tools: list[Json] | None) -> int:
        """Tokens of the rendered prompt."""
        return self._api.count(messages, tools)

    def render(self, messages: Sequence[Message], tools: list[Json] | None) -> str:
        """The rendered prompt."""
        return self._api.render(messages, tools)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt."""
        return self._api.tokenize(text)


class Vllm(Dialect):
    """vLLM."""

    title = "vLLM"

    def body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        """Without the cuts of the model's generation_config, and with token ids where logprobs are asked for."""
        body = super().body(request, form) | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        return body | {"return_tokens_as_token_ids": True} if request.logprobs is not None else body

    def grammar(self, grammar: str) -> Json:
        """The field of this version: vLLM renamed it in 0.11 and ignores the one it does not know."""
        version = str(self.ask("GET", "/version", None).get("version", ""))
        numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]]
        return {"guided_grammar": grammar} if numbers < [0, 11] else {"structured_outputs": {"grammar": grammar}}

    def adapted(self, request: GenerationRequest) -> str:
        """VLLM lists adapters as models."""
        return request.adapter or self.model

    def ids(self, messages: Sequence[Message], tools: list[Json] | None) -> list[int]:
        """Token ids of the rendered prompt."""
        body: Json = {"model": self.model, "messages": messages_json(messages)}
        return self.ask("POST", "/tokenize", body | {"tools": tools} if tools else body)["tokens"]

    def render(self, messages: Sequence[Message], tools: list[Json] | None) -> str:
        """The text of the prompt's tokens."""
        return self.ask("POST", "/detokenize", {"model": self.model, "tokens": self.ids(messages, tools)})["prompt"]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, which has its BOS already."""
        return self.ask("POST", "/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False})[
            "tokens"
        ]


class Sglang(Dialect):
    """SGLang."""

    title = "SGLang"

    def body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        """Without the cuts of the model's generation_config."""
        return super().body(request, form) | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

    def grammar(self, grammar: str) -> Json:
        """SGLang's field for EBNF in the form of GBNF."""
        return {"ebnf": grammar}

    def adapted(self, request: GenerationRequest) -> str:
        """SGLang takes an adapter after the model's name."""
        return f"{self.model}:{request.adapter}" if request.adapter else self.model


class Tgi(Dialect):
    """Text Generation Inference."""

    title = "TGI"

    def context(self) -> int | None:
        """Tokens of a request and its answer."""
        found = self.ask("GET", "/info", None).get("max_total_tokens")
        return int(found) if found else None

    def response_format(self, schema: Json) -> Json:
        """TGI's own form."""
        return {"type": "json_object", "value": schema}

    def adapted(self, request: GenerationRequest) -> str:
        """TGI takes an adapter's id as the model."""
        return request.adapter or self.model

    def _templated(self, messages: Sequence[Message], tools: list[Json] | None) -> Json:
        body: Json = {"model": self.model, "messages": messages_json(messages)}
        return self.ask("POST", "/chat_tokenize", body | {"tools": tools} if tools else body)

    def ids(self, messages: Sequence[Message], tools: list[Json] | None) -> list[int]:
        """Token ids of the rendered prompt."""
        return [one["id"] for one in self._templated(messages, tools)["tokenize_response"]]

    def render(self, messages: Sequence[Message], tools: list[Json] | None) -> str:
        """The rendered prompt."""
        return self._templated(messages, tools)["templated_text"]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        found: Any = self.ask("POST", "/tokenize", {"inputs": text})
        return [one["id"] for one in found]


class Ollama(Dialect):
    """Ollama: it cuts a prompt that is too long without a word, so that its context has to be given."""

    title = "Ollama"


DIALECTS: dict[str, type[Dialect]] = {
    "llama.cpp": Llama,
    "ollama": Ollama,
    "openai": Dialect,
    "sglang": Sglang,
    "tgi": Tgi,
    "vllm": Vllm,
}


def _stem(path: str) -> str:
    name = path.replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".gguf")
