"""From a log of frontier traffic to a certified bundle: the story of `tiercel pilot`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tiercel._version import __version__
from tiercel.datasets.sources import CsvColumns
from tiercel.errors import ConfigurationError
from tiercel.flows.bundle import write_bundle
from tiercel.flows.candidates import Candidate, LadderSettings
from tiercel.flows.certifying import CertifySettings, certify, check_segment, cluster_field
from tiercel.flows.curating import curated, record_of
from tiercel.flows.doubts import doubts_of
from tiercel.flows.explaining import rationales_of
from tiercel.flows.finished_pilot import UNSEEN_LOSSES, lost
from tiercel.flows.inputs import inputs_of
from tiercel.flows.ladder import check_students, climb
from tiercel.flows.lineage import lineage_of
from tiercel.flows.pilot_folder import BUNDLE, REJECTS, REJECTS_OF_TEST, WORK, check_pilot_folder, clear_work
from tiercel.flows.pilot_result import summarise
from tiercel.flows.preparation import Prepared, prepare, task_of
from tiercel.flows.progress import Keeping, Progress, Silent
from tiercel.flows.rungs import refitted
from tiercel.flows.seeds import check_seed
from tiercel.flows.served_model import PRECISIONS
from tiercel.flows.storage import make_folder, write_file
from tiercel.flows.teaching import check_teaching
from tiercel.flows.traffic import Traffic, read_tests, read_workload
from tiercel.flows.written_rows import add_written, part_written
from tiercel.providers.prices import PriceTable
from tiercel.report.card import render_card
from tiercel.report.page import render_page
from tiercel.report.result import (
    PilotResult,
)
from tiercel.routing.segments import CONTROLS
from tiercel.tasks.losses import LOSSES, TASKS

__all__ = ["PilotSettings", "pilot"]

LEAST_SIZE, MOST_SIZE = 50_000, 100_000_000
"""Parameters of the micro rung: with fewer a vocabulary has no room, more are no longer trained in minutes."""
MOST_SAMPLES = 16
"""Answers drawn beside each one, at the most."""
CLOSE_OFFLOAD = 0.02
"""Share of traffic by which candidates may differ and still count as equal: about what some hundred rows can tell."""


@dataclass(frozen=True, kw_only=True)
class PilotSettings:
    """What a pilot may be told; the defaults are what most want.

    Attributes:
        max_loss: largest excess loss that the user allows, over all requests.
        confidence: of the certificate.
        students: rungs to train; None to decide by what pays.
        task: one of `TASKS`; None to recognise it.
        workload: number or fingerprint; None for the largest.
        seed: of everything random; the same seed gives the same bundle.
        encoder: folder or hub name of the pretrained encoder; None for all-MiniLM-L6-v2.
        frontier: model to price and to name as the frontier, where the log does not.
        prices: file of prices over the table that ships.
        requests_a_day: volume, where the log has no times.
        threads: for training and measuring; None for all cores.
        examples: requests of each kind that the report may show.
        format_name: of the traffic.
        columns: of a CSV file.
        database: SQLite file or PostgreSQL URL on which answers of SQL are run to compare them; None compares texts.
        model: folder or hub name of a pretrained causal language model for the slm rung; None leaves that rung out.
        curate: look for doubted training rows, and leave them out where that helps on the gate's rows.
        curriculum: train micro and slm in stages of rising difficulty as well, and keep that where it lowers the loss
            on held-out training rows; takes twice the time.
        teacher: folder of a local model from whose probabilities micro and slm learn; None for the answers alone.
        distil: how they learn from it, one of `WAYS`; None for logits where a teacher is given.
        micro_size: parameters of the micro rung at most; None for 2.5 million, or fewer where answers are labels.
        precision: of micro and slm as they are served, one of `served_model.PRECISIONS`; the next larger is taken where
            what is served differs too much from what was trained. None for q8_0.
        distil_divergence: forward, reverse or jensen-shannon; None for forward with logits, jensen-shannon on-policy.
        distil_weight: of the teacher against the answers; None for .9 with logits, .5 otherwise.
        distil_temperature: of the divergence; None for 2 with logits, 1 otherwise.
        gate_samples: answers that a generative student draws beside each one; how many agree is a signal for the gate.
            Each costs as much as the answer.
        loss: what the certificate bounds, one of `tasks.losses.LOSSES`: whole answers, or F1 over their fields.
        segment: certify segment by segment: `language`, `label` (the student's own) or a key of the metadata; None for
            one certificate.
        segment_control: one of `routing.segments.CONTROLS`: every segment holds, or all but a share on average.
        cluster: key of the metadata whose rows are not independent, such as a user's; None to look at `user`.
    """

    max_loss: float = 0.02
    confidence: float = 0.95
    students: tuple[str, ...] | None = None
    task: str | None = None
    workload: str | None = None
    seed: int = 0
    encoder: str | None = None
    frontier: str | None = None
    prices: Path | None = None
    requests_a_day: float | None = None
    threads: int | None = None
    examples: int = 8
    format_name: str = "auto"
    columns: CsvColumns | None = None
    database: str | None = None
    model: str | None = None
    curate: bool = False
    curriculum: bool = False
    teacher: Path | None = None
    distil: str | None = None
    micro_size: int | None = None
    precision: str | None = None
    distil_divergence: str | None = None
    distil_weight: float | None = None
    distil_temperature: float | None = None
    gate_samples: int = 0
    loss: str = "exact"
    segment: str | None = None
    segment_control: str = "bonferroni"
    cluster: str | None = None

    def check(self) -> None:
        """Raise `ConfigurationError` for the first setting that can't be."""
        if not 0 < self.max_loss < 1:
            raise ConfigurationError(f"--max-loss is {self.max_loss}; give a share between 0 and 1, such as 0.02")
        if not 0.5 <= self.confidence < 1:
            raise ConfigurationError(f"--confidence is {self.confidence}; give one from 0.5 to below 1, such as 0.95")
        if self.task is not None and self.task not in TASKS:
            raise ConfigurationError(f"--task is {self.task!r}; choose from {', '.join(TASKS)}")
        if self.loss not in LOSSES:
            raise ConfigurationError(f"--loss is {self.loss!r}; choose from {', '.join(LOSSES)}")
        if self.segment_control not in CONTROLS:
            raise ConfigurationError(
                f"--segment-control is {self.segment_control!r}; choose from {', '.join(CONTROLS)}"
            )
        if not 0 <= self.gate_samples <= MOST_SAMPLES:
            raise ConfigurationError(f"--gate-samples is {self.gate_samples}; give 0 to {MOST_SAMPLES}")
        if self.segment == "" or self.cluster == "":
            raise ConfigurationError("--segment and --cluster name a field, such as language or user; one is empty")
        if self.students is not None and "slm" in self.students and self.model is None:
            raise ConfigurationError("--students slm needs a pretrained model; give --model NAME_OR_FOLDER")
        if self.model is not None and self.students is not None and "slm" not in self.students:
            raise ConfigurationError("--model is for the rung slm, which --students leaves out; add it there")
        check_seed(self.seed)
        if self.requests_a_day is not None and not 0 < self.requests_a_day < float("inf"):
            raise ConfigurationError(
                f"--requests-per-day is {self.requests_a_day}; give how many requests come in a day, such as 5000"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"--threads is {self.threads}; give 1 or more, or leave it out for all cores")
        if self.examples < 0:
            raise ConfigurationError(f"--examples is {self.examples}; give 0 or more")
        check_teaching(
            self.teacher,
            self.distil,
            divergence=self.distil_divergence,
            weight=self.distil_weight,
            temperature=self.distil_temperature,
        )
        _check_decoders(self)
        if self.students == ():
            raise ConfigurationError("--students names no rung; give auto, or rungs with commas between")


def pilot(
    traffic: Sequence[Path],
    out: Path,
    settings: PilotSettings | None = None,
    *,
    test: Path | None = None,
    progress: Progress | None = None,
) -> PilotResult:
    """Train, measure, certify, and write `out`/report.html, report.json and bundle/.

    Args:
        traffic: files of one workload's traffic, answered by the frontier.
        out: folder for the outcome; work that was cut off there is taken up again.
        settings: see `PilotSettings`.
        test: separate file of test rows; rows of the traffic that nearly repeat one of them are left out.
        progress: is told where the pilot is.

    Returns:
        What report.json holds. Without a certificate its `certificate.bound` is None.

    Raises:
        DataError: the traffic can't be used.
        ConfigurationError: a setting can't be.
        StorageError: `out` can't be written.
    """
    settings = settings or PilotSettings()
    settings.check()
    teller = Keeping(progress or Silent())
    read = (*traffic, test, settings.prices, settings.teacher)
    check_pilot_folder(out, [path for path in read if path is not None])
    prices = PriceTable(settings.prices)
    make_folder(out)
    teller.stage("reading traffic")
    traffic_read = read_workload(
        traffic,
        teller,
        rejects=out / REJECTS,
        workload=settings.workload,
        format_name=settings.format_name,
        columns=settings.columns,
    )
    real, written = part_written(traffic_read.examples)
    traffic_read = replace(traffic_read, examples=real)
    prepared = _prepare(traffic_read, test, settings, teller, out)
    sent = len(prepared.train)
    prepared = add_written(prepared, written, teller)
    augmented = len(prepared.train) - sent
    work = make_folder(out / WORK / _work_key(prepared, settings))
    threads = settings.threads or os.cpu_count() or 1
    curation = None
    if settings.curate:
        prepared, curation = curated(
            prepared, work, teller, seed=settings.seed, threads=threads, examples=settings.examples
        )
    ladder = LadderSettings(
        students=settings.students,
        encoder=settings.encoder,
        max_loss=settings.max_loss,
        confidence=settings.confidence,
        seed=settings.seed,
        threads=threads,
        work=work,
        model=settings.model,
        curriculum=settings.curriculum,
        teacher=settings.teacher if settings.distil != "answers" else None,
        distil=settings.distil,
        micro_size=settings.micro_size,
        precision=settings.precision,
        distil_divergence=settings.distil_divergence,
        distil_weight=settings.distil_weight,
        distil_temperature=settings.distil_temperature,
        gate_samples=settings.gate_samples,
    )
    candidates, skipped = climb(prepared, ladder, teller)
    _warn_of_unused(settings, {c.responder.rung for c in candidates}, teller)
    best = _choose(candidates)
    place = candidates.index(best)
    candidates[place] = best = refitted(best, teller)
    teller.stage("fitting the gate and certifying")
    wanted = CertifySettings(
        max_loss=settings.max_loss,
        confidence=settings.confidence,
        seed=settings.seed,
        segment=settings.segment,
        control=settings.segment_control,
        cluster=settings.cluster,
    )
    certified = certify(best, prepared, wanted, workload=traffic_read.key.fingerprint, progress=teller)
    doubts = doubts_of(prepared, ladder.work, settings.examples)
    result = summarise(
        traffic_read,
        prepared,
        candidates,
        skipped,
        certified,
        confidence=settings.confidence,
        frontier=settings.frontier,
        requests_a_day=settings.requests_a_day,
        prices=prices,
        threads=ladder.threads,
        augmented=augmented,
        examples=settings.examples,
        progress=teller,
    )
    more: dict[str, Any] = {"doubts": doubts, UNSEEN_LOSSES: lost(prepared.gate.keys, best.losses["gate"])}
    more |= {"curation": record_of(curation)} if curation else {}
    result = msgspec.structs.replace(result, details=result.details | more)
    teller.stage("writing the bundle and the report")
    write_bundle(
        out / BUNDLE,
        version=__version__,
        task=prepared.task,
        reader=prepared.reader,
        frontier=result.workload.frontier,
        student=best.responder,
        record=certified.record,
        certificate=certified.certificate,
        card=render_card(result),
        lineage=lineage_of(i for part in (prepared.train, prepared.gate, prepared.calibration) for i in part.ids),
        measure=prepared.measure,
        inputs=inputs_of(best.responder, prepared.calibration.texts, certified.scores("calibration"), settings.seed),
    )
    write_file(out / "report.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    write_file(out / "report.html", render_page(result).encode())
    clear_work(out)
    return result


def _check_decoders(settings: PilotSettings) -> None:
    """Raise `ConfigurationError` for a size or a precision that no generative rung can have."""
    students, size, precision = settings.students, settings.micro_size, settings.precision
    if size is not None and not LEAST_SIZE <= size <= MOST_SIZE:
        raise ConfigurationError(
            f"--micro-size is {size:,}; give parameters from {LEAST_SIZE:,} to {MOST_SIZE:,}, such as 1000000"
        )
    if precision is not None and precision not in PRECISIONS:
        raise ConfigurationError(f"--precision is {precision!r}; choose from {', '.join(PRECISIONS)}")
    if students is not None and size is not None and "micro" not in students:
        raise ConfigurationError("--micro-size is for the rung micro, which --students leaves out; add it there")
    if students is not None and precision is not None and not {"micro", "slm"} & set(students):
        raise ConfigurationError(
            "--precision is for the rungs micro and slm, which --students leaves out; add one of them there"
        )


def _prepare(read: Traffic, test: Path | None, settings: PilotSettings, teller: Progress, out: Path) -> Prepared:
    task, labels, shape = task_of(read.examples, settings.task, teller)
    if settings.database is not None and task != "sql":
        teller.warn(f"--database is not used: the answers are {shape} ({task}), no SQL")
    check_students(task, shape, settings.students)
    if settings.loss == "field-f1" and task not in ("extraction", "function_calling"):
        raise ConfigurationError(f"--loss field-f1 needs answers with fields, and these are {task}; leave it out")
    if settings.segment is not None:
        check_segment(settings.segment, task, [e.metadata for e in read.examples])
    tests = None
    if test is not None:
        teller.stage("reading test rows")
        own = read_tests(
            test,
            read.key,
            teller,
            rejects=out / REJECTS_OF_TEST,
            format_name=settings.format_name,
            columns=settings.columns,
        )
        tests, _ = part_written(own)
    return prepare(
        read.key,
        read.examples,
        tests,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=settings.max_loss,
        seed=settings.seed,
        progress=teller,
        database=settings.database if task == "sql" else None,
        measure=settings.loss,
        cluster=cluster_field([e.metadata for e in read.examples], settings.cluster),
        tests_from=str(test),
    )


def _warn_of_unused(settings: PilotSettings, trained: set[str], teller: Progress) -> None:
    """Say which options had no effect, since no rung that heeds them was trained."""
    if settings.teacher is not None and not trained & {"micro", "slm"}:
        teller.warn("--teacher was not used: no rung that learns from one (micro, slm) was trained; see --students")
    if settings.micro_size is not None and "micro" not in trained:
        teller.warn("--micro-size was not used: the rung micro was not trained; see --students")
    if settings.precision is not None and not trained & {"micro", "slm"}:
        teller.warn("--precision was not used: neither micro nor slm was trained; see --students")


def _work_key(prepared: Prepared, settings: PilotSettings) -> str:
    """Names the work that a later run may take up: the same rows, parted alike, trained alike."""
    parts = [prepared.train.keys, prepared.gate.keys, prepared.calibration.keys, prepared.test.keys]
    said = (
        parts,
        prepared.task,
        prepared.measure,
        settings.seed,
        settings.encoder,
        settings.model,
        settings.threads,
        __version__,
    )
    said = (*said, settings.curate, settings.curriculum, str(settings.teacher), settings.distil)
    said = (*said, settings.micro_size, settings.precision, settings.database, prepared.declared)
    said = (*said, settings.distil_divergence, settings.distil_weight, settings.distil_temperature)
    said = (*said, settings.gate_samples)
    said = (*said, rationales_of(prepared.train.metadata))
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=8).hexdigest()


def _choose(candidates: list[Candidate]) -> Candidate:
    """The cheapest rung that is as good as the best, as far as the gate's rows can tell.

    Candidates count first by the traffic that they promise to take over, within `CLOSE_OFFLOAD`; then by their losses.
    Forms of one rung cost about the same, so the one that loses least is taken; a cheaper rung is taken for a dearer
    one within one standard error of the paired difference (Breiman et al., "Classification and regression trees", 1984,
    section 3.4.3).
    """
    most = max(c.expected_offload for c in candidates)
    close = [c for c in candidates if c.expected_offload >= most - CLOSE_OFFLOAD]
    rungs = dict.fromkeys(c.responder.rung for c in close)
    forms = [min((c for c in close if c.responder.rung == rung), key=_mean_loss) for rung in rungs]
    best = min(forms, key=_mean_loss).losses["gate"]
    for candidate in forms:
        behind = candidate.losses["gate"] - best
        if behind.mean() <= behind.std() / np.sqrt(max(1, behind.size)):
            return candidate
    raise AssertionError("unreachable: the best is not behind itself")


def _mean_loss(candidate: Candidate) -> float:
    return float(candidate.losses["gate"].mean())
