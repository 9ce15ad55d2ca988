"""What a log holds: its workloads, their size and spend, and which of them a pilot could take over."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tiercel.datasets.importing import ImportCounts, RejectFile, read_traffic
from tiercel.datasets.sources import CsvColumns
from tiercel.datasets.templates import TemplateIndex
from tiercel.errors import DataError
from tiercel.flows.progress import Progress
from tiercel.flows.traffic import warn_of_gaps
from tiercel.providers.prices import TABLE_DATE, PriceTable, cost_usd
from tiercel.providers.tokens import estimate_usage
from tiercel.stats.planning import rows_needed
from tiercel.tasks.recognition import recognise
from tiercel.types import Answer, Example

__all__ = ["Assessment", "WorkloadLine", "assess"]

SAMPLE = 3_000
"""Answers of each workload that are looked at to tell its task."""
YEAR_S = 365 * 86_400


class WorkloadLine(Struct, frozen=True, kw_only=True):
    """One workload of a log."""

    number: int
    """From 1, largest first; what --workload takes."""
    fingerprint: str
    rows: int
    task: str
    answer_shape: str
    input_tokens: int
    """Of all rows, cached ones included."""
    cached_input_tokens: int
    output_tokens: int
    tokens_estimated: bool
    """Whether some counts are estimates because the log has none."""
    models: dict[str, int]
    """Rows by the model that answered; empty where the log does not say."""
    spend_usd: float | None
    """At list prices; None when no price is known for any of its models."""
    usd_per_year: float | None
    """At the log's own pace; None without prices or times."""
    pilot: str
    """Whether a pilot makes sense, in a few words."""
    template: str
    """The system prompt with its variables as {…}."""
    tools: tuple[str, ...]


class Assessment(Struct, frozen=True, kw_only=True):
    """All workloads of a log."""

    workloads: tuple[WorkloadLine, ...]
    rows: int
    rejected: int
    duplicates: int
    price_date: str = TABLE_DATE
    spend_usd: float | None = None


class _Tally:
    """What is added up of one workload while the log streams by."""

    def __init__(self) -> None:
        self.rows = 0
        self.input = self.cached = self.output = 0
        self.estimated = False
        self.models: Counter[str] = Counter()
        self.spend, self.priced = 0.0, 0
        self.answers: list[Answer] = []
        self.answered = 0
        self.first, self.last = float("inf"), float("-inf")

    def add(self, example: Example, prices: PriceTable, frontier: str | None, rng: random.Random) -> None:
        self.rows += 1
        usage = example.usage
        if usage is None or not (usage.input_tokens or usage.output_tokens):
            usage = estimate_usage(example.messages, example.answer, example.tools)
            self.estimated = True
        self.input += usage.input_tokens
        self.cached += usage.cached_input_tokens
        self.output += usage.output_tokens
        if example.model:
            self.models[example.model] += 1
        if (price := prices.find(frontier or example.model)) is not None:
            self.spend += cost_usd(usage, price)
            self.priced += 1
        if example.created is not None:
            self.first, self.last = min(self.first, example.created), max(self.last, example.created)
        if example.answer:
            self.answered += 1
            if len(self.answers) < SAMPLE:
                self.answers.append(example.answer)
            elif (place := rng.randrange(self.answered)) < SAMPLE:
                self.answers[place] = example.answer

    def line(self, number: int, fingerprint: str, template: str, tools: tuple[str, ...]) -> WorkloadLine:
        found = recognise(self.answers)
        spend = self.spend * self.rows / self.priced if self.priced else None
        span = self.last - self.first
        return WorkloadLine(
            number=number,
            fingerprint=fingerprint,
            rows=self.rows,
            task=found.task,
            answer_shape=found.shape,
            input_tokens=self.input,
            cached_input_tokens=self.cached,
            output_tokens=self.output,
            tokens_estimated=self.estimated,
            models=dict(self.models.most_common(10)),
            spend_usd=spend,
            usd_per_year=spend / span * YEAR_S if spend is not None and span >= 3_600 else None,
            pilot=_advice(
                found.task, self.answered, found.share, found.labels is not None and len(found.labels.labels)
            ),
            template=template,
            tools=tools,
        )


def _advice(task: str, answered: int, share: float, labels: int) -> str:
    if not answered:
        return "no: nothing is answered"
    if task == "classification" and labels < 2:
        return "no: every answer is the same"
    # A quarter of the rows calibrates; a bound of 2 % needs 149 of them even without an error.
    least = round((rows_needed(0.0, 0.02, 0.05) or 0) / 0.25)
    if answered < least:
        return f"collect more: {answered} answered rows, about {least} certify a 2 % bound"
    if share < 0.9:
        return f"perhaps: {share:.0%} of the answers have this form"
    return "yes"


def assess(
    paths: Sequence[Path],
    progress: Progress,
    *,
    prices: PriceTable,
    frontier: str | None = None,
    rejects: Path | None = None,
    format_name: str = "auto",
    columns: CsvColumns | None = None,
) -> Assessment:
    """Read a log once, in bounded memory, and list its workloads.

    Args:
        paths: files of traffic.
        progress: is warned of rows that were set aside.
        prices: of models.
        frontier: model to price all rows as; None for the one that each row names.
        rejects: file for rows that can't be read.
        format_name: as for `read_traffic`.
        columns: as for `read_traffic`.

    Raises:
        DataError: no row can be used.
    """
    counts, index, tallies = ImportCounts(), TemplateIndex(), list[_Tally]()
    rng = random.Random(0)
    progress.stage("reading traffic")
    with RejectFile(rejects) as reject_file:
        rows = read_traffic(paths, counts, reject_file, format_name=format_name, columns=columns, keep_duplicates=True)
        for example in rows:
            number = index.add(example)
            while len(tallies) <= number:
                tallies.append(_Tally())
            tallies[number].add(example, prices, frontier, rng)
    if not counts.kept:
        reason = counts.reasons.most_common(1)[0][0] if counts.reasons else "no rows"
        raise DataError(f"none of {counts.read} rows can be used; the most frequent reason: {reason}")
    if counts.rejected:
        reason, times = counts.reasons.most_common(1)[0]
        progress.warn(f"{counts.rejected} of {counts.read} rows were set aside; most often ({times}): {reason}")
    warn_of_gaps(counts, progress)
    order = sorted(range(len(tallies)), key=lambda i: -tallies[i].rows)
    keys = index.keys
    lines = tuple(
        tallies[i].line(place, keys[i].fingerprint, keys[i].template.shown, keys[i].tools)
        for place, i in enumerate(order, start=1)
    )
    known = [line.spend_usd for line in lines if line.spend_usd is not None]
    return Assessment(
        workloads=lines,
        rows=counts.kept,
        rejected=counts.rejected,
        duplicates=counts.duplicates,
        spend_usd=sum(known) if known else None,
    )
