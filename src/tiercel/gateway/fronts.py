"""The APIs that clients speak, each as a way into chat completions and back.

A front reads a request, writes an answer whole or as events, and words errors. Where a provider speaks a front's own
dialect and nothing has to be changed, bytes pass through and none of this is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from tiercel.errors import DataError
from tiercel.gateway.bodies import decode_body
from tiercel.gateway.chat import ChatRequest, chat_request
from tiercel.gateway.exchange import ApiError
from tiercel.providers.chunks import chunks_of
from tiercel.providers.completions_form import CompletionTexts, chat_from_completions, text_from_completion
from tiercel.providers.messages_form import MessageEvents, anthropic_error, chat_from_messages, message_from_completion
from tiercel.providers.provider_settings import ProviderSettings
from tiercel.providers.responses_form import ResponseEvents, chat_from_responses, response_from_completion
from tiercel.providers.sse import encode_event
from tiercel.store.entries import Api

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "EMBEDDINGS",
    "LONGEST_MODEL",
    "MESSAGES",
    "MESSAGE_COUNTS",
    "RESPONSES",
    "Asked",
    "Events",
    "Front",
    "Sent",
]

Json = dict[str, Any]
LONGEST_MODEL = 256
"""Characters of a model's name: it is kept in the ledger and in spans, whose size callers must not choose."""
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,9})')
_LONGEST_NUMBER = len(b'"sequence_number": 123456789')
_encode = msgspec.json.Encoder().encode


class Asked(Struct, frozen=True, kw_only=True):
    """A request, as it came and in chat form.

    Attributes:
        raw: the body.
        body: the body, decoded.
        chat: the same as a chat completion request; None where it has no such form.
        why_not: why it has none.
        model: that it names.
        stream: whether it asks for a stream.
        include_usage: whether a stream ends with the token counts.
    """

    raw: bytes
    body: Json
    chat: ChatRequest | None
    why_not: str = ""
    model: str | None = None
    stream: bool = False
    include_usage: bool = False


class Events(Protocol):
    """Writes chat chunks as the events of a dialect."""

    def feed(self, chunk: Json) -> bytes:
        """The events that a chunk becomes; none may be due yet."""
        ...

    def end(self) -> bytes:
        """The events that close the stream."""
        ...


class Sent:
    """What a stream has said so far, as far as the error that may end it has to know.

    Attributes:
        events: that were sent, where the dialect numbers them.
    """

    def __init__(self) -> None:
        self.events = 0
        self._end = b""

    @property
    def whole(self) -> bool:
        """Whether the last event was sent to its end."""
        return self._end.endswith((b"\n\n", b"\r\n\r\n"))

    def feed(self, data: bytes) -> None:
        """Note the next bytes of the stream."""
        self._end = (self._end + data[-4:])[-4:]


class _NumberedSent(Sent):
    """Reads the numbers of events, which stand in each of them once; texts can't hold the name in bare quotes."""

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""

    def feed(self, data: bytes) -> None:
        super().feed(data)
        told = self._tail + data
        for number in _SEQUENCE_NUMBER.findall(told):
            self.events = max(self.events, int(number) + 1)
        self._tail = told[-_LONGEST_NUMBER:]


class Front:
    """Chat completions; the others override what differs."""

    api: Api = "chat"
    """Its name in the ledger."""
    path = "/chat/completions"
    """Where a provider that speaks this dialect serves it."""
    counts_on_request = True
    """Whether a stream tells token counts only when it is asked to."""
    only_counts = False
    """Whether it wants no answer, but the number of the request's tokens."""

    def read(self, raw: bytes, max_depth: int) -> Asked:
        """Read a request's body.

        Raises:
            DataError: it is no JSON, or a field is missing or of a wrong type; the message repeats no content.
        """
        body = decode_body(raw, max_depth)
        chat = chat_request(body)
        return Asked(
            raw=raw,
            body=body,
            chat=chat,
            model=_model_of(body),
            stream=chat.stream,
            include_usage=chat.include_usage,
        )

    def speaks(self, settings: ProviderSettings) -> bool:
        """Whether a provider takes this dialect as it is."""
        return settings.kind in ("openai", "azure")

    def whole(self, completion: Json, asked: Asked) -> bytes:
        """A chat completion as this API's answer."""
        return _encode(completion)

    def events(self, asked: Asked) -> Events:
        """What writes an answer's chunks as events."""
        return _ChatEvents(asked.include_usage)

    def sent(self) -> Sent:
        """What watches a stream of this API on its way to the client."""
        return Sent()

    def streamed(self, completion: Json, asked: Asked) -> bytes:
        """A chat completion as all the events of a stream."""
        events = self.events(asked)
        return b"".join([*map(events.feed, chunks_of(completion)), events.end()])

    def error(self, error: ApiError) -> bytes:
        """An error as this API words it."""
        return _encode({"error": _shown(error)})

    def stream_error(self, error: ApiError, sent: Sent) -> bytes:
        """An error after the first byte of a stream."""
        return encode_event(self.error(error), None)


def _shown(error: ApiError) -> Json:
    return {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}


class _ChatEvents:
    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage

    def feed(self, chunk: Json) -> bytes:
        if not self._include_usage:
            if not chunk.get("choices") and chunk.get("usage"):
                return b""
            chunk = {name: value for name, value in chunk.items() if name != "usage"}
        return encode_event(_encode(chunk), None)

    def end(self) -> bytes:
        return encode_event(b"[DONE]", None)


