"""Answering a file of requests from a bundle, and from the frontier where the bundle has to escalate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import example_from
from tiercel.datasets.sources import iterate_rows
from tiercel.datasets.templates import signature_of
from tiercel.errors import DataError, ProviderError
from tiercel.flows.bundle import Answered, Bundle
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder
from tiercel.types import Answer, Example, ToolCall

if TYPE_CHECKING:
    from tiercel.providers.openai_compatible import FrontierSettings

__all__ = ["AnswerCounts", "AnswerRow", "answer_file"]

BATCH = 256
AT_ONCE = 8
"""Requests to the frontier under way at a time."""


class AnswerRow(Struct, frozen=True, kw_only=True):
    """One line of the output."""

    id: str
    tier: str
    answer: str | None
    """None where the frontier has to answer and none is configured, or it failed."""
    confidence: float
    latency_ms: float
    reason: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of tools, where the answer is calls."""
    error: str | None = None
    """Why the frontier did not answer."""


class _Told(Struct):
    """A message of the frontier."""

    content: str | None = None
    tool_calls: list[ToolCall] | None = None

    def answer(self) -> Answer:
        return Answer(content=self.content, tool_calls=tuple(self.tool_calls or ()))


class AnswerCounts(Struct, kw_only=True):
    """What became of the requests."""

    rows: int = 0
    student: int = 0
    frontier: int = 0
    unanswered: int = 0
    """Rows that are the frontier's, but have no answer."""
    rejected: int = 0
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    """Rows that the frontier was sent and did not answer, by reason."""

    @property
    def frontier_failed(self) -> bool:
        """Whether the frontier answered none of the rows that it was sent."""
        return bool(self.errors) and not self.frontier


def answer_file(
    bundle: Bundle,
    source: Path,
    output: Path,
    progress: Progress,
    *,
    frontier: FrontierSettings | None = None,
) -> AnswerCounts:
    """Answer every request of a file; an assistant message at its end is set aside first.

    Args:
        bundle: that answers.
        source: requests in the data contract.
        output: JSON Lines of `AnswerRow`; appears when it is whole.
        progress: is told how far it is.
        frontier: answers what the bundle escalates; None leaves those rows without an answer.

    Raises:
        DataError: no row can be read.
        StorageError: the output can't be written.
    """
    counts = AnswerCounts()
    make_folder(output.parent)
    aside = output.with_name(output.name + ".part")
    encode = msgspec.json.Encoder().encode
    progress.stage("answering")
    with guarded(output):
        try:
            with aside.open("wb") as stream:
                for examples in _batches(_requests(source, counts, progress)):
                    for row in _answer(bundle, examples, frontier):
                        _count(counts, row)
                        stream.write(encode(row) + b"\n")
                    progress.step(counts.rows, 0)
            if not counts.rows:
                raise DataError(f"{source}: none of its rows is a request in the data contract")
            aside.replace(output)
        finally:
            aside.unlink(missing_ok=True)
    _warn_of_errors(counts, progress)
    return counts


def _warn_of_errors(counts: AnswerCounts, progress: Progress) -> None:
    if failed := counts.errors.total():
        reason, times = counts.errors.most_common(1)[0]
        progress.warn(
            f"{failed} of {failed + counts.frontier} requests to the frontier failed; most often ({times}): {reason}"
        )


def _requests(source: Path, counts: AnswerCounts, progress: Progress) -> Iterator[Example]:
    for row in iterate_rows(source):
        try:
            if row.error is not None:
                raise DataError(row.error)
            yield example_from(row.value)
        except DataError as error:
            counts.rejected += 1
            if counts.rejected <= 5:
                progress.warn(f"{source}, line {row.line}: {error}")


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    batch = list[Example]()
    for example in examples:
        batch.append(example)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _answer(bundle: Bundle, examples: Sequence[Example], frontier: FrontierSettings | None) -> list[AnswerRow]:
    signatures = [signature_of(e.tools, e.response_format) for e in examples]
    answered = bundle.answer_many([e.messages for e in examples], signatures, metadata=[e.metadata for e in examples])
    rows = [_row(e, a) for e, a in zip(examples, answered, strict=True)]
    if frontier is None:
        return rows
    asked = [i for i, a in enumerate(answered) if a.tier == "frontier"]
    told = asyncio.run(_ask([examples[i] for i in asked], frontier, bundle.manifest.frontier))
    for i, (answer, error, took) in zip(asked, told, strict=True):
        rows[i] = msgspec.structs.replace(
            rows[i],
            answer=answer.content,
            tool_calls=answer.tool_calls,
            error=error,
            latency_ms=rows[i].latency_ms + took,
        )
    return rows


def _row(example: Example, answered: Answered) -> AnswerRow:
    return AnswerRow(
        id=example.id,
        tier=answered.tier,
        answer=answered.answer,
        confidence=answered.confidence,
        latency_ms=answered.latency_ms,
        reason=answered.reason,
        tool_calls=answered.tool_calls,
    )


async def _ask(
    examples: Sequence[Example], settings: FrontierSettings, model: str | None
) -> list[tuple[Answer, str | None, float]]:
    """Answer (an empty one where there is an error), error and milliseconds of each request to the frontier."""
    from tiercel.providers.openai_compatible import OpenAICompatible

    gate = asyncio.Semaphore(AT_ONCE)

    async with OpenAICompatible(settings) as client:

        async def ask(example: Example) -> tuple[Answer, str | None, float]:
            body: dict[str, Any] = {"messages": msgspec.to_builtins(example.messages)}
            if name := settings.model or example.model or model:
                body["model"] = name
            for field in ("tools", "response_format"):
                if value := getattr(example, field):
                    body[field] = value
            async with gate:
                started = time.perf_counter()
                answer, error = Answer(), None
                try:
                    response = await client.complete(body)
                    answer = msgspec.convert(response["choices"][0]["message"], _Told).answer()
                    error = None if answer != Answer() else "the frontier's answer holds neither text nor tool calls"
                except ProviderError as failure:
                    error = str(failure)
                except (KeyError, IndexError, TypeError, msgspec.ValidationError):
                    error = "the frontier's response holds no message"
            return answer, error, (time.perf_counter() - started) * 1000

        return list(await asyncio.gather(*map(ask, examples)))


def _count(counts: AnswerCounts, row: AnswerRow) -> None:
    counts.rows += 1
    if row.tier == "student":
        counts.student += 1
    elif row.answer is None and not row.tool_calls:
        counts.unanswered += 1
    else:
        counts.frontier += 1
    if row.error is not None:
        counts.errors[row.error] += 1
