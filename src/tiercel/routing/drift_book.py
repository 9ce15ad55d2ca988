"""The drift tests of a store's workloads: one for each epoch, moved by all gateways, round after round.

A reference request is used once in a round. When all are used and nothing was found, the next round begins: another
order, nothing learned before, and a smaller part of the level. Each round alone is valid at its level, whatever came
of those before it, and round k may have 1 / (k (k + 1)) of the whole: so all of them together keep it, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.routing.input_drift import DriftState, DriftStatus, InputDrift, Signal
from tiercel.routing.monitor import MonitorStatus
from tiercel.store.database import Database
from tiercel.store.entries import with_content_kept
from tiercel.store.monitor_work import DriftTest, advance_drift_test, read_drift_statuses, read_drift_test

__all__ = ["LEVEL", "DriftBook", "LiveInput", "with_input_drift"]

Floats = NDArray[np.float64]

LEVEL = 0.01
"""Chance of a false alarm in an epoch, over all rounds; not part of the error budget, because no request is sent
elsewhere for it."""


class LiveInput(Struct, frozen=True, kw_only=True):
    """A request that was drawn by chance."""

    trace: str
    embedding: Floats
    """Shape (d,), of length 1."""
    tokens: float
    out_of_scope: bool


class DriftBook:
    """The test of one epoch of a workload.

    Args:
        database: that all gateways share.
        workload: name.
        epoch: of the workload.
        embeddings: of reference requests, shape (n, d), rows of length 1.
        tokens: of the same, shape (n,).
        out_of_scope: whether each was, shape (n,).

    Raises:
        DataError: the reference is too small, or its parts do not fit together.
    """

    def __init__(
        self,
        database: Database,
        workload: str,
        epoch: int,
        embeddings: Floats,
        tokens: Floats,
        out_of_scope: NDArray[np.bool_],
    ) -> None:
        self._database = database
        self._workload = workload
        self._epoch = epoch
        self._reference = embeddings, tokens, out_of_scope
        self._test: InputDrift | None
        # Nothing is made before it is needed: a start is not to wait for it.
        self._round, self._moved, self._test = 0, -1, None

    def observe(self, live: Sequence[LiveInput]) -> tuple[DriftStatus, tuple[Signal, ...]]:
        """Pair requests and write down what came of it.

        Args:
            live: in the order in which they came.

        Returns:
            What is known, and which signals were found by these.

        Raises:
            DataError: a request does not fit the reference; nothing was written.
            StorageError: nothing was written.
        """
        # Made ready before the lock is taken: to begin a test takes longer than to go on.
        self._follow(read_drift_test(self._database, self._workload, self._epoch))
        before: set[Signal] = set()
        status: DriftStatus | None = None

        def advance(last: DriftTest | None) -> DriftTest:
            nonlocal status
            test = self._follow(last)
            # An embedding is kept as long as its text is: what nobody may show is not remembered either.
            stored = with_content_kept(self._database, [*test.remembered, *(one.trace for one in live)])
            test.forget(set(test.remembered) - stored)
            before.update(test.found)
            for one in live:
                if test.exhausted and not test.found:
                    self._round += 1
                    test = self._test = self._begun(self._round)
                keep = one.trace in stored
                test.observe(one.trace, one.embedding, one.tokens, one.out_of_scope, keep=keep)
            self._moved += 1
            status = test.status()
            return DriftTest(
                workload=self._workload,
                epoch=self._epoch,
                round=self._round,
                moved=self._moved,
                state=msgspec.json.encode(test.state()),
                status=msgspec.json.encode(status),
            )

        try:
            advance_drift_test(self._database, self._workload, self._epoch, advance)
        except BaseException:
            self._moved = -1  # what is in memory is not what is kept
            raise
        assert status is not None
        return status, tuple(signal for signal in status.signals if signal not in before)

    def _begun(self, number: int) -> InputDrift:
        return InputDrift(*self._reference, level=LEVEL / (number * (number + 1)), seed=number)

    def _follow(self, last: DriftTest | None) -> InputDrift:
        """Be where the last gateway left off."""
        number, moved = (1, 0) if last is None else (last.round, last.moved)
        if self._test is not None and moved == self._moved:
            return self._test
        test = self._begun(number)
        if last is not None:
            test.resume(msgspec.json.decode(last.state, type=DriftState))
        self._round, self._moved, self._test = number, moved, test
        return test


def with_input_drift(database: Database, statuses: Sequence[MonitorStatus]) -> list[MonitorStatus]:
    """States of workloads with what is known of their requests.

    Raises:
        StorageError: the database does not answer.
    """
    known = read_drift_statuses(database)
    return [
        msgspec.structs.replace(s, input_drift=msgspec.json.decode(known[s.workload, s.epoch], type=DriftStatus))
        if (s.workload, s.epoch) in known
        else s
        for s in statuses
    ]
