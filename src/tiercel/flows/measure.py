"""Measurements for the report: the policy on test rows, curves, and the speed of students."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.ladder import Candidate
from tiercel.flows.preparation import Rows
from tiercel.report.result import Latency, TestSummary
from tiercel.stats.intervals import mean_interval, rate_interval
from tiercel.stats.ranking import auroc, ks_pvalue, reliability
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.metrics import confusions, label_metrics

__all__ = ["details_of", "latency_of", "risk_curve", "summarise_test"]

Floats = NDArray[np.float64]


def latency_of(candidate: Candidate, texts: list[str], requests: int = 200) -> Latency:
    """Time of one request after another, on one thread."""
    from tiercel.students.encoder import EncoderStudent

    parts = [
        EncoderStudent.load(p.folder, threads=1) if isinstance(p, EncoderStudent) else p
        for p in candidate.student.parts
    ]
    taken = list[float]()
    for i in range(requests + 20):
        text = [texts[i % len(texts)]]
        started = time.perf_counter()
        for part in parts:
            part.predict(text)
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


def details_of(
    rows: Rows,
    decided: NDArray[np.bool_],
    loss: Floats,
    scores: Floats,
    accepted: NDArray[np.bool_],
    labels: LabelSet,
    curves: dict[str, Any],
    *,
    examples: int,
) -> dict[str, Any]:
    """What the page shows beyond the summary; texts of requests only if `examples` is above 0.

    Args:
        rows: n test rows.
        decided: labels of the student's answers, shape (n, k).
        loss: of the student's answers, shape (n,).
        scores: of the gate, shape (n,).
        accepted: which answers are used, shape (n,).
        labels: of the workload.
        curves: to be shown, by name.
        examples: of each kind, at the most.
    """
    safe = loss <= rows.frontier_loss
    known = ~np.isnan(rows.targets[:, 0])
    actual = rows.targets[known] > 0.5

    def shown(numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [
            {
                "id": rows.ids[i],
                "text": rows.texts[i][:400],
                "student": labels.render(decided[i].nonzero()[0].tolist()),
                "frontier": rows.frontier[i].text[:200],
                "reference": rows.reference[i].text[:200] if rows.verified[i] else None,
                "score": float(scores[i]),
            }
            for i in numbers[:examples]
        ]

    wrong = np.flatnonzero(accepted & ~safe)
    needless = np.flatnonzero(~accepted & safe)
    return {
        "curves": curves,
        "reliability": reliability(scores, safe),
        "labels": label_metrics(decided[known], actual, labels.labels),
        "confusions": confusions(decided[known], actual, labels.labels),
        "accepted_wrongly": shown(wrong[np.argsort(-scores[wrong])]),
        "escalated_needlessly": shown(needless[np.argsort(-scores[needless])]),
        "counts": {
            "accepted_right": int((accepted & safe).sum()),
            "accepted_wrong": int(wrong.size),
            "escalated_right": int(needless.size),
            "escalated_wrong": int((~accepted & ~safe).sum()),
        },
    }


def student_accuracy(loss: Floats, confidence: float) -> Any:
    """Accuracy of a student's answers with its interval, from losses of shape (n,)."""
    right = loss == 0
    return rate_interval(int(right.sum()), right.size, confidence)
