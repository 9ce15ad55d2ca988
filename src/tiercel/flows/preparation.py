"""From examples to what students, gates and certificates need: texts, targets, losses, parts that never mix."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import joined_groups, split_groups
from tiercel.datasets.templates import RequestReader, WorkloadKey, common_affixes
from tiercel.errors import DataError
from tiercel.flows.progress import Progress
from tiercel.stats.clusters import cluster_numbers
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.losses import compare, loss_of
from tiercel.tasks.recognition import closed_set, recognise
from tiercel.types import Answer, Example

__all__ = ["Prepared", "Rows", "part_rows", "prepare", "reader_for", "row_key", "rows_of", "task_of"]

FEWEST_ROWS = 60
CALIBRATION_SHARE = 0.26
CALIBRATION_FACTOR = 25
"""A certificate gains little from more calibration rows than this over the bound."""
LARGEST_COMPONENT = 0.1
"""Share of the rows that users who share requests may hold before they can't be kept on one side of a split."""
TRIED_QUERIES = 50
"""Queries of the traffic that show whether a database is the one that they were written for."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n rows of one part.

    Attributes:
        ids: of the examples.
        keys: hash of each request with its id.
        texts: what a student reads.
        frontier: the frontier's answers.
        reference: verified answers, or the frontier's own.
        verified: shape (n,), whether the reference is verified.
        targets: labels of the reference, 0 or 1, shape (n, k), NaN where it does not parse; k = 0 for other tasks than
            classification.
        parsed: shape (n,), whether the reference is of the task's form.
        frontier_loss: shape (n,), 0 where the frontier's answer is the reference.
        metadata: of the examples; None where they have none.
    """

    ids: list[str]
    keys: list[str]
    texts: list[str]
    frontier: list[Answer]
    reference: list[Answer]
    verified: NDArray[np.bool_]
    targets: NDArray[np.float32]
    parsed: NDArray[np.bool_]
    frontier_loss: NDArray[np.float64]
    metadata: list[dict[str, Any] | None] = field(default_factory=list[dict[str, Any] | None])

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: NDArray[np.int64]) -> Rows:
        """The rows with these numbers, in their order."""
        return Rows(
            ids=[self.ids[i] for i in numbers],
            keys=[self.keys[i] for i in numbers],
            texts=[self.texts[i] for i in numbers],
            frontier=[self.frontier[i] for i in numbers],
            reference=[self.reference[i] for i in numbers],
            verified=self.verified[numbers],
            targets=self.targets[numbers],
            parsed=self.parsed[numbers],
            frontier_loss=self.frontier_loss[numbers],
            metadata=[self.metadata[i] for i in numbers],
        )

    def __add__(self, other: Rows) -> Rows:
        """These rows, then the other ones."""
        return Rows(
            ids=self.ids + other.ids,
            keys=self.keys + other.keys,
            texts=self.texts + other.texts,
            frontier=self.frontier + other.frontier,
            reference=self.reference + other.reference,
            verified=np.concatenate([self.verified, other.verified]),
            targets=np.concatenate([self.targets, other.targets]),
            parsed=np.concatenate([self.parsed, other.parsed]),
            frontier_loss=np.concatenate([self.frontier_loss, other.frontier_loss]),
            metadata=self.metadata + other.metadata,
        )

    def clusters(self, name: str | None) -> NDArray[np.int64]:
        """Number of each row's cluster by a field of the metadata, shape (n,); each row its own where it has none."""
        return cluster_numbers([_scalar((m or {}).get(name)) if name else None for m in self.metadata])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A workload in four parts that share no request and no near-duplicate."""

    reader: RequestReader
    task: str
    labels: LabelSet | None
    shape: str
    train: Rows
    gate: Rows
    calibration: Rows
    test: Rows
    leaked: int
    unparsed: int
    unanswered: int
    database: str | None = None
    measure: str = "exact"
    cluster: str | None = None
    """Field of the metadata by which rows were parted whole; None where they were parted by near-duplicates alone."""

    def losses(self, rows: Rows, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """Loss of each of n answers to `rows`, shape (n,)."""
        pairs = zip(answers, rows.reference, strict=True)
        measure, task = self.measure, self.task
        return np.array([loss_of(measure, task, a, r, self.labels, self.database) for a, r in pairs], dtype=np.float64)


def task_of(examples: Sequence[Example], forced: str | None, progress: Progress) -> tuple[str, LabelSet | None, str]:
    """The task of a workload, its labels and the form of its answers in words.

    Raises:
        DataError: the answers do not fit the task that was asked for, or leave nothing to learn.
    """
    answers = [a for e in examples for a in (e.answer, e.reference) if a is not None]
    if not answers:
        raise DataError("no row has an answer; a pilot learns from what the frontier answered")
    if len(answers) < FEWEST_ROWS:
        raise DataError(f"{len(answers)} rows can be used; a pilot needs at least {FEWEST_ROWS}: collect more traffic")
    found = recognise(answers)
    labels = found.labels
    if forced and forced != found.task:
        labels = closed_set([a.text for a in answers], force=True) if forced == "classification" else None
        progress.warn(f"the answers look like {found.task} ({found.shape}), taken for {forced} as you asked")
    task = forced or found.task
    if found.share < 0.9 and not forced:
        progress.warn(
            f"only {found.share:.0%} of the answers are {found.shape}: two tasks may be mixed in this workload; "
            "answers of another form count as lost"
        )
    if task == "classification":
        assert labels is not None
        if len(labels.labels) < 2:
            only = labels.labels[0] if labels.labels else "nothing that looks like a label"
            raise DataError(f"every answer is {only!r}: there is nothing to learn; check that the answers were logged")
    return task, labels, found.shape if task == found.task else f"{len(labels.labels) if labels else 0} labels"


def reader_for(key: WorkloadKey, examples: Sequence[Example]) -> RequestReader:
    """The reader of a workload: its template, and what its users' messages begin and end with."""
    bare = [e.messages[-1].text for e in examples if sum(m.role == "user" for m in e.messages) == 1]
    prefix, suffix = common_affixes(bare) if len(bare) > 0.5 * len(examples) else ("", "")
    return RequestReader(key=key, prefix=prefix, suffix=suffix)


