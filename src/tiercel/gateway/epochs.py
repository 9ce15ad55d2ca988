"""Opens the epochs of the online record: a bundle that goes live with its certificate begins one.

A second worker, another gateway, or a restart finds the epoch of the same certificate open, and goes on with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.bundle import read_certificate
from tiercel.gateway.sections import Monitor
from tiercel.gateway.workloads import Workload
from tiercel.routing.audit_book import AuditBook
from tiercel.routing.audit_events import Opened
from tiercel.routing.audits import key_commitment, plan_audits
from tiercel.routing.certificate import Certificate
from tiercel.routing.error_budget import ErrorBudget

__all__ = ["can_be_audited", "open_epochs"]

_log = logging.getLogger("tiercel.gateway")


def can_be_audited(workload: Workload) -> bool:
    """Whether accepted answers of a workload may be compared with the frontier's."""
    if workload.desk is None or workload.settings.local_only or workload.desk.bundle.policy.record.threshold is None:
        return False
    tiers = workload.settings.tiers
    return tiers is None or "frontier" in tiers


def open_epochs(
    book: AuditBook, workloads: Iterable[Workload], settings: Monitor, *, strict: bool
) -> tuple[dict[str, int], set[str]]:
    """Open what has to be opened.

    Args:
        book: of audits.
        workloads: that are served.
        settings: share of audits, and the error budget.
        strict: raise where a bundle has to be certified anew; else its workload is left without an epoch.

    Returns:
        The epoch of each workload that is monitored, by the workload's name; and the names of those whose bundle needs
        a new certificate first.

    Raises:
        ConfigurationError: a certificate spends more of the error budget than is left for it.
    """
    found: dict[str, int] = {}
    refused: set[str] = set()
    book.catch_up()
    for workload in workloads:
        if not can_be_audited(workload) or workload.desk is None:
            continue
        certificate = read_certificate(workload.desk.bundle.folder)
        try:
            found[workload.name] = _epoch_of(book, workload, certificate, settings)
        except DataError as error:
            text = f"workload {workload.name}: {error}"
            if strict:
                raise ConfigurationError(text) from None
            _log.error("%s; until then the frontier answers it", text)
            refused.add(workload.name)
    return found, refused


def _epoch_of(book: AuditBook, workload: Workload, certificate: Certificate, settings: Monitor) -> int:
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


def _opened(book: AuditBook, workload: Workload, certificate: Certificate, settings: Monitor) -> Opened:
    monitor = book.monitor(workload.name)
    number, plan = monitor.epoch + 1, certificate.plan
    budget = monitor.budget or ErrorBudget(total=settings.budget)
    allowed = budget.allotment(number)
    threshold = certificate.threshold if certificate.threshold is not None else 0.0
    return Opened(
        epoch=number,
        policy=certificate.policy,
        certificate=certificate.digest,
        max_loss=plan.max_loss,
        rule=plan_audits([row.score for row in certificate.rows], threshold, share=settings.share),
        key_commitment=key_commitment(book.key(workload.name, number)),
        budget=budget.total,
        certificate_delta=0.0 if number == 1 else 1.0 - plan.confidence,
        broken_delta=allowed.broken,
        within_delta=allowed.within,
        gains=plan.method == "betting",
    )