def _model_of(body: Json) -> str | None:
    model = body.get("model")
    if isinstance(model, str) and len(model) > LONGEST_MODEL:
        raise DataError(f"Expected `str` of length <= {LONGEST_MODEL} - at `$.model`")
    return model if isinstance(model, str) else None


def _is_stream(body: Json) -> bool:
    """Whether a request asks for a stream; some providers would take anything that is no false for a yes."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise DataError("Expected `bool | null` - at `$.stream`")
    return stream is True


class _Messages(Front):
    """Anthropic's Messages."""

    api = "messages"
    path = "/messages"
    counts_on_request = False

    def read(self, raw: bytes, max_depth: int) -> Asked:
        return _translated(raw, decode_body(raw, max_depth), chat_from_messages)

    def speaks(self, settings: ProviderSettings) -> bool:
        return settings.kind == "anthropic"

    def whole(self, completion: Json, asked: Asked) -> bytes:
        return _encode(message_from_completion(completion))

    def events(self, asked: Asked) -> Events:
        return _NamedEvents(MessageEvents())

    def error(self, error: ApiError) -> bytes:
        return _encode(anthropic_error({"error": _shown(error)}, error.status))

    def stream_error(self, error: ApiError, sent: Sent) -> bytes:
        return encode_event(self.error(error), "error")


class _MessageCounts(_Messages):
    """How many tokens a request of Anthropic's Messages has."""

    path = "/messages/count_tokens"
    only_counts = True


class _Responses(Front):
    """OpenAI's Responses."""

    api = "responses"
    path = "/responses"
    counts_on_request = False

    def read(self, raw: bytes, max_depth: int) -> Asked:
        return _translated(raw, decode_body(raw, max_depth), chat_from_responses)

    def speaks(self, settings: ProviderSettings) -> bool:
        return settings.responses

    def whole(self, completion: Json, asked: Asked) -> bytes:
        return _encode(response_from_completion(completion, request=asked.body))

    def events(self, asked: Asked) -> Events:
        return _NamedEvents(ResponseEvents(request=asked.body))

    def sent(self) -> Sent:
        return _NumberedSent()

    def stream_error(self, error: ApiError, sent: Sent) -> bytes:
        event = {"type": "error", "code": error.code, "message": str(error), "param": error.param}
        return encode_event(_encode(event | {"sequence_number": sent.events}), "error")


class _Completions(Front):
    """OpenAI's legacy completions; providers answer them as they are, students as chats."""

    api = "completions"
    path = "/completions"

    def read(self, raw: bytes, max_depth: int) -> Asked:
        body = decode_body(raw, max_depth)
        options = body.get("stream_options")
        counted = isinstance(options, dict) and options.get("include_usage") is True
        return _translated(raw, body, chat_from_completions, include_usage=counted)

    def whole(self, completion: Json, asked: Asked) -> bytes:
        return _encode(text_from_completion(completion))

    def events(self, asked: Asked) -> Events:
        return _TextEvents(asked.include_usage)


class _Named(Protocol):
    """A translation whose events bear their name as their `type`."""

    def feed(self, chunk: Json) -> list[Json]: ...

    def end(self) -> list[Json]: ...


class _NamedEvents:
    def __init__(self, events: _Named) -> None:
        self._events = events

    def feed(self, chunk: Json) -> bytes:
        return b"".join(encode_event(_encode(event), event["type"]) for event in self._events.feed(chunk))

    def end(self) -> bytes:
        return b"".join(encode_event(_encode(event), event["type"]) for event in self._events.end())


class _TextEvents:
    def __init__(self, include_usage: bool) -> None:
        self._texts = CompletionTexts()
        self._counted = _ChatEvents(include_usage)

    def feed(self, chunk: Json) -> bytes:
        return b"".join(map(self._counted.feed, self._texts.feed(chunk)))

    def end(self) -> bytes:
        return b"".join([*map(self._counted.feed, self._texts.end()), self._counted.end()])


class _Embeddings(Front):
    """Embeddings: no chat, so providers alone answer them."""

    api = "embeddings"
    path = "/embeddings"
    counts_on_request = False

    def read(self, raw: bytes, max_depth: int) -> Asked:
        body = decode_body(raw, max_depth)
        if "input" not in body:
            raise DataError("Object missing required field `input`")
        if _is_stream(body):
            raise DataError("embeddings come in one piece - at `$.stream`")
        why_not = "embeddings need a provider that serves /embeddings"
        return Asked(raw=raw, body=body, chat=None, why_not=why_not, model=_model_of(body))


def _translated(raw: bytes, body: Json, to_chat: Callable[[Json], Json], *, include_usage: bool = True) -> Asked:
    """A request of another API. One that chat completions have no word for may still go to a provider of that API."""
    chat, why_not = None, ""
    try:
        chat = chat_request(to_chat(body))
    except DataError as error:
        why_not = str(error)
    return Asked(
        raw=raw,
        body=body,
        chat=chat,
        why_not=why_not,
        model=_model_of(body),
        stream=_is_stream(body),
        include_usage=include_usage,
    )


CHAT = Front()
MESSAGES = _Messages()
MESSAGE_COUNTS = _MessageCounts()
EMBEDDINGS = _Embeddings()
RESPONSES = _Responses()
COMPLETIONS = _Completions()