def rows_of(
    examples: Sequence[Example],
    reader: RequestReader,
    task: str,
    labels: LabelSet | None,
    database: str | None = None,
    measure: str = "exact",
) -> tuple[Rows, int]:
    """Rows of the examples that have an answer and can be read, and how many had none or could not."""
    kept = list[tuple[Example, str]]()
    for example in examples:
        text = reader.read(example.messages)
        if text is not None and (example.answer or example.reference):
            kept.append((example, text))
    frontier = [e.answer or e.reference or Answer() for e, _ in kept]
    reference = [e.reference or e.answer or Answer() for e, _ in kept]
    verified = np.array([e.reference is not None and e.answer is not None for e, _ in kept], dtype=np.bool_)
    losses = [
        loss_of(measure, task, f, r, labels, database) if v else 0.0
        for f, r, v in zip(frontier, reference, verified, strict=True)
    ]
    if labels is not None:
        targets = labels.targets([r.text for r in reference])
        parsed = ~np.isnan(targets[:, 0])
    else:
        targets = np.zeros((len(kept), 0), dtype=np.float32)
        parsed = np.array([compare(task, r, r, None, database).loss == 0 for r in reference], dtype=np.bool_)
    rows = Rows(
        ids=[e.id for e, _ in kept],
        keys=[row_key(e) for e, _ in kept],
        texts=[t for _, t in kept],
        frontier=frontier,
        reference=reference,
        verified=verified,
        targets=targets,
        parsed=parsed,
        frontier_loss=np.array(losses, dtype=np.float64),
        metadata=[e.metadata for e, _ in kept],
    )
    return rows, len(examples) - len(kept)


