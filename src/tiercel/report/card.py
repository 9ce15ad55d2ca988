"""The card of a bundle: what it is for, how good it is, what it was not made for; Markdown for people."""

from __future__ import annotations

from tiercel.report.result import PilotResult
from tiercel.report.verdict import exact_percent, percent

__all__ = ["render_card"]


def render_card(result: PilotResult) -> str:
    """The card of the bundle that a pilot wrote; no time of measurement in it, so that equal runs give equal cards."""
    c, t, rows = result.certificate, result.test, result.rows
    frontier = result.workload.frontier or "a frontier model"
    bound = f"at most {exact_percent(c.bound)}" if c.bound is not None else "not certified"
    span = f"[{percent(t.excess_loss.low, 2)}, {percent(t.excess_loss.high, 2)}]"
    lines = [
        f"# A {result.task} student for workload {result.workload.fingerprint}",
        "",
        f"Trained by tiercel {result.version} on {rows.train:,} answers of {frontier}.",
        f"Answers: {result.workload.answer_shape}.",
        "",
        "| | |",
        "|---|---|",
        f"| student | {result.policy.student or 'none: every request goes to the frontier'} |",
        f"| excess loss over all requests | {bound}, confidence {exact_percent(c.confidence)}, {c.n:,} rows |",
        f"| answered by the student | {percent(c.offload)} of calibration rows, {percent(t.offload)} of test rows |",
        f"| excess loss on {rows.test:,} test rows | {percent(t.excess_loss.value, 2)} {span} |",
        "",
        "The certificate holds for requests like those of the traffic it was made from. When the traffic changes, run",
        "the pilot again. Requests whose system prompt differs from the workload's are never answered.",
        "",
    ]
    return "\n".join(lines)
