"""What a gateway gathers between two writes to the book of audits.

A batch is closed by a clock or by a count of requests, never because of a draw or a result. If a gateway wrote whenever
an audit is drawn, its zeros would come with the next draw and those of other gateways later: the log would lean towards
audits, and the e-values with it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tiercel.routing.audit_events import Drawn, Passed
from tiercel.routing.audits import Draw

__all__ = ["AuditBatch"]


class AuditBatch:
    """Requests of one workload in the order in which their draws were made; threads share it.

    Args:
        list_undrawn: whether ids and scores of undrawn requests are written too, so that a verifier can see that their
            draws said no; about 60 bytes a request.
    """

    def __init__(self, *, list_undrawn: bool = False) -> None:
        self._list_undrawn = list_undrawn
        self._lock = threading.Lock()
        self._events: list[Passed | Drawn] = []
        self._clear()
        self.requests = 0
        """In the batch."""

    def _clear(self) -> None:
        self._epoch = 0
        self._refused = self._undrawn = 0
        self._segments: dict[str, int] = {}
        self._listed: list[tuple[str, float]] = []

    def refused(self, epoch: int, segments: Sequence[str] = ()) -> None:
        """A request that the frontier answered.

        Args:
            epoch: whose policy decided.
            segments: to which the request belongs.
        """
        with self._lock:
            self._zero(epoch, segments)
            self._refused += 1

    def accepted(
        self, epoch: int, trace: str, score: float, draw: Draw, segments: Sequence[str] = (), by: str = ""
    ) -> bool:
        """A request that the student answered.

        Args:
            epoch: whose policy decided.
            trace: the request's id.
            score: the gate's, as `Drawn` has it.
            draw: of `AuditBook.decide`.
            segments: to which the request belongs.
            by: which gateway is to ask the frontier.

        Returns:
            Whether the frontier is to be asked too. Its result may be written only after this batch.
        """
        with self._lock:
            if not draw.audited:
                self._zero(epoch, segments)
                self._undrawn += 1
                if self._list_undrawn:
                    self._listed.append((trace, score))
                return False
            self._close()
            self._events.append(
                Drawn(
                    epoch=epoch,
                    trace=trace,
                    score=score,
                    propensity=draw.propensity,
                    draw=draw.draw,
                    segments=tuple(segments),
                    by=by,
                )
            )
            self.requests += 1
            return True

    def take(self) -> list[Passed | Drawn]:
        """The batch's events in order, for one call of `AuditBook.record`; a new batch begins."""
        with self._lock:
            self._close()
            events, self._events, self.requests = self._events, [], 0
            return events

    def _zero(self, epoch: int, segments: Sequence[str]) -> None:
        if epoch != self._epoch:
            self._close()
            self._epoch = epoch
        for segment in dict.fromkeys(segments):
            self._segments[segment] = self._segments.get(segment, 0) + 1
        self.requests += 1

    def _close(self) -> None:
        if self._refused or self._undrawn:
            self._events.append(
                Passed(
                    epoch=self._epoch,
                    refused=self._refused,
                    undrawn=self._undrawn,
                    segments=self._segments,
                    listed=tuple(self._listed),
                )
            )
        self._clear()
