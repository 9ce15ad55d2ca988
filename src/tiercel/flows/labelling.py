"""A teacher answers unlabelled requests, under a budget: the story of `tiercel label`.

Requests are read, chosen where only some are wanted, asked, and judged. What was paid for is in the journal beside the
output; the output is made from it at the end, and appears when it is whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiercel.errors import ConfigurationError
from tiercel.flows.asking import Asker
from tiercel.flows.choosing import Chooser, next_round, text_of
from tiercel.flows.explaining import rationale_in, rationale_of, why
from tiercel.flows.journal import Journal
from tiercel.flows.label_checks import Form, Label, form_of, judge
from tiercel.flows.label_output import LabelCounts, LabelOutput
from tiercel.flows.label_rows import Row, read_rows
from tiercel.flows.progress import Progress
from tiercel.flows.rejects import check_rejects, rejects_beside
from tiercel.flows.seeds import check_seed
from tiercel.flows.storage import check_output, make_folder
from tiercel.flows.teacher import Teacher
from tiercel.providers.budget import Budget, usd
from tiercel.providers.pacing import Retry
from tiercel.providers.prices import PriceTable
from tiercel.tasks.losses import TASKS
from tiercel.types import Example

if TYPE_CHECKING:
    from tiercel.providers.openai_compatible import FrontierSettings

__all__ = ["LabelCounts", "LabelSettings", "check_files", "check_prices", "journal_of", "label_file"]

HOTTEST = 2.0
"""Temperature that any API takes."""


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How a file is labelled.

    Attributes:
        frontier: the teacher.
        budget: USD that may be spent on this output, earlier runs included; None for no limit.
        rate: requests a minute; None for no limit.
        samples: answers to ask for, of which the one that most agree on is kept.
        choose: label only so many, those expected to add most; None for all.
        task: of the answers; None to tell it from them.
        again: also ask requests that have an answer.
        prices: CSV over the table that ships.
        max_tokens: of an answer, its reasoning included.
        temperature: of sampling; None leaves the provider's own.
        logprobs: ask for the tokens' log probabilities.
        rationale: also ask why each answer is right, of rows that keep their answer too; a second call for each.
        at_once: requests under way at a time.
        seed: of the choice.
        retry: when a failed request is sent again.

    Raises:
        ConfigurationError: one of them can't be.
    """

    frontier: FrontierSettings
    budget: float | None = None
    rate: float | None = None
    samples: int = 1
    choose: int | None = None
    task: str | None = None
    again: bool = False
    prices: Path | None = None
    max_tokens: int = 1024
    temperature: float | None = None
    logprobs: bool = False
    rationale: bool = False
    at_once: int = 8
    seed: int = 0
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget >= 0):
            raise ConfigurationError(f"--budget is {self.budget}; give USD, such as 5")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise ConfigurationError(f"--rate is {self.rate}; give requests a minute above 0, such as 60")
        if not 1 <= self.samples <= 64:
            raise ConfigurationError(f"--samples is {self.samples}; give a number from 1 to 64")
        if self.choose is not None and self.choose < 1:
            raise ConfigurationError(f"--choose is {self.choose}; give how many requests to label, 1 or more")
        if self.max_tokens < 1 or self.at_once < 1:
            raise ConfigurationError("--max-tokens and --at-once must be 1 or more")
        if self.temperature is not None and not 0 <= self.temperature <= HOTTEST:
            raise ConfigurationError(f"--temperature is {self.temperature}; give a number from 0 to {HOTTEST:g}")
        check_seed(self.seed)
        if self.task is not None and self.task not in TASKS:
            raise ConfigurationError(f"no task is called {self.task!r}; choose from {', '.join(TASKS)}")


