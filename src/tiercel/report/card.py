"""The card of a bundle: what it is for, how good it is, what it was not made for; Markdown for people."""

from __future__ import annotations

from tiercel.report.result import PilotResult
from tiercel.report.verdict import exact_percent, percent

__all__ = ["render_card"]


def render_card(result: PilotResult) -> str:
    """The card of the bundle that a pilot wrote; no time of measurement in it, so that equal runs give equal cards."""
    c, t, rows = result.certificate, result.test, result.rows
    frontier = result.workload.frontier or "a frontier model"
    over = "all requests of each certified segment" if result.segments else "all requests"
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
        f"| excess loss over {over} | {bound}, confidence {exact_percent(c.confidence)}, {c.n:,} rows |",
        f"| answered by the student | {percent(c.offload)} of calibration rows, {percent(t.offload)} of test rows |",
        f"| excess loss on {rows.test:,} test rows | {percent(t.excess_loss.value, 2)} {span} |",
        *_further(result),
        "",
        "The certificate holds for requests like those of the traffic it was made from. When the traffic changes, run",
        "the pilot again. Requests whose system prompt differs from the workload's are never answered.",
        "",
    ]
    return "\n".join(lines)


def _further(result: PilotResult) -> list[str]:
    """Lines of the table that only some pilots have: segments, users, the floor."""
    lines = list[str]()
    if result.segments is not None:
        certified = [s for s in result.segments.segments if s.threshold is not None]
        names = ", ".join(f"{s.name or '(none)'} ({percent(s.offload)})" for s in certified) or "none"
        lines.append(f"| segments by {result.segments.field} that are certified ({result.segments.method}) | {names} |")
    if result.clusters is not None and result.clusters.cap is not None:
        c = result.clusters
        lines.append(f"| independent | {c.clusters:,} of {c.field}, of {c.cap} rows at most |")
    if result.floor is not None:
        d = result.floor.disagreement
        lines.append(
            f"| the frontier against itself | {percent(d.value, 2)} [{percent(d.low, 2)}, {percent(d.high, 2)}] "
            f"on {result.floor.requests:,} requests |"
        )
    return lines
