"""The book of audits: monitors of all workloads, kept in step with the store's log by every gateway that writes to it.

To write, a gateway takes the log's lock, reads what others wrote, and appends its own events with the e-values after
each. So all gateways have the same monitors, and the log holds all that is needed to make them again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tiercel.errors import CertificateError, DataError
from tiercel.routing.audit_events import Drawn, Event, Opened, Resolved, Verdict
from tiercel.routing.audits import Draw, draw_audit, epoch_key, key_commitment, uniform_draw
from tiercel.routing.monitor import Monitor, Outcome
from tiercel.store.audit_log import (
    AuditRow,
    Chain,
    NewRow,
    appending,
    audit_key,
    canonical,
    check_storable,
    export_log,
    load_snapshots,
    read_rows,
    save_snapshots,
)
from tiercel.store.database import Database

__all__ = ["AuditBook"]

_HEADER = ("kind", "epoch", "trace")
_DERIVED = ("evalues", "note")


class AuditBook:
    """The monitors of a store's workloads; threads share it.

    Args:
        database: that all gateways share.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._master = audit_key(database)
        self._lock = threading.Lock()
        self._shown: dict[str, Monitor] = {}
        self._forget()

    def __repr__(self) -> str:
        return f"AuditBook({self._database!r})"

    def _forget(self) -> None:
        """Make the monitors again at the next use; until then the last ones are shown, which still say what to do."""
        self._monitors: dict[str, Monitor] = {}
        self._seen = 0
        self._due: list[tuple[str, Verdict]] = []
        self._loaded = False

    def key(self, workload: str, epoch: int) -> bytes:
        """The key of an epoch's draws, 32 secret bytes."""
        return epoch_key(self._master, workload, epoch)

    def decide(self, workload: str, trace: str, score: float, *, epoch: int | None = None) -> tuple[int, Draw]:
        """Draw for an accepted answer, by the rule of its epoch.

        Args:
            workload: name.
            trace: the request's id.
            score: as `Drawn` has it.
            epoch: whose policy accepted the answer; the current one where None.

        Returns:
            The epoch and the draw; write `Drawn` where it asks for an audit, else count the request in a `Passed`.

        Raises:
            DataError: the workload has no such epoch, or its policy does not accept this score.
        """
        monitor = self.monitor(workload)
        number = monitor.epoch if epoch is None else epoch
        watch = monitor.of_epoch(number)
        if watch is None:
            raise DataError(f"the workload {workload} has no epoch {number}; promote a bundle with a certificate first")
        return number, draw_audit(watch.opened.rule, self.key(workload, number), trace, score)

    def monitor(self, workload: str) -> Monitor:
        """A workload's monitor as far as the book has been read; one without an epoch where the log knows none."""
        return self._shown.get(workload) or Monitor(workload)

    @property
    def workloads(self) -> tuple[str, ...]:
        """Names of all workloads that have an epoch."""
        return tuple(sorted(self._shown))

    def catch_up(self) -> None:
        """Read what other gateways wrote.

        Raises:
            StorageError: the database does not answer.
            CertificateError: the log was tampered with, or was written by a program that computes otherwise.
        """
        with self._lock:
            self._guarded_catch_up()

    def record(self, workload: str, events: Sequence[Event], *, now: float) -> list[Outcome | DataError]:
        """Write events, in their order, and what follows from them.

        Requests and draws come from `AuditBatch.take`, whole, so that their place in the log depends neither on draws
        nor on results; a result is written after the batch that has its draw.

        Args:
            workload: to which they belong.
            events: at least one.
            now: Unix time.

        Returns:
            For each event what it did or why it was refused; a refused one is not written and stops no other.

        Raises:
            StorageError: nothing was written; the same events may be given again.
            CertificateError: the log was tampered with; nothing was written.
        """
        with self._lock:
            self._guarded_catch_up()
            try:
                with appending(self._database, after=self._seen) as chain:
                    for row in chain.missed:
                        self._take(row)
                    outcomes = [self._write(chain, workload, event, now) for event in events]
            except BaseException:
                # The monitors may hold what the log does not; they are made again at the next use.
                self._forget()
                raise
            self._seen, self._shown = chain.head[0], self._monitors
            return outcomes

    def overdue(self, *, older_than_s: float, now: float) -> dict[str, list[Resolved]]:
        """What gives up audits that have had no result for too long, to record by workload; they count as losses."""
        self.catch_up()
        late = {workload: self.monitor(workload).unresolved(now - older_than_s) for workload in self.workloads}
        return {
            workload: [Resolved(epoch=epoch, trace=trace, source="expired") for epoch, trace in audits]
            for workload, audits in late.items()
            if audits
        }

    def save(self) -> None:
        """Keep the monitors in the store, so that the next start is quick."""
        with self._lock:
            self._guarded_catch_up()
            states = {name: monitor.encode() for name, monitor in self._monitors.items()}
            save_snapshots(self._database, states, sequence=self._seen)

    def export(self, path: Path, *, show_current_keys: bool = False) -> int:
        """Write the log for a verifier, with the keys of closed epochs.

        Args:
            path: of the file.
            show_current_keys: show keys of epochs that run too; who has one knows which requests will be audited.

        Returns:
            Rows written.
        """
        self.catch_up()
        keys = [
            {"workload": name, "epoch": epoch, "key": self.key(name, epoch).hex()}
            for name in self.workloads
            for epoch in range(1, self.monitor(name).epoch + show_current_keys)
        ]
        with path.open("w", encoding="utf-8") as out:
            return export_log(self._database, out, keys=keys)

    def _guarded_catch_up(self) -> None:
        try:
            if not self._loaded:
                self._seen, _, states = load_snapshots(self._database)
                self._monitors = {name: Monitor.decode(state) for name, state in states.items()}
                self._loaded = True
            for row in read_rows(self._database, after=self._seen):
                self._take(row)
            self._shown = self._monitors
        except BaseException:
            self._forget()
            raise

    def _write(self, chain: Chain, workload: str, event: Event, now: float) -> Outcome | DataError:
        monitor = self._monitors.get(workload) or Monitor(workload)
        try:
            self._check_draws(workload, event)
            check_storable(_row(workload, event))
            outcome = monitor.apply(event, created=now)
        except DataError as error:
            return error
        self._monitors[workload] = monitor
        chain.add(_row(workload, event, outcome), now)
        for verdict in outcome.verdicts:
            chain.add(_row(workload, verdict, monitor.apply(verdict, created=now)), now)
        return outcome

    def _check_draws(self, workload: str, event: Event) -> None:
        """See that what is about to be written can be repeated by a verifier."""
        if isinstance(event, Opened) and event.key_commitment != key_commitment(self.key(workload, event.epoch)):
            raise DataError(
                f"epoch {event.epoch} of {workload} commits to another key; take `key_commitment` of `AuditBook.key`"
            )
        if isinstance(event, Drawn) and event.draw != uniform_draw(self.key(workload, event.epoch), event.trace):
            raise DataError(
                f"the draw of {event.trace} is not the one that its id gives; take it from `AuditBook.decide`"
            )

    def _take(self, row: AuditRow) -> None:
        """Fold a row that another gateway wrote, and see that it says what it must."""
        event = _event(row)
        monitor = self._monitors.setdefault(row.workload, Monitor(row.workload))
        try:
            outcome = monitor.apply(event, created=row.created)
        except DataError as error:
            raise CertificateError(f"row {row.sequence} of the audit log can't be: {error}") from None
        due = isinstance(event, Verdict) and bool(self._due) and self._due[0] == (row.workload, event)
        if isinstance(event, Verdict) != bool(self._due) or (isinstance(event, Verdict) and not due):
            raise CertificateError(f"row {row.sequence} of the audit log is not the verdict that its e-values give")
        if due:
            self._due.pop(0)
        if canonical(_derived(outcome)) != canonical({name: row.body.get(name) for name in _DERIVED}):
            raise CertificateError(
                f"row {row.sequence} of the audit log has other e-values than its own record gives; verify the log"
            )
        self._due += [(row.workload, verdict) for verdict in outcome.verdicts]
        self._seen = row.sequence


def _derived(outcome: Outcome) -> dict[str, Any]:
    return {"evalues": msgspec.to_builtins(outcome.evalues), "note": outcome.note.value}


def _row(workload: str, event: Event, outcome: Outcome | None = None) -> NewRow:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    body = {name: value for name, value in fields.items() if name not in _HEADER}
    return NewRow(
        kind=fields["kind"],
        workload=workload,
        epoch=event.epoch,
        trace=fields.get("trace"),
        body=body | (_derived(outcome) if outcome else {}),
    )


def _event(row: AuditRow) -> Event:
    fields = {name: value for name, value in row.body.items() if name not in _DERIVED}
    fields |= {"kind": row.kind, "epoch": row.epoch} | ({} if row.trace is None else {"trace": row.trace})
    try:
        return msgspec.convert(fields, type=Event)
    except msgspec.ValidationError as error:
        raise CertificateError(
            f"row {row.sequence} of the audit log is no event that this version knows ({error}); update the program"
        ) from None
