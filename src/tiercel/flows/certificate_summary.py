"""What the report says of a certificate: in short, segment by segment, and what more rows would bring."""

from __future__ import annotations

import numpy as np

from tiercel.flows.candidates import Candidate
from tiercel.flows.certifying import Certified
from tiercel.flows.preparation import Prepared
from tiercel.report.result import CertificateSummary, SegmentsSummary, SegmentSummary
from tiercel.routing.certificate import Certificate
from tiercel.routing.segments import SegmentedCertificate
from tiercel.stats.intervals import mean_interval
from tiercel.stats.planning import largest_allowed_errors, rows_needed

__all__ = ["segments_summary", "summarise_certificate"]


def summarise_certificate(certified: Certified, calibration_rows: int) -> CertificateSummary:
    """The certificate in short, whether of all requests or by segment."""
    certificate = certified.certificate
    plan = certificate.plan
    held = certified.record.certified
    delta = 1 - plan.confidence
    bounds = [plan.max_loss * share for share in (0.75, 0.5, 0.25)]
    whole = isinstance(certificate, Certificate) and plan.cap is None  # pyright: ignore[reportAttributeAccessIssue]
    tighter = {f"{b:.4g}": rows_needed(max(0.0, certified.estimate), b, delta) for b in bounds} if whole else {}
    return CertificateSummary(
        max_loss=plan.max_loss,
        confidence=plan.confidence,
        bound=plan.max_loss if held else None,
        offload=certified.offload,
        n=calibration_rows,
        method=plan.method,
        estimate=certified.estimate,
        verified_rows=sum(row.verified for row in certificate.rows),
        rows_for_tighter=tighter,
        advice=_segment_advice(certificate) if isinstance(certificate, SegmentedCertificate) else _advice(certificate),
    )


def _advice(certificate: Certificate) -> str:
    plan = certificate.plan
    n = len(certificate.rows) if certificate.clusters is None else len(set(certificate.clusters))
    what = "calibration rows" if certificate.clusters is None else f"{plan.cluster}s among the calibration rows"
    delta = 1 - plan.confidence
    fewest = rows_needed(0.0, plan.max_loss, delta) or 0
    if certificate.threshold is not None:
        return f"more {what} certify a tighter bound at the same threshold, or more offload at the same bound"
    if n < fewest:
        return (
            f"a bound of {plan.max_loss:.4g} needs at least {fewest} {what} even without an error, "
            f"here are {n}: collect about {round(fewest / max(n, 1) * 1.5, 1)} times the traffic, "
            "or allow a larger --max-loss"
        )
    allowed = largest_allowed_errors(n, plan.max_loss, delta)
    return (
        f"{n} {what} allow {allowed} errors, and the student makes more among its surest answers: "
        "allow a larger --max-loss, verify references where frontier and student disagree, or collect more traffic"
    )


def _segment_advice(certificate: SegmentedCertificate) -> str:
    plan = certificate.plan
    tested, few = len(certificate.segments), sum(certificate.others.values())
    if not tested:
        fewest = rows_needed(0.0, plan.max_loss, 1 - plan.confidence) or 0
        return (
            f"no segment by {plan.field} has the {fewest} calibration rows that a bound of {plan.max_loss:.4g} needs "
            "even without an error: collect more traffic, allow a larger --max-loss, or leave --segment out"
        )
    certified = sum(s.threshold is not None for s in certificate.segments)
    left = f"; {few} calibration rows are of segments with too few rows to be tested" if few else ""
    return (
        f"{certified} of {tested} tested segments are certified, and all others stay with the frontier{left}: "
        "more traffic certifies more of them"
    )


def segments_summary(certified: Certified, prepared: Prepared, best: Candidate) -> SegmentsSummary | None:
    """Each segment with its certificate and what its test rows say; None without segments."""
    certificate = certified.certificate
    if not isinstance(certificate, SegmentedCertificate):
        return None
    names, accepted = np.array(certified.segments["test"], dtype=object), certified.accepted("test")
    excess = np.where(accepted, best.losses["test"] - prepared.test.frontier_loss, 0.0)
    tested = {s.name: s for s in certificate.segments}

    def summary(name: str) -> SegmentSummary:
        own = names == name
        record = tested.get(name)
        return SegmentSummary(
            name=name,
            rows=len(record.rows) if record else certificate.others[name],
            threshold=record.threshold if record else None,
            offload=record.offload if record else 0.0,
            estimate=record.estimate if record else 0.0,
            tested=record is not None,
            test_rows=int(own.sum()),
            test_offload=float(accepted[own].mean()) if own.any() else None,
            test_excess_loss=mean_interval(excess[own], -1.0, 1.0, certificate.plan.confidence) if own.any() else None,
        )

    others = sorted(certificate.others, key=lambda name: (-certificate.others[name], name))
    return SegmentsSummary(
        field=certificate.plan.field,
        method=certificate.plan.method,
        segments=tuple(summary(name) for name in [*tested, *others]),
    )
