"""A teacher writes more requests like those that a student fails on, and answers them: the story of `tiercel augment`.

Round by round: write for each group of failures, check what was written against every row of the traffic, answer what
is new, judge the answers. What was paid for is in the journal beside the output, so that the same command goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from tiercel.datasets.new_requests import validate_new_requests
from tiercel.errors import ConfigurationError
from tiercel.flows.asking import Asker
from tiercel.flows.failing_requests import failing_groups
from tiercel.flows.finished_pilot import FinishedPilot, reopen
from tiercel.flows.journal import Journal
from tiercel.flows.label_checks import Fault, Form, Label, judge, obvious_fault
from tiercel.flows.label_output import LabelCounts, LabelOutput
from tiercel.flows.label_rows import Row
from tiercel.flows.labelling import LabelSettings, check_files, check_prices, journal_of
from tiercel.flows.progress import Progress
from tiercel.flows.request_writing import (
    Group,
    instructions_of,
    new_example,
    requests_in,
    texts_a_call,
    writing_prompt,
)
from tiercel.flows.storage import make_folder
from tiercel.flows.teacher import Teacher
from tiercel.providers.budget import Budget, usd
from tiercel.providers.prices import PriceTable
from tiercel.types import Example

__all__ = ["AugmentCounts", "AugmentSettings", "GroupCounts", "augment_file"]

ROUNDS = 6
"""Of writing, at the most: a teacher that has nothing new to say is not asked for ever."""
SPARE = 1.25
"""How many more requests are written than are wanted: some repeat known ones."""
LEAST_AGREEMENT = 0.5
"""Of the samples of an answer; a request on which the teacher contradicts itself teaches nothing."""
UNREADABLE = "not a list of requests"
MISREAD = "not of the workload's form"


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How a pilot's traffic is augmented.

    Attributes:
        rows: answered requests to write.
        asking: the teacher, its budget and its answers; what is for choosing requests there is not used.
        test: separate file of test rows, where the pilot had one.
        database: that SQL was run on, where the pilot had one.
        threads: of the student; None for all cores.

    Raises:
        ConfigurationError: one of them can't be.
    """

    rows: int
    asking: LabelSettings
    test: Path | None = None
    database: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigurationError(f"--rows is {self.rows}; give how many rows to write, 1 or more")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"--threads is {self.threads}; give 1 or more, or leave it out for all cores")


class GroupCounts(Struct, kw_only=True):
    """One group of failures and what was written for it."""

    name: str
    words: tuple[str, ...]
    failures: int
    share_of_loss: float
    mean_loss: float
    wanted: int
    kept: int = 0


class AugmentCounts(Struct, kw_only=True):
    """What an augmentation found and wrote."""

    looked_at: int
    """Training and gate rows that the student answered."""
    failures: int
    groups: list[GroupCounts]
    wanted: int
    kept: int = 0
    """Rows in the output."""
    written: int = 0
    """Requests that the teacher wrote."""
    refused: dict[str, int]
    """Requests that were not answered, by reason."""
    labels: LabelCounts
    """What became of those that were, and what was spent."""
    out_of_money: bool = False