def row_key(example: Example) -> str:
    """A hash of the request with its id, by which a row is known in certificates."""
    content = msgspec.json.encode((example.id, example.messages))
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def prepare(
    key: WorkloadKey,
    examples: Sequence[Example],
    tests: Sequence[Example] | None,
    *,
    task: str,
    labels: LabelSet | None,
    shape: str,
    max_loss: float,
    seed: int,
    progress: Progress,
    database: str | None = None,
    measure: str = "exact",
    cluster: str | None = None,
) -> Prepared:
    """Read, target and part the rows.

    Args:
        key: of the workload.
        examples: of the traffic.
        tests: of a separate test file; None to set test rows aside from the traffic.
        task: of the workload.
        labels: of a workload of classification.
        shape: of the answers, in words.
        max_loss: the bound, which says how many calibration rows are worth having.
        seed: of the split.
        progress: is warned of what is odd.
        database: SQLite file or PostgreSQL URL on which answers of SQL are run to compare them; None compares texts.
        measure: of the loss, one of `tasks.losses.LOSSES`.
        cluster: field of the metadata whose rows go to one part together; None for near-duplicates alone.

    Raises:
        DataError: there are too few rows.
    """
    reader = reader_for(key, examples)
    if database is not None:
        _try_database([a for e in examples if (a := e.reference or e.answer)], database, progress)
    rows, unanswered = rows_of(examples, reader, task, labels, database, measure)
    if len(rows) < FEWEST_ROWS:
        raise DataError(f"{len(rows)} rows can be used; a pilot needs at least {FEWEST_ROWS}: collect more traffic")
    leaked = 0
    if cluster is not None and not _can_part(rows, cluster):
        progress.warn(
            f"the rows of {cluster!r} can't be kept on one side of a split: too few of them, or they share requests; "
            "the certificate then speaks of requests from these alone"
        )
        cluster = None
    if tests is None:
        parts = part_rows(rows, with_test=True, max_loss=max_loss, seed=seed, cluster=cluster)
        train, gate, calibration, test = (rows.take(p) for p in parts)
    else:
        test, unread = rows_of(tests, reader, task, labels, database, measure)
        if not len(test):
            raise DataError("no row of the test file belongs to this workload: its system prompt or its answers differ")
        if unread:
            progress.warn(f"{unread} rows of the test file are of another workload or have no answer")
        groups = near_duplicate_groups(rows.texts + test.texts)
        near = np.isin(groups[: len(rows)], groups[len(rows) :])
        leaked = int(near.sum())
        if leaked:
            progress.warn(f"{leaked} rows nearly repeat a row of the test file and are left out of training")
            rows = rows.take(np.flatnonzero(~near))
        parts = part_rows(rows, with_test=False, max_loss=max_loss, seed=seed, cluster=cluster)
        train, gate, calibration = (rows.take(p) for p in parts[:3])
    if labels is not None:
        _warn_of_labels(train, labels, progress)
    unparsed = sum(int((~part.parsed).sum()) for part in (train, gate, calibration, test))
    if unparsed:
        what = f"none of the {len(labels.labels)} labels" if labels else f"not of the form of {task}"
        progress.warn(f"{unparsed} answers are {what}; they count as lost")
    if not train.parsed.any():
        raise DataError(
            f"no answer to train on is of the form of {task}: check --task and that the answers were logged"
        )
    return Prepared(
        reader=reader,
        task=task,
        labels=labels,
        shape=shape,
        train=train.take(np.flatnonzero(train.parsed)),
        gate=gate,
        calibration=calibration,
        test=test,
        leaked=leaked,
        unparsed=unparsed,
        unanswered=unanswered,
        database=database,
        measure=measure,
        cluster=cluster,
    )


def part_rows(
    rows: Rows, *, with_test: bool, max_loss: float, seed: int, cluster: str | None = None
) -> list[NDArray[np.int64]]:
    """Numbers of the rows for training, gate, calibration and test.

    A certificate gains little from more than about 25 / max_loss rows, so the share of calibration falls as traffic
    grows; the gate has few weights and needs a twelfth, up to 800. Near-duplicates stay together, and the rows of a
    cluster where one is named.
    """
    n = len(rows)
    test = 0.15 if with_test else 0.0
    calibration = min(CALIBRATION_SHARE, CALIBRATION_FACTOR / max_loss / n)
    gate = min(0.08, 800 / n)
    fractions = [1 - test - calibration - gate, gate, calibration, test]
    groups = near_duplicate_groups(rows.texts)
    return split_groups(groups if cluster is None else joined_groups(groups, rows.clusters(cluster)), fractions, seed)


def _can_part(rows: Rows, cluster: str) -> bool:
    joined = joined_groups(near_duplicate_groups(rows.texts), rows.clusters(cluster))
    return int(np.bincount(joined).max()) <= LARGEST_COMPONENT * len(rows)


def _scalar(value: object) -> str | None:
    """What names a cluster: a text, a number or a truth value; None for what does not."""
    return str(value) if isinstance(value, (str, int, float)) and value != "" else None


def _try_database(answers: Sequence[Answer], database: str, progress: Progress) -> None:
    """Warn of queries that give no result on the database: nothing but their text can be compared.

    Raises:
        DataError: none of those that were tried gives one, or the database can't be used.
    """
    tried = answers[:: max(1, len(answers) // TRIED_QUERIES)]
    errors = [e.removeprefix("reference ") for a in tried if (e := compare("sql", a, a, None, database).error)]
    if not errors:
        return
    often = Counter(errors).most_common(1)[0][0]
    # The database may be a URL with a password, so it is not named.
    if len(errors) == len(tried):
        raise DataError(
            f"none of {len(tried)} queries of the traffic gives a result on the database ({often}); "
            "give the one that they were written for, or leave --database out to compare their texts"
        )
    progress.warn(
        f"{len(errors)} of {len(tried)} queries that were tried give no result on the database ({often}); "
        "such queries are compared by their text"
    )


def _warn_of_labels(train: Rows, labels: LabelSet, progress: Progress) -> None:
    counts = np.nansum(train.targets, axis=0)
    thin = [labels.labels[i] for i in np.flatnonzero(counts < 2)]
    if thin:
        names = ", ".join(repr(n) for n in thin[:5]) + (" …" if len(thin) > 5 else "")
        progress.warn(
            f"{len(thin)} labels have fewer than two training rows ({names}); requests of theirs will escalate"
        )
