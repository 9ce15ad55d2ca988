"""Measurements for the report: the policy on test rows, curves, and the speed of students."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.candidates import Candidate
from tiercel.flows.classifier import Classifier
from tiercel.flows.preparation import Prepared, Rows
from tiercel.report.result import Latency, ScopeSummary, TestSummary
from tiercel.stats.intervals import mean_interval, rate_interval
from tiercel.stats.ranking import auroc, ks_pvalue, reliability
from tiercel.tasks.metrics import Confusion, LabelMetrics, confusions, field_metrics, label_metrics
from tiercel.tasks.out_of_scope import in_scope_scores, out_of_scope_label
from tiercel.types import Answer

__all__ = ["details_of", "latency_of", "metrics_of", "risk_curve", "scope_of", "student_accuracy", "summarise_test"]

Floats = NDArray[np.float64]


def latency_of(candidate: Candidate, texts: list[str], requests: int = 200) -> Latency:
    """Time of one request after another, on one thread."""
    responder = candidate.responder.single_threaded()
    taken = list[float]()
    for i in range(requests + 20):
        text = [texts[i % len(texts)]]
        started = time.perf_counter()
        responder.respond(text)
        taken.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.quantile(taken[20:], [0.5, 0.99])
    return Latency(p50=float(p50), p99=float(p99))


def summarise_test(
    rows: Rows, loss: Floats, scores: Floats, accepted: NDArray[np.bool_], calibration_scores: Floats, confidence: float
) -> TestSummary:
    """The policy on test rows.

    Args:
        rows: n test rows.
        loss: of the student's answers, shape (n,).
        scores: of the gate, shape (n,).
        accepted: which answers are used, shape (n,).
        calibration_scores: of the gate on the calibration rows.
        confidence: of the intervals.
    """
    excess = np.where(accepted, loss - rows.frontier_loss, 0.0)
    right = 1 - np.where(accepted, loss, rows.frontier_loss)
    verified = rows.verified
    area = auroc(scores, loss <= rows.frontier_loss)
    return TestSummary(
        offload=float(accepted.mean()),
        excess_loss=mean_interval(excess, -1.0, 1.0, confidence),
        accuracy=mean_interval(right, 0.0, 1.0, confidence),
        escalated=int((~accepted).sum()),
        frontier_accuracy=(
            mean_interval(1 - rows.frontier_loss[verified], 0.0, 1.0, confidence) if verified.any() else None
        ),
        gate_auroc=None if np.isnan(area) else area,
        shift_pvalue=ks_pvalue(scores, calibration_scores),
    )


def risk_curve(scores: Floats, excess: Floats, points: int = 120) -> list[tuple[float, float]]:
    """Pairs of offload and marginal excess loss as the threshold falls; scores and excess of shape (n,)."""
    if not scores.size:
        return []
    order = np.argsort(-scores, kind="stable")
    risk = np.cumsum(excess[order]) / scores.size
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    chosen = last[np.unique(np.linspace(0, last.size - 1, points).round().astype(int))]
    return [(0.0, 0.0), *((float((i + 1) / scores.size), float(risk[i])) for i in chosen)]


def metrics_of(prepared: Prepared, answers: Sequence[Answer]) -> list[LabelMetrics]:
    """Precision, recall and F1 of each label, or of each field where answers have fields, on the test rows."""
    rows, labels = prepared.test, prepared.labels
    if labels is None:
        return field_metrics(prepared.task, answers, rows.reference)
    decided = labels.targets([a.text for a in answers]) > 0.5
    return label_metrics(decided[rows.parsed], rows.targets[rows.parsed] > 0.5, labels.labels)


def scope_of(candidate: Candidate, prepared: Prepared) -> ScopeSummary | None:
    """How well a classifier tells test rows that are out of scope from the others; see `ScopeSummary`."""
    labels, rows = prepared.labels, prepared.test
    label = None if labels is None else out_of_scope_label(labels)
    if labels is None or label is None or not isinstance(candidate.responder, Classifier):
        return None
    known = rows.take(np.flatnonzero(rows.parsed))
    outside = known.targets[:, label] > 0.5
    if outside.all() or not outside.any():
        return None
    probabilities = candidate.responder.student.predict(known.texts).probabilities
    return ScopeSummary(
        label=labels.labels[label],
        auroc=auroc(in_scope_scores(probabilities, label), ~outside),
        outside=int(outside.sum()),
        rows=len(known),
    )


def details_of(
    prepared: Prepared,
    answers: Sequence[Answer],
    loss: Floats,
    scores: Floats,
    accepted: NDArray[np.bool_],
    curves: dict[str, Any],
    *,
    examples: int,
) -> dict[str, Any]:
    """What the page shows beyond the summary; texts of requests only if `examples` is above 0.

    Args:
        prepared: whose n test rows are shown.
        answers: of the student.
        loss: of the student's answers, shape (n,).
        scores: of the gate, shape (n,).
        accepted: which answers are used, shape (n,).
        curves: to be shown, by name.
        examples: of each kind, at the most.
    """
    rows, labels = prepared.test, prepared.labels
    safe = loss <= rows.frontier_loss

    def shown(numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [
            {
                "id": rows.ids[i],
                "text": rows.texts[i][:400],
                "student": _shown(answers[i]),
                "frontier": _shown(rows.frontier[i]),
                "reference": _shown(rows.reference[i]) if rows.verified[i] else None,
                "score": float(scores[i]),
            }
            for i in numbers[:examples]
        ]

    mixed = list[Confusion]()
    if labels is not None:
        decided = labels.targets([a.text for a in answers]) > 0.5
        mixed = confusions(decided[rows.parsed], rows.targets[rows.parsed] > 0.5, labels.labels)
    wrong = np.flatnonzero(accepted & ~safe)
    needless = np.flatnonzero(~accepted & safe)
    return {
        "curves": curves,
        "reliability": reliability(scores, safe),
        "labels": metrics_of(prepared, answers),
        "labels_are": "labels" if labels is not None else "fields",
        "confusions": mixed,
        "accepted_wrongly": shown(wrong[np.argsort(-scores[wrong])]),
        "escalated_needlessly": shown(needless[np.argsort(-scores[needless])]),
        "counts": {
            "accepted_right": int((accepted & safe).sum()),
            "accepted_wrong": int(wrong.size),
            "escalated_right": int(needless.size),
            "escalated_wrong": int((~accepted & ~safe).sum()),
        },
    }


def _shown(answer: Answer) -> str:
    calls = ", ".join(f"{c.function.name}({c.function.arguments})" for c in answer.tool_calls)
    return (calls or answer.text)[:300]


def student_accuracy(loss: Floats, confidence: float) -> Any:
    """Accuracy of a student's answers with its interval, from losses of shape (n,)."""
    right = loss == 0
    return rate_interval(int(right.sum()), right.size, confidence)
