"""What people say of answers: a score, or the right answer.

Feedback on an audited answer takes the place of the judge's word, as long as that has not been booked; on any other
answer it is kept and counted apart, because who gives it has chosen which answers to speak of.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tiercel.errors import DataError
from tiercel.gateway.exchange import ApiError
from tiercel.store.database import Database
from tiercel.store.entries import Entry, find
from tiercel.types import Answer, ToolCall

if TYPE_CHECKING:
    from tiercel.gateway.workloads import Workload
    from tiercel.routing.audit_book import AuditBook

__all__ = ["FeedbackRequest", "give_feedback", "read_feedback"]

Json = dict[str, Any]


class Reference(Struct, frozen=True, kw_only=True):
    """The right answer."""

    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class FeedbackRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/feedback."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    """Of the trace: x-tiercel-id of its answer."""
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Quality of the answer: 1 is right, 0 is wrong."""
    reference: str | Reference | None = None
    """The right answer, with which the one given is compared."""


def read_feedback(raw: bytes) -> FeedbackRequest:
    """Read the body of a request.

    Raises:
        DataError: it is none; the message names the field.
    """
    try:
        found = msgspec.json.decode(raw, type=FeedbackRequest)
    except msgspec.ValidationError as error:
        raise DataError(str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise DataError("the body is not valid JSON") from None
    if (found.score is None) == (found.reference is None):
        raise DataError("give either `score` or `reference`")
    return found


def give_feedback(
    book: AuditBook, database: Database, epochs: dict[str, int], workloads: dict[str, Workload], said: FeedbackRequest
) -> Json:
    """Write feedback into the record; blocks on the store.

    Args:
        book: of audits.
        database: of traces.
        epochs: of the workloads that are monitored.
        workloads: by name.
        said: the feedback.

    Returns:
        What became of it.

    Raises:
        ApiError: 404 for a trace that is not known or not monitored, 409 for one that was judged already.
        DataError: the reference can't be compared with the answer.
    """
    from tiercel.routing.audit_events import Feedback
    from tiercel.routing.epoch_watch import Note

    entry = find(database, said.id)
    workload = workloads.get(entry.workload or "") if entry is not None else None
    if entry is None or workload is None or entry.workload not in epochs or entry.tier != "student":
        text = "no answer of a monitored student has this id; it stands in the header x-tiercel-id"
        raise ApiError(404, text, code="unknown_trace", param="id")
    loss = 1.0 - said.score if said.score is not None else _compared(entry, workload, said.reference)
    event = Feedback(epoch=epochs[entry.workload], trace=said.id, student_loss=loss)
    outcome = book.record(entry.workload, [event], now=time.time())[0]
    if isinstance(outcome, DataError):
        raise outcome
    if outcome.note is Note.ALREADY_JUDGED:
        text = "this answer was judged already, and that was counted; your word is kept and counted apart"
        raise ApiError(409, text, code="already_judged", param="id")
    return {"object": "feedback", "id": said.id, "status": outcome.note.value}


def _compared(entry: Entry, workload: Workload, reference: str | Reference | None) -> float:
    from tiercel.tasks.losses import compare

    if entry.content is None or workload.desk is None:
        raise DataError("the answer itself was not kept, so no reference can be compared with it; give a `score`")
    message = msgspec.json.decode(entry.content.response)
    given = Answer(
        content=message.get("content"),
        tool_calls=msgspec.convert(message.get("tool_calls") or [], tuple[ToolCall, ...]),
    )
    if isinstance(reference, Reference):
        right = Answer(content=reference.content, tool_calls=tuple(reference.tool_calls or ()))
    else:
        right = Answer(content=reference)
    bundle = workload.desk.bundle
    return float(compare(bundle.manifest.task, given, right, getattr(bundle.student, "labels", None)).loss)
