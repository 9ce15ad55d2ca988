"""What is known of one request while it is answered, and, afterwards, for the record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from tiercel.store.entries import Api, CountedBy, Tier, new_id
from tiercel.types import Usage

if TYPE_CHECKING:
    from tiercel.gateway.workloads import Workload
    from tiercel.store.keys import VirtualKey
    from tiercel.store.limits import Reservation

__all__ = ["ApiError", "Exchange"]

Json = dict[str, Any]


class ApiError(Exception):
    """A request that gets an error; each API words it in its own form.

    Args:
        status: HTTP status.
        message: for people; repeats nothing of the request.
        kind: OpenAI's type of error.
        code: for programs.
        param: the field that is wrong.
        headers: of the response.
        reason: a few words for the record; the code where there are none.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}
        self.reason = reason or (code or kind).replace("_", " ")


class Exchange(Struct, kw_only=True, eq=False):
    """One request and what became of it.

    Attributes:
        api: of the client: chat, completions, embeddings, responses or messages.
        id: of the trace; the client gets it in x-tiercel-id.
        created: Unix time in seconds.
        started: of `time.perf_counter`, in seconds.
        key: the caller's; None where the gateway asks for none.
        workload: that it belongs to; None for a stranger.
        forced: tier that the client asked for; None to leave the choice to the gate.
        captured: whether its content may be stored.
        body: the request in chat form; None where it has none, or as long as it is not read.
        body_bytes: size of the request.
        headers: of the request, those that a provider of the client's own dialect gets.
        user: whom the request names as its end user.
        tier: that answered: cache, student or frontier; none for nobody.
        reason: why that one.
        confidence: of the gate; None where no student was asked.
        segment: of the request, where the bundle is certified by segment; None where it is not, or nobody has told.
        provider: that answered.
        model: that answered.
        status: HTTP status of the answer.
        stream: whether the answer is one.
        first_byte_s: from the request to the answer's first byte.
        latency_s: from the request to the answer's last byte.
        compute_s: seconds that a model worked on this machine.
        usage: tokens; None as long as nobody has counted.
        counted_by: provider, tokenizer or estimate.
        cost_usd: of the answer; None where the price is not known.
        frontier_cost_usd: what the frontier's answer costs or would have cost.
        answer: what was answered, for capture: a chat completion, or the provider's bytes.
        answer_form: dialect of the bytes in `answer`.
        told: headers of the provider that answered or refused, which its client gets; names in lower case.
        is_audit: whether the gateway itself asks, to compare the frontier's answer with a student's.
        traceparent: the span of the client that this one belongs to, as its header names it.
        held: what the limits hold for it until its cost is known; None where it has no limits.
        is_short: whether body and answer were dropped for want of room, and only its figures are left.
        requested: model that the request names; None where it names none.
        priced_as: model whose price holds where `model` has none.
        expected: tokens that it is reckoned at by its size; None where it has chat form, or nobody was asked.
        answer_share: share of the answer's bytes that `answer` holds; below 1 it is too long to be stored.
    """

    api: Api
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    key: VirtualKey | None = None
    workload: Workload | None = None
    forced: str | None = None
    captured: bool = True
    body: Json | None = None
    body_bytes: int = 0
    headers: dict[str, str] | None = None
    user: str | None = None
    tier: Tier = "none"
    reason: str = ""
    confidence: float | None = None
    segment: str | None = None
    provider: str | None = None
    model: str | None = None
    status: int = 499  # the client left before there was an answer
    stream: bool = False
    first_byte_s: float | None = None
    latency_s: float = 0.0
    compute_s: float = 0.0
    usage: Usage | None = None
    counted_by: CountedBy = "provider"
    cost_usd: float | None = None
    frontier_cost_usd: float | None = None
    answer: Json | bytes | None = None
    answer_form: str = "chat"
    told: dict[str, str] = field(default_factory=dict[str, str])
    traceparent: str | None = None
    is_audit: bool = False
    held: Reservation | None = None
    is_short: bool = False
    requested: str | None = None
    priced_as: str | None = None
    expected: Usage | None = None
    answer_share: float = 1.0

    @property
    def tenant(self) -> str:
        """Who shares cached answers with whom."""
        return self.key.tenant if self.key else ""

    @property
    def bundle(self) -> str | None:
        """Version of the bundle of its workload; None where it has none."""
        return self.workload.version or None if self.workload else None

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started

    def seconds_left(self, limit_s: float) -> float:
        """Seconds until the request has taken `limit_s`; 0 where it has."""
        return max(0.0, limit_s - self.elapsed())