def augment_file(
    pilot: Path, traffic: Sequence[Path], output: Path, settings: AugmentSettings, progress: Progress
) -> AugmentCounts:
    """Have a teacher write and answer requests like those that a pilot's student fails on.

    Args:
        pilot: folder of a finished pilot.
        traffic: files that it was given.
        output: `.jsonl` or `.jsonl.gz` in the data contract; each row's `metadata.augmented` names its group.
        settings: how.
        progress: is told how far it is.

    Raises:
        BundleError: there is no bundle.
        ConfigurationError: an option can't be; no price is known and a budget is set.
        DataError: the files are not the pilot's, or the student fails on too few rows.
        ProviderError: the provider can't be asked any more.
        StorageError: something can't be written.
    """
    asking = settings.asking
    for source in (*traffic, *([settings.test] if settings.test is not None else [])):
        check_files(source, output)
    found = reopen(pilot, traffic, progress, test=settings.test, database=settings.database, threads=settings.threads)
    groups, report = failing_groups(found, progress, seed=asking.seed)
    teacher = Teacher(
        asking.frontier.endpoint,
        asking.frontier.model,
        PriceTable(asking.prices),
        max_tokens=asking.max_tokens,
        temperature=asking.temperature,
        logprobs=asking.logprobs,
    )
    if asking.budget is not None:
        check_prices(teacher, [e for g in groups for e in g.examples])
    make_folder(output.parent, "--output")
    with Journal(journal_of(output)) as journal:
        if journal.skipped:
            progress.warn(f"{journal.path}: {journal.skipped} lines can't be read and are passed over")
        asker = Asker(
            asking.frontier,
            teacher,
            journal,
            Budget(asking.budget, journal.spent),
            rate=asking.rate,
            at_once=asking.at_once,
            retry=asking.retry,
            seed=asking.seed,
        )
        run = _Augmenting(found, groups, settings, asker, progress)
        run.run()
        progress.stage("writing")
        labels = run.write(output)
        labels.sent_again, labels.unsure_usd = asker.sent_again, usd(journal.unsure)
        if asking.budget is not None or any(
            call.bill.cost_usd is not None for calls in journal.answered.values() for call in calls
        ):
            labels.spent_usd = usd(journal.spent)
    if asker.overcharged:
        progress.warn(f"{asker.overcharged} calls cost more than their token limit allows; the provider passed over it")
    return AugmentCounts(
        looked_at=report.rows,
        failures=report.failures,
        groups=run.told,
        wanted=settings.rows,
        kept=labels.labelled,
        written=run.written,
        refused=dict(sorted(run.refused.items())),
        labels=labels,
        out_of_money=asker.out_of_money,
    )


@dataclass(kw_only=True)
class _Work:
    """What was done for one group.

    Attributes:
        group: of failures.
        wanted: rows.
        prompts: writing calls so far.
        waiting: keys of requests that are new and not yet answered, in order.
        answered: keys of those that were sent to be answered.
    """

    group: Group
    wanted: int
    prompts: int = 0
    waiting: list[str] = field(default_factory=list[str])
    answered: list[str] = field(default_factory=list[str])


