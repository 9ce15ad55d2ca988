"""One request on its way to a provider and back: dialect, model's name, personal data, tokens.

Where client and provider speak the same dialect and nothing has to be changed, the bytes that came are the bytes that
go. What passes is kept for the record.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.errors import DataError, UnreadableAnswerError
from tiercel.gateway.costing import about_usage
from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.gateway.fronts import CHAT, Asked, Front
from tiercel.gateway.state import State
from tiercel.gateway.streams import hear
from tiercel.gateway.transcripts import chunk_reader, completion_of, told_usage
from tiercel.providers.chain import Chain, ChainReply, ChainRequest, Prepared
from tiercel.providers.failures import UpstreamError
from tiercel.providers.messages_form import messages_from_chat
from tiercel.providers.provider_settings import ProviderSettings
from tiercel.providers.sse import EventReader, encode_event
from tiercel.providers.strict_chat import strict_chat
from tiercel.providers.upstream import Upstream

if TYPE_CHECKING:
    from tiercel.datasets.redaction import Session
    from tiercel.datasets.redaction_chat import ChatStreamRestorer

__all__ = ["Escalation"]

Json = dict[str, Any]

MOST_KEPT = 4 * 2**20
"""Bytes of a stream that are kept for the record; a longer answer is passed on and not stored."""
TAIL = 256 * 1024
"""Bytes of a longer answer's end that are kept for its token counts."""
MOST_TRANSLATED = 64 * 2**20
"""Bytes of a stream that is put into another dialect, for which a part of it is held; then it is broken off."""
LONG_BODY = 64 * 1024
"""Bytes of a request from which on it is searched off the event loop."""
DEFAULT_MAX_TOKENS = 4096
"""Of an answer by a provider that wants a limit, where the request sets none."""
_encode = msgspec.json.Encoder().encode
_ASKING = b',"stream_options":{"include_usage":true}}'
_END = (b"\n\n", b"\r\n\r\n")
"""What stands between two events."""
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class Escalation:
    """What a provider is sent for a request, and what the client gets of its answer.

    Args:
        state: the configuration.
        exchange: is told what becomes of the request.
        front: of the client.
        asked: the request.

    Raises:
        ApiError: personal data must be taken out of the request, and its form does not let that be done.
    """

    def __init__(self, state: State, exchange: Exchange, front: Front, asked: Asked) -> None:
        self._state = state
        self._exchange = exchange
        self._front = front
        self._asked = asked
        self._chat = exchange.body
        self._session: Session | None = None
        self._why_not: str | None = None
        self._sent = False
        self._model = asked.model
        if self._model is None or self._model.startswith("tiercel/"):
            self._model = state.prices.frontier_model(exchange)

    async def redact(self) -> None:
        """Take personal data out of what is to be sent, where the configuration says so.

        Raises:
            ApiError: the form of the request does not let that be done.
        """
        redactor = self._state.redactor
        if redactor is None:
            return
        if self._chat is None:
            text = "personal data has to be taken out of what leaves this machine, which this request does not allow"
            raise ApiError(400, f"{text}: {self._asked.why_not}", code="cannot_redact")
        from tiercel.datasets.redaction_chat import redact_chat

        if redactor.recognisers or self._exchange.body_bytes > LONG_BODY:  # a model, perhaps, that takes its time
            self._chat, self._session = await asyncio.to_thread(redact_chat, self._chat, redactor)
        else:
            self._chat, self._session = redact_chat(self._chat, redactor)

    async def send(self, chain: Chain, deadline: float) -> ChainReply:
        """Have one of the providers answer.

        Args:
            chain: the providers.
            deadline: moment of the loop's clock by which the answer must be whole, or a stream must have begun.

        Raises:
            ApiError: none of the providers can be asked this.
            UpstreamError: none of them answered.
        """
        try:
            return await chain.send(ChainRequest(prepare=self._prepared, stream=self._asked.stream, deadline=deadline))
        except UpstreamError:
            if self._why_not is not None and not self._sent:
                raise ApiError(400, self._why_not, code="unsupported_by_provider") from None
            raise

    def _prepared(self, upstream: Upstream) -> Prepared | None:
        """The request in a provider's own dialect; None where it has no word for it."""
        try:
            prepared = self._request_for(upstream.settings)
        except DataError as error:
            self._why_not = str(error)
            return None
        self._sent = True
        return prepared

    def _request_for(self, settings: ProviderSettings) -> Prepared:
        asked = self._asked
        name = settings.named(self._model or "")
        if not name:
            raise DataError("the request names no model, and none is configured; name one in `model`")
        if not self._state.takes(settings.name, self._model or ""):
            raise DataError("no provider is configured for the model that the request names; GET /v1/models lists some")
        if self._native(settings):
            usage = self._hides_usage(settings)
            if name == asked.model and not (usage and "stream_options" in asked.body):
                raw = asked.raw.rstrip()[:-1] + _ASKING if usage else asked.raw
                return Prepared(self._front.path, raw, self._exchange.headers)
            body = _encode(_with_usage({**asked.body, "model": name}, usage))
            return Prepared(self._front.path, body, self._exchange.headers)
        if self._chat is None:
            raise DataError(asked.why_not)
        chat = {**self._chat, "model": name}
        if settings.kind == "anthropic":
            return Prepared("/messages", _encode(messages_from_chat(chat, default_max_tokens=DEFAULT_MAX_TOKENS)))
        counted = asked.stream and settings.name in self._state.counting
        if self._front.api != "chat":
            chat = strict_chat(chat)
            if not counted:  # the translation asks, for the client's dialect always counts
                chat.pop("stream_options", None)
        return Prepared(CHAT.path, _encode(_with_usage(chat, counted)))

    def whole(self, reply: ChainReply, cached_as: bytes | None) -> bytes:
        """The answer to a request that wants it in one piece."""
        exchange, settings = self._exchange, self._state.provider(reply.provider)
        raw = reply.body or b""
        form = self._form(settings)
        exchange.status, exchange.provider, exchange.told = reply.status, settings.name, reply.headers
        exchange.answer, exchange.answer_form = raw, form
        model, usage = told_usage(raw)
        exchange.model = model or settings.named(self._model or "")
        self._reckon(settings)
        if usage is not None:
            self._state.prices.settle_frontier(exchange, usage)
        if cached_as is None and self._native(settings):
            return raw
        completion = self._kept(cached_as)
        if self._native(settings):
            return raw
        if completion is None:
            raise UnreadableAnswerError("it is not of the form that its API promises", provider=settings.name)
        return self._front.whole(completion, self._asked)

    async def relay(self, reply: ChainReply, cached_as: bytes | None) -> AsyncGenerator[bytes]:
        """The answer's events in the client's dialect, as they come."""
        exchange, settings = self._exchange, self._state.provider(reply.provider)
        form = self._form(settings)
        exchange.provider, exchange.model = settings.name, settings.named(self._model or "")
        exchange.told = reply.headers
        self._reckon(settings)
        kept = _Kept()
        try:
            if not self._native(settings):
                events = self._translated(kept.keeping(reply.chunks()), form)
            elif self._hides_usage(settings):
                events = _without_usage(kept.keeping(reply.chunks()))
            else:
                events = kept.keeping(reply.chunks())
            async with aclosing(events):
                async for data in events:
                    yield data
        finally:
            reply.close()
            exchange.answer, exchange.answer_form = kept.bytes(), f"{form} stream"
            if kept.share < 1:
                self._settle_long(kept)
        if cached_as is not None or self._session is not None:
            self._kept(cached_as)

    def _reckon(self, settings: ProviderSettings) -> None:
        """Note what the request is priced by, should its provider tell less than its price and its tokens."""
        exchange = self._exchange
        exchange.priced_as = self._state.prices.sold_as(settings, self._model or "")
        if exchange.body is None:
            exchange.expected = about_usage(exchange.api, self._asked.body, exchange.body_bytes)

    def _settle_long(self, kept: _Kept) -> None:
        """Book an answer that is too long to be kept by the counts at its end; without them, its beginning stays."""
        exchange = self._exchange
        exchange.answer_share = kept.share
        if (usage := hear(kept.ends()).usage) is not None:
            self._state.prices.settle_frontier(exchange, usage)
            exchange.answer = None

    def _kept(self, cached_as: bytes | None) -> Json | None:
        """The answer as the client gets it, for the record and the cache; None where it can't be read."""
        exchange = self._exchange
        if exchange.answer is None or exchange.answer_share < 1:
            return None
        # What the client has as its provider said it, it is to have again; what was translated was less already.
        exact = exchange.answer_form.partition(" ")[0] == self._front.api and self._session is None
        completion = completion_of(exchange.answer, exchange.answer_form, exact=exact)
        if completion is not None and self._session is not None:
            from tiercel.datasets.redaction_chat import restore_chat

            completion = restore_chat(completion, self._session)
            exchange.answer, exchange.answer_form = completion, "chat"
        if completion is not None and cached_as is not None and self._state.cache is not None:
            self._state.cache.put(cached_as, completion)
        return completion

    async def _translated(self, chunks: AsyncGenerator[bytes], form: str) -> AsyncGenerator[bytes]:
        into, out_of = self._front.events(self._asked), chunk_reader(form)
        restorer = _restorer(self._session) if self._session is not None else None
        seen: list[Json] = []
        size = 0
        async with aclosing(chunks):
            async for data in chunks:
                size += len(data)
                if size > MOST_TRANSLATED:  # some dialects end with all that was said
                    what = f"the stream is longer than {MOST_TRANSLATED // 2**20} MB and has to be translated"
                    raise UnreadableAnswerError(what)
                found = out_of.feed(data)
                if restorer is not None:
                    found = [restorer.feed(chunk) for chunk in found]
                seen = found or seen
                if written := b"".join(map(into.feed, found)):
                    yield written
        rest = out_of.end()
        if restorer is not None:
            rest = [restorer.feed(chunk) for chunk in rest]
            if (held := restorer.close()) and (last := rest or seen):
                rest.append({**last[-1], "choices": held, "usage": None})
        yield b"".join([*map(into.feed, rest), into.end()])

    def _native(self, settings: ProviderSettings) -> bool:
        return self._session is None and self._front.speaks(settings)

    def _form(self, settings: ProviderSettings) -> str:
        """Dialect in which a provider answers."""
        if self._native(settings):
            return self._front.api
        return "messages" if settings.kind == "anthropic" else "chat"

    def _hides_usage(self, settings: ProviderSettings) -> bool:
        """Whether the gateway asks for token counts that the client did not ask for."""
        asked = self._asked
        if not asked.stream or asked.include_usage or not self._front.counts_on_request:
            return False
        return settings.name in self._state.counting