def label_file(source: Path, output: Path, settings: LabelSettings, progress: Progress) -> LabelCounts:
    """Have a teacher answer the requests of a file.

    Args:
        source: rows in the data contract; those without an assistant message at their end are asked.
        output: `.jsonl` or `.jsonl.gz` in the data contract: rows with an answer, in the order of the source.
        settings: how.
        progress: is told how far it is.

    Raises:
        ConfigurationError: an option can't be; no price is known and a budget is set.
        DataError: no row can be read.
        ProviderError: the provider can't be asked any more.
        StorageError: something can't be written.
    """
    check_files(source, output)
    teacher = Teacher(
        settings.frontier.endpoint,
        settings.frontier.model,
        PriceTable(settings.prices),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        logprobs=settings.logprobs,
    )
    progress.stage("reading requests")
    rows = read_rows(source, teacher, again=settings.again)
    pool = {row.key: row.example for row in rows if row.key is not None and row.example is not None}
    if settings.budget is not None:
        asked = [row.example for row in rows if row.example is not None] if settings.rationale else pool.values()
        check_prices(teacher, list(asked))
    make_folder(output.parent, "--output")
    with Journal(journal_of(output)) as journal:
        if journal.skipped:
            progress.warn(f"{journal.path}: {journal.skipped} lines can't be read and are passed over")
        budget = Budget(settings.budget, journal.spent)
        asker = Asker(
            settings.frontier,
            teacher,
            journal,
            budget,
            rate=settings.rate,
            at_once=settings.at_once,
            retry=settings.retry,
            seed=settings.seed,
        )
        run = _Labelling(rows, pool, journal, asker, settings, progress)
        chosen = run.ask()
        found = run.output(chosen)
        if settings.rationale:
            found = replace(found, rationales=run.explain(found))
        progress.stage("writing")
        counts = found.write(output)
    counts.rationales_left = run.rationales_left
    counts.sent_again = asker.sent_again
    _add_money(counts, found, asker, pool, min(settings.choose or len(pool), len(pool)))
    if asker.overcharged:
        progress.warn(f"{asker.overcharged} calls cost more than their token limit allows; the provider passed over it")
    return counts


def journal_of(output: Path) -> Path:
    """Where the record lies of what a teacher was asked for `output`."""
    return output.with_name(output.name + ".journal")


def check_files(source: Path, output: Path) -> None:
    """Raise `ConfigurationError` for an output that can't be written, or is the source."""
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigurationError(f"--output is {output}; give a name that ends in .jsonl or .jsonl.gz")
    check_output(output, [source])
    check_output(journal_of(output), [source], what=f"the journal {journal_of(output)}")
    check_rejects(rejects_beside(output), [source], "--output")


def check_prices(teacher: Teacher, examples: Sequence[Example]) -> None:
    """Raise `ConfigurationError` for requests whose cost can't be bounded."""
    unknown = {teacher.name(e) for e in examples if teacher.price(e) is None}
    if unknown:
        named = ", ".join(sorted(n for n in unknown if n)) or "the teacher, whose model is not named (--model)"
        raise ConfigurationError(
            f"no price is known for {named}, so no budget can be held; add it with --prices FILE, or leave --budget out"
        )
    for example in examples:
        teacher.bound_usd(example, 1)


