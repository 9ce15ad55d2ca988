"""Makes of an exchange what is kept of it: an entry of the ledger, content where it may be stored, counters, a span.

All of it happens in the recorder's thread, when the client has long had its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from tiercel.errors import UserError
from tiercel.gateway.auditing import Auditor
from tiercel.gateway.cache import is_whole
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.spans import Spans
from tiercel.gateway.state import State
from tiercel.gateway.streams import Heard, hear
from tiercel.gateway.transcripts import completion_of, usage_of
from tiercel.providers.tokens import estimate_usage
from tiercel.store.database import Database
from tiercel.store.entries import Content, Entry, append
from tiercel.store.limits import Reservation, Settlement, settle_many, settlement
from tiercel.store.retention import user_hash, user_salt
from tiercel.types import Answer, Message, ToolCall, Usage

__all__ = ["Bookkeeper"]

Json = dict[str, Any]

_log = logging.getLogger("tiercel.gateway")
_encode = msgspec.json.Encoder().encode
MOST_SETTLED = 128
"""Requests whose cost one transaction books; it holds the locks of all their keys and workloads."""
_NOT_STORED = frozenset({"stream", "stream_options", "user", "safety_identifier", "prompt_cache_key"})
"""Fields of a request that say how it is sent, or who sent it."""


class _Said(Struct):
    content: str | list[Json] | None = None
    tool_calls: list[ToolCall] | None = None


class Spending(Struct, frozen=True, kw_only=True):
    """What a request has used of what its limits hold for it."""

    held: Reservation
    usd: float
    tokens: int


class Record(Struct, frozen=True, kw_only=True):
    """What is written of one exchange."""

    entry: Entry
    spent: Spending | None
    """None where no limit holds anything. To settle it twice changes nothing."""


class Bookkeeper:
    """Writes the books.

    Args:
        database: where they are kept.
        metrics: count what happened.
        state: the configuration.
        auditor: is told of every exchange.
    """

    def __init__(self, database: Database, metrics: Metrics, state: State, auditor: Auditor) -> None:
        self._database = database
        self._metrics = metrics
        self._auditor = auditor
        self._salt = user_salt(database)
        endpoint = state.settings.telemetry.otlp_endpoint
        self._spans = Spans(endpoint) if endpoint else None
        self.adopt(state)

    def adopt(self, state: State) -> None:
        """Go by another configuration."""
        self._state = state
        self._kinds = {p.name: p.kind for p in state.settings.providers}

    def close(self) -> None:
        """Send the last spans."""
        if self._spans is not None:
            self._spans.close()
            self._spans = None

    def write(self, records: Sequence[Record]) -> None:
        """Keep records; what is written twice is there once.

        Raises:
            StorageError: they can't be written now.
        """
        self._metrics.flush()
        self._settle([record.spent for record in records if record.spent is not None])
        append(self._database, [record.entry for record in records])
        self._metrics.written.inc(len(records))

    def record(self, exchange: Exchange) -> Record:
        """What is kept of an exchange."""
        entry = self._entry(exchange)
        if not exchange.is_short:
            self._auditor.note(exchange)
        if exchange.held is None:
            return Record(entry=entry, spent=None)
        # What the gateway asks by itself costs money, and takes no caller's place in a minute.
        tokens = 0 if exchange.is_audit else entry.input_tokens + entry.output_tokens
        usd = entry.cost_usd or 0.0
        return Record(entry=entry, spent=Spending(held=exchange.held, usd=usd, tokens=tokens))

    def _entry(self, exchange: Exchange) -> Entry:
        stored = self._is_stored(exchange)
        completion = None
        if exchange.answer is not None and (stored or exchange.usage is None):
            completion = completion_of(exchange.answer, exchange.answer_form)
        if exchange.usage is None and exchange.tier == "frontier" and exchange.status == 200:
            self._count(exchange, completion)
        if not exchange.is_audit:
            self._metrics.count(exchange)
        if self._spans is not None:
            self._spans.record(exchange, self._kinds.get(exchange.provider or ""))
        self._log(exchange)
        usage = exchange.usage or Usage()
        if not exchange.user_hashes:  # an audit has those of the request that it is about
            exchange.user_hashes = tuple(user_hash(user, self._salt) for user in exchange.users)
        return Entry(
            id=exchange.id,
            created=exchange.created,
            api=exchange.api,
            workload=exchange.workload.name if exchange.workload else None,
            key=exchange.key.id if exchange.key else None,
            user=exchange.user_hashes[0] if exchange.user_hashes else None,
            tier=exchange.tier,
            bundle=exchange.bundle,
            provider=exchange.provider,
            model=exchange.model,
            status=exchange.status,
            reason=exchange.reason,
            confidence=exchange.confidence,
            stream=exchange.stream,
            latency_s=exchange.latency_s,
            first_byte_s=exchange.first_byte_s,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            counted_by=exchange.counted_by,
            compute_s=exchange.compute_s,
            cost_usd=exchange.cost_usd,
            frontier_cost_usd=exchange.frontier_cost_usd,
            content=self._content(exchange, completion) if stored else None,
            further_users=exchange.user_hashes[1:],
        )

    def _log(self, exchange: Exchange) -> None:
        """One line, without content; of what went well only where all is to be seen: the ledger holds it too."""
        level = logging.INFO if exchange.status >= 400 else logging.DEBUG
        if _log.isEnabledFor(level):
            _log.log(
                level,
                "%s %s tier=%s reason=%r workload=%s %.1f ms",
                exchange.status,
                exchange.api,
                exchange.tier,
                exchange.reason,
                exchange.workload.name if exchange.workload else "-",
                exchange.latency_s * 1000,
            )

    def _is_stored(self, exchange: Exchange) -> bool:
        capture = self._state.settings.capture
        if not (capture.enabled and capture.content and exchange.captured and exchange.status == 200):
            return False
        if exchange.body is None or exchange.answer is None or exchange.answer_share < 1:
            return False
        share = exchange.workload.settings.share(capture.sample) if exchange.workload else capture.sample
        # The end of an id is random: every worker and every retry decides alike.
        return share >= 1 or int(exchange.id[-8:], 16) < share * 2**32

    def _content(self, exchange: Exchange, completion: Json | None) -> Content | None:
        # An answer that was cut or refused would be taught to a student as if it were right.
        if completion is None or exchange.body is None or not is_whole(completion):
            return None
        request = {name: value for name, value in exchange.body.items() if name not in _NOT_STORED}
        message = completion["choices"][0]["message"]
        redactor = self._state.storage_redactor
        if redactor is not None:
            from tiercel.datasets.redaction_chat import redact_chat

            # In one session, so that a value has the same placeholder in the request and in its answer.
            asked = [*request["messages"], message]
            redacted, _ = redact_chat({**request, "messages": asked}, redactor)
            request, message = {**redacted, "messages": redacted["messages"][:-1]}, redacted["messages"][-1]
        return Content(request=_encode(request), response=_encode(message))

    def _count(self, exchange: Exchange, completion: Json | None) -> None:
        """Token counts that were not known when the answer ended."""
        usage = usage_of(completion.get("usage")) if completion else None
        heard = None
        if usage is None and isinstance(exchange.answer, bytes) and exchange.answer_form.endswith(" stream"):
            heard = hear(exchange.answer)
            usage = heard.usage if heard.ended and exchange.answer_share == 1 else None
        if usage is None:
            usage = self._estimated(exchange, completion, heard)
        self._state.prices.settle_frontier(exchange, usage)

    def _estimated(self, exchange: Exchange, completion: Json | None, heard: Heard | None) -> Usage:
        """Token counts of an answer whose provider told none, or whose stream did not come to its end."""
        tokenizer = self._state.tokenizers.get(exchange.provider or "")
        exchange.counted_by = "tokenizer" if tokenizer is not None else "estimate"
        count = tokenizer.usage if tokenizer is not None else estimate_usage
        usage = _counted(exchange.body or {"messages": ()}, completion, count) or Usage()
        if exchange.expected is not None:
            usage = structs.replace(usage, input_tokens=exchange.expected.input_tokens)
        outputs = usage.output_tokens
        if heard is not None:
            outputs = outputs or count((), Answer(content=heard.text), None).output_tokens
            if heard.usage is not None:  # Anthropic counts the request before it answers
                usage, outputs = heard.usage, max(outputs, heard.usage.output_tokens)
        return structs.replace(usage, output_tokens=round(outputs / exchange.answer_share))

    def _settle(self, spent: Sequence[Spending]) -> None:
        known = list[Settlement]()
        for one in spent:
            try:
                known.append(settlement(one.held, usd=one.usd, tokens=one.tokens))
            except UserError as error:  # a cost that is no amount; the reservation ends by itself
                _log.error("a limit can't be settled: %s", type(error).__name__)
        for start in range(0, len(known), MOST_SETTLED):
            settle_many(self._database, known[start : start + MOST_SETTLED])


def _counted(
    body: Json, completion: Json | None, count: Callable[[tuple[Message, ...], Answer, object], Usage]
) -> Usage | None:
    try:
        messages = msgspec.convert(body.get("messages"), tuple[Message, ...])
        choices = (completion or {}).get("choices") or ()
        said = msgspec.convert([choice["message"] for choice in choices], list[_Said])
    except (msgspec.ValidationError, KeyError, TypeError):
        return None
    answers = [
        Answer(content=one.content if isinstance(one.content, str) else None, tool_calls=tuple(one.tool_calls or ()))
        for one in said
    ]
    asked = count(messages, Answer(), body.get("tools"))
    return Usage(
        input_tokens=asked.input_tokens, output_tokens=sum(count((), answer, None).output_tokens for answer in answers)
    )
