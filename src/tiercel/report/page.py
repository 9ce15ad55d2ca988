"""The report of a pilot as one HTML page that needs nothing but itself: no script, no font, no image from elsewhere.

The words and their order are in page.html.j2; here is what they are filled with, and how numbers are written.
"""

from __future__ import annotations

from typing import Any

import msgspec
from markupsafe import Markup

from tiercel.report.charts import CURVE_LIMIT, curve_chart, money_chart, reliability_chart
from tiercel.report.result import PilotResult, StudentSummary
from tiercel.report.templates import exact, load_template
from tiercel.report.verdict import percent, verdict_of

__all__ = ["render_page"]

SHIFTED = 0.001
"""P-value of a shift between test and calibration below which the page warns, as the pilot does."""
WORST_LABELS = 15

METHODS = {
    "binomial": "the exact binomial test",
    "betting": "the betting test for losses between -1 and 1, which also counts where the student is better",
    "hoeffding-bentkus": "the Hoeffding-Bentkus test for losses between 0 and 1",
    "bonferroni": "tests of each segment that share the allowed error, so that all certified segments hold together",
    "e-bh": "e-values of each segment and the e-BH procedure, which bounds the share of certified segments that fail",
}


def render_page(result: PilotResult) -> str:
    """The page of a pilot; equal results give equal pages."""
    details = _details(result)
    return load_template("page.html.j2").render(
        r=result,
        verdict=result.verdict or verdict_of(result),
        who=result.workload.frontier or "the frontier",
        details=details,
        student=_student(result),
        method=METHODS.get(result.certificate.method, result.certificate.method),
        cautions=_cautions(result),
        segments=result.segments,
        capped=result.clusters is not None and result.clusters.cap is not None,
        shifted=result.test.shift_pvalue < SHIFTED,
        labels=_labels(details["labels"]),
        has_kinds=result.task not in ("sql", "generation"),  # whose answers have neither labels nor fields
        curve=_curve(result, details["curves"]),
        reliability=_reliability(result, details["reliability"]),
        money=_money(result),
    )


def _details(result: PilotResult) -> dict[str, Any]:
    """The details as plain values; what the pilot left out is empty, None where the page must tell that from zero."""
    empty: dict[str, Any] = {
        "curves": {},
        "reliability": [],
        "labels": [],
        "labels_are": "labels",
        "confusions": [],
        "accepted_wrongly": [],
        "escalated_needlessly": [],
        "counts": None,
        "doubts": None,
        "curation": None,
    }
    return empty | msgspec.to_builtins(result.details)


def _student(result: PilotResult) -> StudentSummary | None:
    """The student of the policy, or the best one when nothing is certified."""
    names = {result.policy.student} if result.policy.student else set(result.policy.thresholds)
    return next((s for s in result.students if s.name in names), None)


def _cautions(result: PilotResult) -> list[str]:
    """What a reader must know before trusting the verdict."""
    certificate, test = result.certificate, result.test
    found = list[str]()
    student = _student(result)
    if result.task == "generation" and student is not None and student.accuracy is not None:
        found.append(
            "Free text is compared by the words that two answers share: a wrong name or number costs as much as any "
            f"other word. The student's answer is word for word the same on {percent(student.accuracy.value)} of the "
            "test rows. Read the examples below before you rely on the certificate."
        )
    floor = result.floor
    if floor is not None and certificate.verified_rows == 0 and floor.disagreement.low > certificate.max_loss:
        found.append(
            f"Asked again, {result.workload.frontier or 'the frontier'} disagrees with itself on "
            f"{percent(floor.disagreement.value)} of requests, more than the bound of "
            f"{exact(certificate.max_loss, 1)}: much of what counts as the student's loss is the reference's own "
            "noise. Verified references take it away."
        )
    if result.clusters is not None and result.clusters.cap is None and result.clusters.design_effect > 1.25:
        c = result.clusters
        found.append(
            f"The calibration rows come from {c.clusters:,} of '{c.field}' and go wrong together (design effect "
            f"{c.design_effect:.1f}). The certificate takes rows as independent, so it speaks of requests from "
            "these alone."
        )
    if test.shift_pvalue < SHIFTED:
        text = (
            "The test rows are not drawn like the traffic: their gate scores differ from those of the calibration rows."
        )
        if certificate.bound is not None:
            text += (
                " The certificate speaks of requests like those of the traffic; for requests like the test rows, "
                "look at their own excess loss."
            )
        found.append(text)
    if certificate.bound is not None and test.excess_loss.low > certificate.bound:
        found.append(
            f"On the test rows the policy loses {percent(test.excess_loss.value, 2)}, and even the low end of its "
            f"interval is above the bound of {exact(certificate.bound, 1)}. Find out why before you rely on the "
            "certificate."
        )
    return found


def _labels(metrics: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Labels that occur, in the test rows or among the answers, worst first; the worst of these; and the others."""
    absent = [m for m in metrics if not m["rows"] and m["precision"] is None]
    occurring = [m for m in metrics if m["rows"] or m["precision"] is not None]
    present = sorted(occurring, key=lambda m: (m["f1"], -m["rows"], m["label"]))
    return {"present": present, "worst": present[:WORST_LABELS], "absent": absent}


def _curve(result: PilotResult, curves: dict[str, Any]) -> dict[str, Any] | None:
    """The picture of offload and loss, with what its caption says; None without a curve."""
    if not any(curves.values()):
        return None
    certificate, test = result.certificate, result.test
    certain = certificate.bound is not None
    ends = {name: pairs[-1][1] for name, pairs in curves.items() if pairs}
    chart = curve_chart(
        curves,
        bound=certificate.max_loss,
        certified=(certificate.offload, certificate.estimate) if certain else None,
        tested={"offload": test.offload} | msgspec.to_builtins(test.excess_loss) if certain else None,
    )
    return {"chart": chart, "ends": ends, "cut": max(ends.values()) > CURVE_LIMIT * certificate.max_loss}


def _reliability(result: PilotResult, bins: list[dict[str, Any]]) -> Markup | None:
    threshold = next(iter(result.policy.thresholds.values()), None)
    return reliability_chart(bins, threshold=threshold) if bins else None


def _money(result: PilotResult) -> dict[str, Any] | None:
    """Costs of 1,000 requests by what they are for; None where the frontier's price is unknown."""
    cost = result.cost
    if cost.frontier_usd_per_1k is None or cost.policy_usd_per_1k is None:
        return None
    today = cost.frontier_usd_per_1k
    escalated = today * (1 - result.certificate.offload)
    own = max(0.0, cost.policy_usd_per_1k - escalated)
    moved = result.certificate.bound is not None
    return {
        "today": today,
        "escalated": escalated,
        "own": own,
        "policy": cost.policy_usd_per_1k,
        "chart": money_chart(today, escalated, own) if moved else None,
        "thousands": None if cost.requests_per_year is None else cost.requests_per_year / 1000,
    }
