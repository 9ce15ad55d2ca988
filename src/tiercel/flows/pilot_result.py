"""What a finished pilot says of itself: the result that its report, its card and report.json show."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tiercel._version import __version__
from tiercel.flows.candidates import Candidate, Skipped
from tiercel.flows.certificate_summary import segments_summary, summarise_certificate
from tiercel.flows.certifying import Certified
from tiercel.flows.costs import CPU_USD_PER_HOUR, cost_of_policy, requests_per_year
from tiercel.flows.floor import floor_of
from tiercel.flows.measure import (
    details_of,
    latency_of,
    metrics_of,
    risk_curve,
    scope_of,
    student_accuracy,
    summarise_test,
)
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Keeping
from tiercel.flows.traffic import Traffic
from tiercel.providers.prices import PriceTable
from tiercel.report.result import PilotResult, PolicySummary, RowCounts, StudentSummary, WorkloadSummary
from tiercel.report.verdict import verdict_of
from tiercel.tasks.metrics import macro_metrics, micro_f1

__all__ = ["summarise"]


def summarise(
    read: Traffic,
    prepared: Prepared,
    candidates: Sequence[Candidate],
    skipped: Sequence[Skipped],
    certified: Certified,
    *,
    confidence: float,
    frontier: str | None,
    requests_a_day: float | None,
    prices: PriceTable,
    threads: int,
    augmented: int,
    examples: int,
    progress: Keeping,
) -> PilotResult:
    """Measure the students on the test rows, which nothing else has read, and put all that was found together.

    Args:
        read: the traffic.
        prepared: its parts.
        candidates: students that were trained, cheapest first.
        skipped: students that were not, and why.
        certified: the one that was chosen, its gate and its certificate.
        confidence: of the intervals.
        frontier: model to price and to name as the frontier; None for the one that the log names.
        requests_a_day: volume; None for that of the log.
        prices: of models.
        threads: that trained.
        augmented: training rows that a teacher wrote.
        examples: requests of each kind that the report may show.
        progress: is told what is measured; its warnings so far are part of the result.
    """
    test, best = prepared.test, certified.candidate
    loss, scores, accepted = best.losses["test"], certified.scores("test"), certified.accepted("test")
    calibration_loss, calibration_scores = best.losses["calibration"], certified.scores("calibration")
    summary = summarise_test(test, loss, scores, accepted, calibration_scores, confidence)
    if summary.shift_pvalue < 0.001:
        progress.warn(
            "the test rows are not drawn like the traffic (gate scores differ): the certificate speaks of requests "
            "like the traffic's, so look at the test's own excess loss"
        )
    progress.stage("measuring latency")
    students = [_student_summary(c, prepared, confidence) for c in candidates]
    students += [_skipped_summary(s) for s in skipped]
    chosen = students[candidates.index(best)]
    named = frontier or next((e.model for e in read.examples if e.model), None)
    yearly = requests_per_year(read.examples, read.repeats.total())
    if requests_a_day is not None:
        yearly = requests_a_day * 365
    cost = cost_of_policy(
        read.examples,
        frontier=frontier or None,
        prices=prices,
        offload=certified.offload,
        student_usd_per_1k=chosen.cost_per_1k_usd or 0.0,
        training_seconds=sum(c.stage.train_seconds for c in candidates),
        cores=threads,
        yearly=yearly,
    )
    curves = {
        "test": risk_curve(scores, loss - test.frontier_loss),
        "calibration": risk_curve(calibration_scores, calibration_loss - prepared.calibration.frontier_loss),
    }
    weights = dict(zip(best.responder.signals, certified.gate.weights_.tolist(), strict=True))
    counts = RowCounts(
        train=len(prepared.train),
        gate=len(prepared.gate),
        calibration=len(prepared.calibration),
        test=len(test),
        rejected=read.counts.rejected,
        duplicates=read.duplicates,
        leaked=prepared.leaked,
        unparsed=prepared.unparsed,
        unanswered=prepared.unanswered,
        augmented=augmented,
    )
    result = PilotResult(
        format=1,
        version=__version__,
        verdict="",
        workload=WorkloadSummary(
            fingerprint=read.key.fingerprint,
            template=read.key.template.shown,
            tools=read.key.tools,
            rows=len(read.examples),
            answer_shape=prepared.shape,
            frontier=named,
        ),
        task=prepared.task,
        rows=counts,
        students=tuple(students),
        policy=PolicySummary(
            student=best.name if certified.record.certified else None,
            thresholds={best.name: certified.record.threshold},
            offload=certified.offload,
            signals=weights,
            gate=certified.gate.choice_,
        ),
        certificate=summarise_certificate(certified, len(prepared.calibration)),
        test=summary,
        cost=cost,
        warnings=tuple(progress.warnings),
        segments=segments_summary(certified, prepared, best),
        clusters=certified.clusters,
        floor=floor_of(read, prepared, frontier=named, confidence=confidence),
        scope=scope_of(best, prepared),
        details=details_of(prepared, best.responses["test"].answers, loss, scores, accepted, curves, examples=examples),
    )
    return msgspec.structs.replace(result, verdict=verdict_of(result))


def _student_summary(candidate: Candidate, prepared: Prepared, confidence: float) -> StudentSummary:
    rows, loss = prepared.test, candidate.losses["test"]
    metrics = metrics_of(prepared, candidate.responses["test"].answers)
    macro = macro_metrics(metrics) if metrics else None
    latency = latency_of(candidate, rows.texts)
    return StudentSummary(
        name=candidate.name,
        rung=candidate.responder.rung,
        accuracy=student_accuracy(loss, confidence),
        loss=float(loss.mean()),
        macro_f1=macro.f1 if macro else None,
        micro_f1=micro_f1(metrics) if metrics else None,
        macro_precision=macro.precision if macro else None,
        macro_recall=macro.recall if macro else None,
        latency_ms=latency,
        train_seconds=candidate.stage.train_seconds,
        size_bytes=candidate.size_bytes,
        cost_per_1k_usd=latency.p50 * CPU_USD_PER_HOUR / 3600,
        expected_offload=candidate.expected_offload,
        precision=candidate.stage.precision,
        parity=candidate.stage.parity,
        note=candidate.stage.note,
    )


def _skipped_summary(skipped: Skipped) -> StudentSummary:
    return StudentSummary(
        name=skipped.name,
        rung=skipped.rung,
        accuracy=None,
        loss=None,
        macro_f1=None,
        micro_f1=None,
        latency_ms=None,
        train_seconds=0.0,
        size_bytes=0,
        cost_per_1k_usd=None,
        expected_offload=None,
        note=skipped.why,
    )
