"""Compares live requests with those that the certificate rests on, off the request path.

A share of the requests that a student was asked about is drawn by the digits of their ids, long after their answers.
Once a minute those are embedded and paired (`routing.drift_book`). No request is sent elsewhere because of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.flows.inputs import Inputs, embed_inputs
from tiercel.gateway.alarms import Alarms
from tiercel.gateway.desk import FAILED, UNREACHABLE
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.sections import Monitor
from tiercel.routing.drift_book import DriftBook, LiveInput
from tiercel.routing.input_drift import LEVELS, DriftStatus
from tiercel.store.database import Database
from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.gateway.epochs import Monitored

__all__ = ["Drifting"]

EVERY_S = 60.0
"""Seconds between two looks at what was drawn."""
MOST = 64
"""Requests of a workload that are looked at at once; more that were drawn meanwhile are left out."""
_UNREAD = frozenset({"another workload", FAILED, UNREACHABLE})
"""Reasons of an answer whose request no student has read."""


class Drifting:
    """The requests of the workloads that are monitored.

    Args:
        database: of the tests.
        metrics: show what was found.
        alarms: are told.
    """

    def __init__(self, database: Database, metrics: Metrics, alarms: Alarms) -> None:
        self._database = database
        self._metrics = metrics
        self._alarms = alarms
        self._share = 0.0
        self._books: dict[str, tuple[Monitored, DriftBook]] = {}
        self._waiting: dict[str, deque[tuple[str, Any, bool]]] = {}
        self._next = 0.0

    def adopt(self, monitored: Mapping[str, Monitored], settings: Monitor) -> None:
        """Go by another configuration; a test that runs goes on."""
        self._share = settings.drift_share
        books: dict[str, tuple[Monitored, DriftBook]] = {}
        for name, watched in monitored.items() if self._share else ():
            old = self._books.get(name)
            if old is not None and old[0].epoch == watched.epoch:
                books[name] = watched, old[1]
            elif (book := self._book(name, watched)) is not None:
                books[name] = watched, book
        self._books = books
        self._waiting = {name: self._waiting.get(name) or deque(maxlen=MOST) for name in books}

    def _book(self, name: str, watched: Monitored) -> DriftBook | None:
        """The test of a bundle; None where it keeps nothing to compare with."""
        desk = watched.workload.desk
        assert desk is not None
        inputs = Inputs.load(desk.bundle.folder)
        if inputs is None:
            return None
        arrays = inputs.embeddings, inputs.tokens, inputs.out_of_scope
        return DriftBook(self._database, name, watched.epoch, *arrays)

    def note(self, exchange: Exchange) -> None:
        """Draw a request, or not; called in the recorder's thread."""
        # The end of an id is random. What is captured by sample is drawn first: examples can then be shown.
        if int(exchange.id[-8:], 16) >= self._share * 2**32 or exchange.confidence is None or exchange.body is None:
            return
        waiting = self._waiting.get(exchange.workload.name) if exchange.workload is not None else None
        if waiting is None or exchange.reason in _UNREAD or len(waiting) >= MOST:
            return
        waiting.append((exchange.id, exchange.body.get("messages"), exchange.confidence <= 0))

    def tick(self) -> None:
        """Look at what was drawn, once a minute; blocks on the store.

        Raises:
            StorageError: the store does not answer.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        for name, (watched, book) in self._books.items():
            waiting = self._waiting.get(name)
            live = self._live(watched, waiting) if waiting else []
            if not live:
                continue
            status, new = book.observe(live)
            self._show(name, status)
            if new:
                self._alarms.input_drift(name, status.signals, [example.trace for example in status.examples])

    def _live(self, watched: Monitored, waiting: deque[tuple[str, Any, bool]]) -> list[LiveInput]:
        desk = watched.workload.desk
        assert desk is not None
        read: list[tuple[str, str, bool]] = []
        while waiting:
            trace, messages, out_of_scope = waiting.popleft()
            text = desk.bundle.manifest.reader.read(msgspec.convert(messages, tuple[Message, ...]))
            if text is not None:
                read.append((trace, text, out_of_scope))
        if not read:
            return []
        embeddings, tokens = embed_inputs(desk.bundle.student, [text for _, text, _ in read])
        return [
            LiveInput(trace=trace, embedding=embeddings[i], tokens=float(tokens[i]), out_of_scope=out_of_scope)
            for i, (trace, _, out_of_scope) in enumerate(read)
        ]

    def _show(self, name: str, status: DriftStatus) -> None:
        for signal in LEVELS:
            self._metrics.input_drift.labels(name, signal).set(signal in status.signals)
