"""Opens the epochs of the online record: a bundle that goes live with its certificate begins one.

A second worker, another gateway, or a restart finds the epoch of the same certificate open, and goes on with it. Where
a certificate speaks of segments, one epoch holds them all: the score of a request is then what it has above the
threshold of its segment, so that one rule of audits serves them all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.bundle import read_certificate
from tiercel.gateway.permissions import may_be_audited
from tiercel.gateway.sections import Monitor
from tiercel.gateway.workloads import Workload
from tiercel.routing.audit_book import AuditBook
from tiercel.routing.audit_events import Opened
from tiercel.routing.audits import key_commitment, plan_audits
from tiercel.routing.certificate import Certificate
from tiercel.routing.error_budget import ErrorBudget
from tiercel.routing.segments import SegmentedCertificate

__all__ = ["Monitored", "can_be_audited", "open_epochs", "recorded_names"]

_NAMELESS = "(none)"

_log = logging.getLogger("tiercel.gateway")


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """A workload whose accepted answers are audited.

    Attributes:
        workload: as it is served.
        epoch: of its bundle.
        thresholds: of the certified segments; None where the certificate speaks of all requests together.
        names: of the certified segments in the record.
    """

    workload: Workload
    epoch: int
    thresholds: Mapping[str, float] | None
    names: Mapping[str, str]

    def score(self, confidence: float, segment: str | None) -> float:
        """The score of an accepted answer, as the rule of audits reads it.

        Raises:
            DataError: the segment is not certified.
        """
        if self.thresholds is None:
            return confidence
        if segment is None or segment not in self.thresholds:
            raise DataError("an answer was accepted in a segment that is not certified")
        return confidence - self.thresholds[segment]

    def recorded(self, segment: str | None) -> tuple[str, ...]:
        """The certified segments of a request by their names in the record; none for another one."""
        name = None if segment is None else self.names.get(segment)
        return () if name is None else (name,)


def can_be_audited(workload: Workload) -> bool:
    """Whether accepted answers of a workload may be compared with the frontier's."""
    certified = workload.desk is not None and workload.desk.bundle.policy.record.certified
    return certified and may_be_audited(None, workload)


def recorded_names(thresholds: Mapping[str, float]) -> dict[str, str]:
    """Names of segments in the record: their own, and one that no other has for the segment without a name."""
    nameless = _NAMELESS
    while nameless in thresholds:
        nameless = f"({nameless})"
    return {name: name or nameless for name in thresholds}


def open_epochs(
    book: AuditBook, workloads: Iterable[Workload], settings: Monitor, *, strict: bool
) -> tuple[dict[str, Monitored], set[str]]:
    """Open what has to be opened.

    Args:
        book: of audits.
        workloads: that are served.
        settings: share of audits, and the error budget.
        strict: raise where a bundle has to be certified anew; else its workload is left without an epoch.

    Returns:
        What is monitored, by the workload's name; and the names of workloads whose bundle needs a new certificate
        first.

    Raises:
        ConfigurationError: a certificate spends more of the error budget than is left for it.
    """
    found: dict[str, Monitored] = {}
    refused: set[str] = set()
    book.catch_up()
    for workload in workloads:
        if not can_be_audited(workload) or workload.desk is None:
            continue
        certificate = read_certificate(workload.desk.bundle.folder)
        thresholds = None if isinstance(certificate, Certificate) else _certified(certificate)
        try:
            epoch = _epoch_of(book, workload, certificate, settings)
        except DataError as error:
            text = f"workload {workload.name}: {error}"
            if strict:
                raise ConfigurationError(text) from None
            _log.error("%s; until then the frontier answers it", text)
            refused.add(workload.name)
        else:
            names = recorded_names(thresholds or {})
            found[workload.name] = Monitored(workload=workload, epoch=epoch, thresholds=thresholds, names=names)
    return found, refused


def _certified(certificate: SegmentedCertificate) -> dict[str, float]:
    return {name: threshold for name, threshold in certificate.thresholds.items() if threshold is not None}


def _epoch_of(
    book: AuditBook, workload: Workload, certificate: Certificate | SegmentedCertificate, settings: Monitor
) -> int:
    for _ in range(5):
        monitor = book.monitor(workload.name)
        if monitor.current is not None and monitor.current.opened.certificate == certificate.digest:
            return monitor.epoch
        event = _opened(book, workload, certificate, settings)
        outcome = book.record(workload.name, [event], now=time.time())[0]
        if not isinstance(outcome, DataError):
            _log.info("workload %s: epoch %d of its online record begins", workload.name, event.epoch)
            return event.epoch
        if book.monitor(workload.name).epoch < event.epoch:
            raise outcome
        # Another gateway has opened one meanwhile.
    raise DataError("its epochs are opened elsewhere all the time; let all gateways serve the same bundle")


def _opened(
    book: AuditBook, workload: Workload, certificate: Certificate | SegmentedCertificate, settings: Monitor
) -> Opened:
    monitor = book.monitor(workload.name)
    number = monitor.epoch + 1
    budget = monitor.budget or ErrorBudget(total=settings.budget)
    allowed = budget.allotment(number)
    if isinstance(certificate, Certificate):
        segments, gains = {}, certificate.plan.method == "betting"
        threshold = certificate.threshold if certificate.threshold is not None else 0.0
        scores = [row.score for row in certificate.rows]
    else:
        segments, threshold = _certified(certificate), 0.0
        # Tests of max(d, 0) imply the bound on d itself; the reverse does not hold.
        gains = any(certificate.plan.plans[name].method in ("betting", "wealth") for name in segments)
        known = [s for s in certificate.segments if s.name in segments]
        scores = [row.score - segments[s.name] for s in known for row in s.rows]
    return Opened(
        epoch=number,
        policy=certificate.policy,
        certificate=certificate.digest,
        max_loss=certificate.plan.max_loss,
        rule=plan_audits(scores, threshold, share=settings.share),
        key_commitment=key_commitment(book.key(workload.name, number)),
        budget=budget.total,
        certificate_delta=0.0 if number == 1 else 1.0 - certificate.plan.confidence,
        broken_delta=allowed.broken,
        within_delta=allowed.within,
        gains=gains,
        segments=tuple(recorded_names(segments).values()),
    )
