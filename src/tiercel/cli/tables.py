"""Outcomes as text on a terminal, readable without colour."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tiercel.flows.assess import Assessment
from tiercel.flows.label_output import LabelCounts
from tiercel.report.result import PilotResult
from tiercel.report.verdict import percent, usd

__all__ = ["label_summary", "pilot_summary", "workload_table"]


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)


def workload_table(found: Assessment, source: str) -> None:
    """Print the workloads of a log."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "fingerprint", "rows", "task", "answers", "tokens in", "cached", "out", "spend", "pilot"):
        table.add_column(name, justify="left" if name in ("fingerprint", "task", "answers", "pilot") else "right")
    for line in found.workloads[:40]:
        about = "~" if line.tokens_estimated else ""
        table.add_row(
            str(line.number),
            line.fingerprint,
            f"{line.rows:,}",
            line.task,
            line.answer_shape,
            f"{about}{line.input_tokens:,}",
            f"{line.cached_input_tokens:,}",
            f"{about}{line.output_tokens:,}",
            "unknown" if line.spend_usd is None else usd(line.spend_usd),
            line.pilot,
        )
    console = _console()
    console.print(table)
    if len(found.workloads) > 40:
        console.print(f"and {len(found.workloads) - 40} more; --json lists them all")
    for line in found.workloads[:5]:
        prompt = " ".join(line.template.split()) or "(no system prompt)"
        console.print(f"{line.number}: {prompt[:150]}{'…' if len(prompt) > 150 else ''}", soft_wrap=True)
    if found.spend_usd is None:
        console.print("spend: the log names no model with a known price; give --frontier MODEL, or --prices FILE")
    else:
        console.print(f"spend: {usd(found.spend_usd)} at list prices of {found.price_date}")
    ready = next((line for line in found.workloads if line.pilot == "yes"), None)
    if ready is not None:
        chosen = f" --workload {ready.number}" if len(found.workloads) > 1 else ""
        console.print(f"next: tiercel pilot {source}{chosen}")


def pilot_summary(result: PilotResult, out: Path) -> None:
    """Print the outcome of a pilot and what to type next."""
    console = _console()
    console.print(result.verdict, soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("student", "accuracy", "latency p50", "trained in", "size", "expected offload", ""):
        table.add_column(name, justify="left" if name in ("student", "") else "right")
    for s in result.students:
        if s.accuracy is None or s.latency_ms is None:
            table.add_row(s.name, "-", "-", "-", "-", "-", s.note)
            continue
        table.add_row(
            s.name,
            f"{percent(s.accuracy.value)} [{percent(s.accuracy.low)}, {percent(s.accuracy.high)}]",
            f"{s.latency_ms.p50:.2f} ms",
            f"{s.train_seconds:.0f} s",
            f"{s.size_bytes / 1e6:.1f} MB",
            percent(s.expected_offload or 0.0),
            "chosen" if s.name == result.policy.student else s.note,
        )
    console.print(table)
    test = result.test
    console.print()
    console.print(
        f"on {result.rows.test:,} test rows: {percent(test.offload)} answered by the student, excess loss "
        f"{percent(test.excess_loss.value, 2)} "
        f"[{percent(test.excess_loss.low, 2)}, {percent(test.excess_loss.high, 2)}]",
        soft_wrap=True,
    )
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if result.certificate.bound is not None:
        console.print(f"next:   tiercel serve --bundle {out / 'bundle'}", soft_wrap=True)
        console.print(f"        tiercel certificate verify {out / 'bundle'}", soft_wrap=True)


def label_summary(counts: LabelCounts, output: Path, budget: float | None) -> None:
    """Print what became of the requests, what they cost, and what to type next."""
    console = _console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    say(
        f"{counts.labelled + counts.kept:,} answered rows in {output}: "
        f"{counts.labelled:,} new, {counts.kept:,} as they were"
    )
    if counts.agreement is not None:
        say(f"  samples agree to {percent(counts.agreement)}")
    if counts.explained or counts.unexplained:
        say(f"  {counts.explained:,} with a rationale, {counts.unexplained:,} without")
    aside = {
        "refused": counts.refused,
        "cut off": counts.truncated,
        "of the wrong form": counts.unfit,
        "not answered": counts.failed,
        "no requests": counts.unreadable,
    }
    if any(aside.values()):
        say(f"  set aside in {counts.rejects}: " + ", ".join(f"{n:,} {name}" for name, n in aside.items() if n))
    if counts.spent_usd is not None:
        unsure = f", {usd(counts.unsure_usd)} of it the upper estimate of calls whose bill is not known"
        say(f"  spent: {usd(counts.spent_usd)}{unsure if counts.unsure_usd else ''}")
    if counts.left:
        mean = f"about {usd(counts.rest_usd)}, " if counts.rest_usd is not None else ""
        most = usd(counts.rest_at_most_usd or 0.0)
        say(f"the budget of {usd(budget or 0.0)} ended: {counts.left:,} requests are left, {mean}at most {most}")
        say("next: the same command with a larger --budget")
    elif counts.rationales_left:
        say(f"the budget of {usd(budget or 0.0)} ended: {counts.rationales_left:,} rationales were not asked for")
        say("next: the same command with a larger --budget")
    elif counts.failed:
        say("next: the same command asks what was not answered again")
    elif counts.nothing_usable() is None:
        say(f"next: tiercel pilot {output}")
