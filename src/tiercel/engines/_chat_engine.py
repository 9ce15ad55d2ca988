"""What all engines that speak OpenAI's form share: the check of the length, forced tool calls, many at once."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from tiercel.engines._relay import DeltaRelay, Relay
from tiercel.engines.openai_form import chunk_delta, read_answer
from tiercel.engines.protocol import Delta, DeltaStream, Generated, GenerationRequest, Token, ToolCallPiece
from tiercel.engines.tool_form import ToolForm
from tiercel.errors import BrokenAnswerError, ContextOverflowError, EngineError, TiercelError
from tiercel.providers.tokens import estimate_tokens
from tiercel.types import Answer, Message

__all__ = ["ChatEngine"]

Json = dict[str, Any]


class ChatEngine(ABC):
    """An engine whose requests and answers are OpenAI's; subclasses say how they are sent."""

    name: str
    context: int
    slots: int
    counts_exactly: bool = True

    @abstractmethod
    def _body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        """The request as this engine wants it."""

    @abstractmethod
    def _complete(self, body: Json) -> Json:
        """The whole answer."""

    @abstractmethod
    def _open(self, body: Json) -> Relay[Json]:
        """The chunks of an answer."""

    @abstractmethod
    def count_tokens(self, messages: Sequence[Message], tools: list[Json] | None = None) -> int:
        """Tokens that the request takes with the chat template around it."""

    def _form(self, request: GenerationRequest) -> ToolForm | None:
        """The form of a call that a grammar has to force; None where the engine forces calls by itself."""
        return None

    def generate(self, request: GenerationRequest) -> Generated:
        """The whole answer; see `Engine.generate` for errors."""
        self._check_length(request)
        form = self._form(request)
        return self._kept(read_answer(self._complete(self._body(request, form)), request), request, form)

    def generate_many(self, requests: Sequence[GenerationRequest]) -> list[Generated | TiercelError]:
        """Answers in the order of the requests, `slots` at a time; a request that fails leaves its error."""

        def one(request: GenerationRequest) -> Generated | TiercelError:
            try:
                return self.generate(request)
            except TiercelError as error:
                return error

        with ThreadPoolExecutor(max(1, self.slots), thread_name_prefix="tiercel-generate") as pool:
            return list(pool.map(one, requests))

    def stream(self, request: GenerationRequest) -> DeltaStream:
        """The answer in pieces as it is made; a forced tool call comes whole, in the last piece."""
        self._check_length(request)
        form = self._form(request)
        body = self._body(request, form) | {"stream": True, "stream_options": {"include_usage": True}}
        chunks = self._open(body)
        if form is not None:
            return _CallStream(chunks, request, form).relay
        return DeltaRelay(chunks, lambda chunk: chunk_delta(chunk, request))

    def _check_length(self, request: GenerationRequest) -> None:
        inputs = self.count_tokens(request.messages, request.tools)
        if inputs + request.max_tokens > self.context:
            raise ContextOverflowError(
                input_tokens=inputs, max_tokens=request.max_tokens, context=self.context, about=not self.counts_exactly
            )

    def _kept(self, found: Generated, request: GenerationRequest, form: ToolForm | None) -> Generated:
        """The answer, once it is known to keep to what the request asked for."""
        if form is not None:
            found = _called(found, form)
        if found.estimated:
            found = self._estimated(found, request)
        if found.finish_reason == "length":
            if not found.estimated and found.output_tokens < request.max_tokens:
                raise ContextOverflowError(
                    input_tokens=found.input_tokens, max_tokens=request.max_tokens, context=self.context
                )
        elif request.must_call and not found.answer.tool_calls:
            raise EngineError(f"{self.name} answered without the tool call that tool_choice asks for")
        elif request.must_call and not all(_is_object(c.function.arguments) for c in found.answer.tool_calls):
            raise EngineError(f"{self.name} called a tool with arguments that are no JSON object")
        elif request.schema is not None and not found.answer.tool_calls and not _is_json(found.answer.text):
            raise BrokenAnswerError(f"{self.name} answered with what is no JSON although the request has a schema")
        elif request.schema is not None and _is_broken(found, request):
            # Bytes that are no UTF-8 pass a grammar as one character and are then counted as several.
            raise BrokenAnswerError(
                f"the model of {self.name} wrote bytes that are no text, so that its schema may not hold"
            )
        return found

    def _estimated(self, found: Generated, request: GenerationRequest) -> Generated:
        calls = "".join(call.function.name + call.function.arguments for call in found.answer.tool_calls)
        return msgspec.structs.replace(
            found,
            input_tokens=self.count_tokens(request.messages, request.tools),
            output_tokens=estimate_tokens(found.answer.text + calls),
        )


def _called(found: Generated, form: ToolForm) -> Generated:
    """The answer whose text a grammar forced to be a call, as a call; nothing where it broke off."""
    call = form.read(found.answer.text)
    if call is None:
        return msgspec.structs.replace(found, answer=Answer())
    return msgspec.structs.replace(found, answer=Answer(tool_calls=(call,)), finish_reason="tool_calls")


class _CallStream:
    """A stream whose text is a call that a grammar forced: it is held back and comes as one call."""

    def __init__(self, chunks: Relay[Json], request: GenerationRequest, form: ToolForm) -> None:
        self._request = request
        self._form = form
        self._text = list[str]()
        self._tokens = list[Token]()
        self._finish = "stop"
        self._counts = (0, 0)
        self.relay = DeltaRelay(chunks, self._read, self._last)

    def _read(self, chunk: Json) -> None:
        delta = chunk_delta(chunk, self._request)
        if delta is None:
            return
        self._text.append(delta.text)
        self._tokens += delta.tokens
        self._finish = delta.finish_reason or self._finish
        if delta.input_tokens is not None:
            self._counts = (delta.input_tokens, delta.output_tokens or 0)

    def _last(self) -> Delta:
        call = self._form.read("".join(self._text))
        pieces = ()
        if call is not None:
            pieces = (ToolCallPiece(index=0, id=call.id, name=call.function.name, arguments=call.function.arguments),)
        elif self._finish != "length":
            raise EngineError("the engine's stream ended without the tool call that its grammar forces")
        return Delta(
            tool_calls=pieces,
            tokens=tuple(self._tokens),
            finish_reason="tool_calls" if pieces else self._finish,
            input_tokens=self._counts[0],
            output_tokens=self._counts[1],
        )


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{") and _is_json(text)


def _is_broken(found: Generated, request: GenerationRequest) -> bool:
    return "\ufffd" in found.answer.text and not any("\ufffd" in message.text for message in request.messages)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