class _Labelling:
    """One run over rows that are read, with a journal that is open."""

    def __init__(
        self,
        rows: Sequence[Row],
        pool: dict[str, Example],
        journal: Journal,
        asker: Asker,
        settings: LabelSettings,
        progress: Progress,
    ) -> None:
        self.rows = rows
        self.pool = pool
        self.journal = journal
        self.asker = asker
        self.settings = settings
        self.progress = progress
        self.given = [row.example for row in rows if row.example is not None and row.key is None]
        self.workloads = {row.key: row.workload for row in rows if row.key is not None}
        self.rationales_left = 0

    def ask(self) -> list[str]:
        """Ask what is to be asked; returns the keys of it."""
        wanted = self.settings.choose
        if wanted is None or wanted >= len(self.pool):
            keys = list(self.pool)
            self._ask(keys)
            return keys
        chosen = [k for k in dict.fromkeys(self.journal.chosen) if k in self.pool][:wanted]
        self._ask(chosen)
        chooser: Chooser | None = None
        while len(chosen) < wanted and not self.asker.out_of_money:
            chooser = chooser or Chooser(
                [text_of(e) for e in (*self.given, *self.pool.values())], self.settings.seed, self.progress
            )
            new = self._next(chooser, chosen, wanted)
            self.journal.write_choice(new)
            chosen += new
            self._ask(chosen)
        return chosen

    def _ask(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self.progress.stage("asking the teacher")
        self.asker.ask([(k, self.pool[k]) for k in keys], self.settings.samples, self.progress)

    def _next(self, chooser: Chooser, chosen: Sequence[str], wanted: int) -> list[str]:
        """Keys of the requests to ask next; the chooser holds the answered rows and then the pool."""
        keys, offset = list(self.pool), len(self.given)
        place = {key: offset + i for i, key in enumerate(keys)}
        forms = self._forms(keys)
        classes = all(form.task == "classification" for form in forms.values())
        known: dict[int, str | None] = {i: e.answer.text if e.answer else None for i, e in enumerate(self.given)}
        known |= dict.fromkeys((place[k] for k in chosen), None)
        known |= {place[k]: v.answer.text for k, v in self._judged(chosen, forms).items() if v.answer}
        # Without labels there is no student to wait for.
        rounds = classes or not known
        count = next_round(len(known), len(chosen), wanted) if rounds else wanted - len(chosen)
        return [keys[i - offset] for i in chooser.choose(count, known, classes=classes)]

    def _forms(self, keys: Sequence[str]) -> dict[int, Form]:
        """The form of the answers of each workload that is asked for."""
        asked: dict[int, list[str]] = {}
        for key in keys:
            asked.setdefault(self.workloads[key], []).append(key)
        forms = dict[int, Form]()
        for workload, members in asked.items():
            given = [r.example.answer for r in self.rows if r.example and r.workload == workload and r.key is None]
            samples = [s for key in members for s in self.journal.samples(key)[: self.settings.samples]]
            forms[workload] = form_of(self.settings.task, [a for a in given if a is not None], samples)
        return forms

    def _judged(self, keys: Sequence[str], forms: dict[int, Form]) -> dict[str, Label]:
        """The label, or the fault, of each request that has all its samples."""
        found = dict[str, Label]()
        for key in keys:
            samples = self.journal.samples(key)[: self.settings.samples]
            if len(samples) == self.settings.samples:
                found[key] = judge(self.pool[key], samples, forms[self.workloads[key]])
            elif fault := self.asker.refused.get(key):
                found[key] = Label(answer=None, fault=fault)
        return found

    def output(self, chosen: Sequence[str]) -> LabelOutput:
        """What the files are made from."""
        return LabelOutput(
            rows=self.rows,
            chosen=frozenset(chosen),
            labels=self._judged(chosen, self._forms(chosen)),
            failed=self.asker.failed,
            journal=self.journal,
            teacher=self.asker.teacher,
            samples=self.settings.samples,
        )

    def explain(self, output: LabelOutput) -> dict[str, str]:
        """Ask why the answers are right; returns rationales by the keys of the requests that ask."""
        asked = [why(e) for e in output.answered() if rationale_of(e.metadata) is None]
        wanted = {self.asker.teacher.key(e): e for e in asked}
        self.progress.stage("asking the teacher why")
        self.asker.ask(list(wanted.items()), 1, self.progress)
        samples = {key: self.journal.samples(key) for key in wanted}
        if self.asker.out_of_money:
            open_keys = [k for k in wanted if not samples[k] and k not in self.asker.failed]
            self.rationales_left = len(set(open_keys) - set(self.asker.refused))
        return {key: found for key, told in samples.items() if (found := rationale_in(told)) is not None}


def _add_money(counts: LabelCounts, output: LabelOutput, asker: Asker, pool: dict[str, Example], wanted: int) -> None:
    """Say what was spent and, where the budget ended, what the rest would cost."""
    journal = output.journal
    answered = [journal.answered[k] for k in output.labels if k in journal.answered]
    costs = [call.bill.cost_usd for calls in answered for call in calls]
    if asker.budget.limit is not None or any(cost is not None for cost in costs):
        counts.spent_usd = usd(journal.spent)
    counts.unsure_usd = usd(journal.unsure)
    if not asker.out_of_money:
        return
    left = [k for k in output.chosen if k not in output.labels and k not in asker.failed]
    # Rounds of choice that never came: which requests they are is not known, so the dearest stand for them.
    missing = wanted - len(output.chosen)
    counts.left += missing
    counts.not_chosen -= missing
    bounds = {k: output.teacher.bound_usd(e, output.samples) for k, e in pool.items()}
    dearest = sorted((b for k, b in bounds.items() if k not in output.chosen), reverse=True)[:missing]
    counts.rest_at_most_usd = sum(bounds[k] for k in left) + sum(dearest)
    if answered:
        counts.rest_usd = sum(c or 0.0 for c in costs) / len(answered) * (len(left) + missing)