def _restorer(session: Session) -> ChatStreamRestorer:
    from tiercel.datasets.redaction_chat import ChatStreamRestorer

    return ChatStreamRestorer(session)


class _Kept:
    """What passed, up to a limit; of what is longer the end, too."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._kept_size = 0
        self._tail = bytearray()

    async def keeping(self, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            async for data in chunks:
                self._size += len(data)
                if self._size <= MOST_KEPT:
                    self._parts.append(data)
                    self._kept_size = self._size
                else:
                    self._tail += data
                    if len(self._tail) > 2 * TAIL:
                        del self._tail[:-TAIL]
                yield data

    @property
    def share(self) -> float:
        """The share of what passed that was kept."""
        return self._kept_size / self._size if self._size else 1.0

    def bytes(self) -> bytes:
        """What was kept: all, or the beginning."""
        return b"".join(self._parts)

    def ends(self) -> bytes:
        """The beginning, where Anthropic counts the request, and the end, where all count the answer."""
        if self._kept_size + len(self._tail) == self._size:
            return self.bytes() + self._tail
        return self.bytes()[:TAIL] + b"\n\n" + self._tail


async def _without_usage(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A stream without the chunk of token counts, which the client did not ask for."""
    reader, between = EventReader(), True
    async with aclosing(chunks):
        async for data in chunks:
            whole = data.endswith(_END)
            if between and whole and not _NO_CHOICES.search(data):
                yield data
                continue
            between = whole
            if written := b"".join(
                encode_event(*event) for event in reader.feed(data) if not _counts_alone(event.data)
            ):
                yield written
    # Nothing at all would be taken for the end, before what is kept for the cache is complete.
    if rest := b"".join(encode_event(*event) for event in reader.end() if not _counts_alone(event.data)):
        yield rest


def _counts_alone(data: bytes) -> bool:
    if b'"usage"' not in data or not _NO_CHOICES.search(data):
        return False
    try:
        chunk = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and chunk.get("usage") is not None


def _with_usage(body: Json, wanted: bool) -> Json:
    options = body.get("stream_options") or {}
    if not wanted or not isinstance(options, dict):  # the provider says what is wrong with options of another kind
        return body
    return {**body, "stream_options": {**options, "include_usage": True}}
