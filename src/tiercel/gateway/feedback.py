"""What people say of answers: a score, or the right answer.

Feedback on an audited answer takes the place of the judge's word, as long as that has not been booked; on any other
answer it is kept and counted apart, because who gives it has chosen which answers to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tiercel.errors import DataError
from tiercel.gateway.exchange import ApiError
from tiercel.gateway.own_requests import message_answer, student_loss
from tiercel.store.database import Database
from tiercel.store.entries import Entry, find
from tiercel.types import Answer, ToolCall

if TYPE_CHECKING:
    from tiercel.gateway.epochs import Monitored
    from tiercel.gateway.workloads import Workload
    from tiercel.routing.audit_book import AuditBook
    from tiercel.routing.audit_events import Event
    from tiercel.routing.monitor import Outcome
    from tiercel.store.keys import VirtualKey

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
    book: AuditBook,
    database: Database,
    monitored: Mapping[str, Monitored],
    write: Callable[[str, Sequence[Event]], Sequence[Outcome | None]],
    said: FeedbackRequest,
    caller: VirtualKey | None,
) -> Json:
    """Write feedback into the record; blocks on the store.

    Args:
        book: of audits.
        database: of traces.
        monitored: what is audited, by the workload's name.
        write: writes events of a workload into the record, and acts on what follows.
        said: the feedback.
        caller: key of who gives it; None where none is needed.

    Returns:
        What became of it.

    Raises:
        ApiError: 404 for a trace that is not known or not monitored, 403 for another's, 409 for one that was judged
            already.
        DataError: the reference can't be compared with the answer.
    """
    from tiercel.routing.audit_events import Feedback
    from tiercel.routing.epoch_watch import Note

    entry = find(database, said.id)
    watched = monitored.get(entry.workload or "") if entry is not None else None
    if entry is None or watched is None or entry.tier != "student":
        text = "no answer of a monitored student has this id; it stands in the header x-tiercel-id"
        raise ApiError(404, text, code="unknown_trace", param="id")
    _permit(caller, entry)
    name = watched.workload.name
    loss = 1.0 - said.score if said.score is not None else _compared(entry, watched.workload, said.reference)
    # An answer of a replaced bundle was drawn in that one's epoch.
    epoch = book.monitor(name).epoch_of(said.id) or watched.epoch
    outcome = write(name, [Feedback(epoch=epoch, trace=said.id, student_loss=loss)])[0]
    if outcome is None:
        raise DataError("the record of audits can't take this; the gateway's log says why")
    if outcome.note is Note.ALREADY_JUDGED:
        text = "this answer was judged already, and that was counted; your word is kept and counted apart"
        raise ApiError(409, text, code="already_judged", param="id")
    return {"object": "feedback", "id": said.id, "status": outcome.note.value}


def _permit(caller: VirtualKey | None, entry: Entry) -> None:
    """Whether a caller may judge an answer: one word can break a workload's bound for everybody."""
    own = entry.key == (caller.id if caller is not None else None)
    if own or (caller is not None and "feedback" in caller.permissions and caller.may_use(entry.workload)):
        return
    text = "another key asked for this answer; send that one, or one from `tiercel keys create NAME"
    text += " --permission feedback` that is for this workload"
    raise ApiError(403, text, kind="permission_error", code="not_your_answer", param="id")


def _compared(entry: Entry, workload: Workload, reference: str | Reference | None) -> float:
    given = None if entry.content is None else message_answer(msgspec.json.decode(entry.content.response))
    if given is None or workload.desk is None:
        raise DataError("the answer itself was not kept, so no reference can be compared with it; give a `score`")
    if isinstance(reference, Reference):
        right = Answer(content=reference.content, tool_calls=tuple(reference.tool_calls or ()))
    else:
        right = Answer(content=reference)
    return student_loss(workload.desk.bundle, given, right)
