"""What llama.cpp's server offers beside OpenAI's API, in process or by URL: its template, its tokenizer, its slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tiercel.engines.json_grammar import schema_grammar
from tiercel.engines.openai_form import messages_json, request_json
from tiercel.engines.protocol import GenerationRequest
from tiercel.engines.tool_form import ToolForm
from tiercel.errors import ConfigurationError, ContextOverflowError, EngineError, TiercelError
from tiercel.types import Message

__all__ = ["LlamaServer", "llama_body", "llama_error"]

Json = dict[str, Any]
Ask = Callable[[str, str, Json | None], Json]

REFUSED = ("invalid_request_error", "not_supported_error")
"""Types of llama.cpp's errors that speak of the request; the context's own is apart, the others speak of the server."""
TOO_LONG = "exceed_context_size_error"


def llama_body(request: GenerationRequest, form: ToolForm | None, adapters: Sequence[str]) -> Json:
    """A chat completion as llama.cpp's server takes it.

    Args:
        request: what is asked.
        form: of a call that has to come.
        adapters: names of the LoRA adapters in the order of their ids.

    Raises:
        ConfigurationError: the schema can't be held by a grammar, or no adapter has the name.
    """
    # The cuts that llama.cpp makes by itself are off, so that a draw is from the whole distribution.
    body = request_json(request) | {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
    if request.logprobs is not None:
        body["top_logprobs"] = max(1, request.logprobs)
    if form is not None:
        body["grammar"] = form.grammar(request.callable_tools)
    elif request.schema is not None:
        body["grammar"] = schema_grammar(request.schema)
    elif request.grammar is not None:
        body["grammar"] = request.grammar
    if "grammar" in body and request.tools:
        # The tools still stand in the prompt; llama.cpp takes no grammar beside its own for them.
        body["tool_choice"] = "none"
    if request.adapter is not None and request.adapter not in adapters:
        known = ", ".join(sorted(adapters)) or "none"
        raise ConfigurationError(f"the engine has no adapter {request.adapter!r}; it was started with: {known}")
    if adapters:
        body["lora"] = [{"id": i, "scale": float(name == request.adapter)} for i, name in enumerate(adapters)]
    return body


def llama_error(error: Json, *, max_tokens: int = 1) -> TiercelError:
    """Our error for one that llama.cpp's server reports."""
    kind, message = str(error.get("type")), str(error.get("message") or "no reason given").strip()
    if kind == TOO_LONG:
        return ContextOverflowError(
            input_tokens=error.get("n_prompt_tokens"), max_tokens=max_tokens, context=int(error.get("n_ctx") or 0)
        )
    if kind in REFUSED:
        return ConfigurationError(f"llama.cpp refused the request: {message}; change the request")
    return EngineError(f"llama.cpp failed: {message}")


class LlamaServer:
    """The calls that are the same in process and by URL.

    Args:
        ask: method, path and body to the decoded answer; raises one of our errors for any but a good one.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def props(self) -> Json:
        """What the server says of its model."""
        return self._ask("GET", "/props", None)

    def context(self) -> int:
        """Tokens that one slot holds."""
        return int(self.props()["default_generation_settings"]["n_ctx"])

    def render(self, messages: Sequence[Message], tools: list[Json] | None) -> str:
        """The prompt by the chat template; llama.cpp takes the first BOS away where its tokenizer adds one."""
        return self._ask("POST", "/apply-template", _asked(messages, tools))["prompt"]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, as the server makes them before it reads one."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return self._ask("POST", "/tokenize", body)["tokens"]

    def count(self, messages: Sequence[Message], tools: list[Json] | None) -> int:
        """Tokens of the rendered prompt."""
        return int(self._ask("POST", "/v1/chat/completions/input_tokens", _asked(messages, tools))["input_tokens"])

    def busy(self) -> int:
        """Slots that are at work."""
        slots: Any = self._ask("GET", "/slots", None)
        return sum(bool(slot["is_processing"]) for slot in slots)

    def adapters(self) -> list[str]:
        """Paths of the LoRA adapters, in the order of their ids."""
        found: Any = self._ask("GET", "/lora-adapters", None)
        return [str(one["path"]) for one in sorted(found, key=lambda one: one["id"])]


def _asked(messages: Sequence[Message], tools: list[Json] | None) -> Json:
    body: Json = {"messages": messages_json(messages)}
    return body | {"tools": tools} if tools else body