class _Augmenting:
    """One run, with a journal that is open."""

    def __init__(
        self,
        pilot: FinishedPilot,
        groups: Sequence[Group],
        settings: AugmentSettings,
        asker: Asker,
        progress: Progress,
    ) -> None:
        self.pilot, self.settings, self.asker, self.progress = pilot, settings, asker, progress
        self.asking = settings.asking
        self.teacher, self.journal = asker.teacher, asker.journal
        shares = _shares([g.share_of_loss for g in groups], settings.rows)
        self.work = [_Work(group=g, wanted=n) for g, n in zip(groups, shares, strict=True)]
        self.reader = pilot.bundle.manifest.reader
        prepared = pilot.prepared
        self.form = Form(task=prepared.task, labels=prepared.labels, binding=True)
        self.training = list(prepared.train.texts)
        trained = set(self.training)
        read = (self.reader.read(e.messages) for e in (*pilot.examples, *pilot.tests))
        # All that is not trained on, rows without an answer included.
        self.protected = [text for text in read if text is not None and text not in trained]
        self.pool: dict[str, Example] = {}
        self.refused = Counter[str]()
        self.written = 0
        self.labels: dict[str, Label] = {}

    def run(self) -> None:
        """Write, check, answer and judge until there are enough rows, or none can be had."""
        for _ in range(ROUNDS):
            if not any(self._missing(w) for w in self.work) or self.asker.out_of_money:
                return
            before = len(self.pool)
            self._write()
            self._answer()
            if len(self.pool) == before and not any(w.waiting for w in self.work):
                break
        missing = sum(self._missing(w) for w in self.work)
        if missing and not self.asker.out_of_money:
            self.progress.warn(
                f"{missing} of {self.settings.rows} rows are missing: what the teacher writes repeats known requests "
                "or can't be used; raise --temperature, or be content with fewer"
            )

    def _missing(self, work: _Work) -> int:
        return work.wanted - sum(self._is_good(k) for k in work.answered)

    def _is_good(self, key: str) -> bool:
        return key in self.labels and self.labels[key].answer is not None

    def _write(self) -> None:
        """Ask for new requests where too few wait, and put aside those that are not new."""
        prompts = list[tuple[_Work, str, Example]]()
        for work in self.work:
            lacking = math.ceil(SPARE * (self._missing(work) - len(work.waiting)))
            size = texts_a_call(work.group, self.asking.max_tokens)
            for _ in range(math.ceil(lacking / size) if lacking > 0 else 0):
                # Always a full list, so that a run with more --rows finds what an earlier one has paid for.
                prompt = self._prompt(work, size)
                prompts.append((work, self.teacher.key(prompt), prompt))
        if not prompts:
            return
        self.progress.stage("having the teacher write requests")
        self.asker.ask([(key, prompt) for _, key, prompt in prompts], 1, self.progress)
        found = list[tuple[_Work, str]]()
        for work, key, _ in prompts:
            for sample in self.journal.samples(key)[:1]:
                texts = None if obvious_fault(sample) else requests_in(sample.answer.text)
                self.refused[UNREADABLE] += texts is None
                found += [(work, self.reader.bare(text)) for text in texts or ()]
        self._check(found)

    def _prompt(self, work: _Work, count: int) -> Example:
        manifest = self.pilot.bundle.manifest
        prompt = writing_prompt(
            work.group,
            work.prompts,
            count,
            instructions_of(manifest.reader.key.template.shown),
            seed=self.asking.seed,
            model=work.group.examples[0].model or manifest.frontier,
        )
        work.prompts += 1
        return prompt

    def _check(self, found: Sequence[tuple[_Work, str]]) -> None:
        """Keep what is new, of the workload's form, length and language, and repeats no row of the traffic."""
        made = list[tuple[_Work, Example, str]]()
        for work, text in found:
            self.written += 1
            identity = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            like = work.group.examples[int(identity, 16) % len(work.group.examples)]
            example = new_example(text, like, work.group, self.reader, f"augmented-{identity}")
            read = self.reader.read(example.messages)
            if read is None:
                self.refused[MISREAD] += 1
            else:
                made.append((work, example, read))
        checked = validate_new_requests([read for _, _, read in made], self.training, self.protected)
        for reason, times in checked.counts.items():
            self.refused[reason.value] += times
        for i in checked.kept:
            work, example, read = made[i]
            key = self.teacher.key(example)
            self.pool[key] = example
            work.waiting.append(key)
            # What was written before counts as known in the next round.
            self.training.append(read)

    def _answer(self) -> None:
        """Have as many answered as are missing, and judge them."""
        asked = list[str]()
        for work in self.work:
            count = self._missing(work)
            asked += work.waiting[:count]
            work.answered += work.waiting[:count]
            del work.waiting[:count]
        if not asked or self.asker.out_of_money:
            return
        self.progress.stage("having the teacher answer them")
        self.asker.ask([(key, self.pool[key]) for key in asked], self.asking.samples, self.progress)
        for key in asked:
            samples = self.journal.samples(key)[: self.asking.samples]
            if len(samples) == self.asking.samples:
                self.labels[key] = _agreed(judge(self.pool[key], samples, self.form))
            elif fault := self.asker.refused.get(key):
                self.labels[key] = Label(answer=None, fault=fault)

    @property
    def told(self) -> list[GroupCounts]:
        """What was written for each group."""
        return [
            GroupCounts(
                name=w.group.name,
                words=w.group.words,
                failures=w.group.rows,
                share_of_loss=w.group.share_of_loss,
                mean_loss=w.group.mean_loss,
                wanted=w.wanted,
                kept=sum(self._is_good(k) for k in w.answered),
            )
            for w in self.work
        ]

    def write(self, output: Path) -> LabelCounts:
        """Write the answered requests and, beside them, those whose answers can't be used."""
        keys = [key for work in self.work for key in work.answered]
        rows = [Row(line=i, raw=b"", example=self.pool[key], key=key) for i, key in enumerate(keys, 1)]
        return LabelOutput(
            rows=rows,
            chosen=frozenset(keys),
            labels=self.labels,
            failed=self.asker.failed,
            journal=self.journal,
            teacher=self.teacher,
            samples=self.asking.samples,
        ).write(output)


def _agreed(label: Label) -> Label:
    """The label, unless too few samples agree on it."""
    if label.agreement is None or label.agreement >= LEAST_AGREEMENT:
        return label
    reason = f"the samples agree to {label.agreement:.0%} only"
    return msgspec.structs.replace(label, answer=None, fault=Fault(kind="unfit", reason=reason))


def _shares(weights: Sequence[float], rows: int) -> list[int]:
    """`rows` parted by weight, by largest remainders."""
    exact = [rows * w / sum(weights) for w in weights]
    found = [int(x) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: (found[i] - exact[i], i))
    for i in order[: rows - sum(found)]:
        found[i] += 1
    return found
