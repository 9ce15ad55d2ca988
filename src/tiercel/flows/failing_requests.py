"""The requests that a pilot's student fails on, in groups to write more of: among training and gate rows alone.

Calibration and test rows are neither answered nor shown here: a teacher that wrote more of what fails among them would
write them into training.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.failure_clusters import FailureReport, failure_clusters
from tiercel.errors import DataError
from tiercel.flows.candidates import AT_ONCE
from tiercel.flows.finished_pilot import FinishedPilot
from tiercel.flows.preparation import Rows, row_key
from tiercel.flows.progress import Progress
from tiercel.flows.request_writing import Group
from tiercel.types import Answer, Example

__all__ = ["failing_groups"]

MOST_ASKED = 4_000
"""Training rows that the student answers at the most; more of the same clusters would be found."""
MOST_GROUPS = 12
"""Groups that are written for; the others hold little of the loss."""
MIXED = "mixed"
"""Name of the failures that resemble too few others to make a cluster."""
FEWEST = 3


def failing_groups(pilot: FinishedPilot, progress: Progress, *, seed: int) -> tuple[list[Group], FailureReport]:
    """Have the student answer training and gate rows, and group what it gets wrong.

    A training row that fails was learnt and is wrong all the same; a gate row was never seen.

    Args:
        pilot: that is finished.
        progress: is told how many rows are answered.
        seed: of which training rows are asked, where there are very many.

    Returns:
        The groups, that with most of the loss first, and what was found.

    Raises:
        DataError: the student fails on too few rows to learn from.
    """
    prepared = pilot.prepared
    chosen = np.sort(np.random.default_rng(seed).permutation(len(prepared.train))[:MOST_ASKED])
    rows = prepared.train.take(chosen) + prepared.gate
    losses = _losses(pilot, rows, progress)
    report = failure_clusters(rows.texts, losses)
    # By key, not by id: two rows may share an id, and one of them be a test row.
    known = {row_key(e): e for e in pilot.examples}
    groups = list[Group]()
    for cluster in report.clusters:
        order = [*cluster.representatives, *(i for i in cluster.rows if i not in cluster.representatives)]
        name = " ".join(cluster.words[:3]) or f"cluster {len(groups) + 1}"
        groups.append(_group(name, cluster.words, order, cluster.share_of_loss, rows, losses, known, pilot))
    if len(report.scattered) >= FEWEST:
        share = float(losses[list(report.scattered)].sum()) / report.total_loss
        groups.append(_group(MIXED, (), report.scattered, share, rows, losses, known, pilot))
    usable = [g for g in groups if g.examples]
    if not usable:
        raise DataError(
            f"the student fails on {report.failures} of {report.rows} training and gate rows, too few that resemble "
            "each other (or none of a single turn) to write more of; collect traffic instead"
        )
    return _told_apart(sorted(usable, key=lambda g: -g.share_of_loss)[:MOST_GROUPS]), report


def _losses(pilot: FinishedPilot, rows: Rows, progress: Progress) -> NDArray[np.float64]:
    """The student's loss on each of n rows, shape (n,); of the gate's rows, its loss before it had seen them."""
    progress.stage(f"answering {len(rows):,} training and gate rows")
    answers = list[Answer]()
    for start in range(0, len(rows), AT_ONCE):
        answers += pilot.bundle.student.respond(rows.texts[start : start + AT_ONCE]).answers
        progress.step(len(answers), len(rows))
    losses = pilot.prepared.losses(rows, answers)
    if pilot.unseen_losses is not None:
        gate = set(pilot.prepared.gate.keys)
        for i in [i for i, key in enumerate(rows.keys) if key in gate]:
            losses[i] = pilot.unseen_losses.get(rows.keys[i], 0.0)
    return losses


def _group(
    name: str,
    words: tuple[str, ...],
    order: Sequence[int],
    share: float,
    rows: Rows,
    losses: NDArray[np.float64],
    known: dict[str, Example],
    pilot: FinishedPilot,
) -> Group:
    """A group of the rows `order`, the most typical first; its examples are requests of a single turn."""
    reader = pilot.bundle.manifest.reader
    found = [known[rows.keys[i]] for i in order if rows.keys[i] in known]
    single = [e for e in found if sum(m.role not in ("system", "developer") for m in e.messages) == 1]
    return Group(
        name=name,
        words=words,
        examples=tuple(single),
        texts=tuple(reader.bare(e.messages[-1].text) for e in single),
        rows=len(order),
        share_of_loss=share,
        mean_loss=float(losses[list(order)].mean()),
    )


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """The groups with names that no two share."""
    seen, found = set[str](), list[Group]()
    for group in groups:
        name, number = group.name, 2
        while name in seen:
            name, number = f"{group.name} {number}", number + 1
        seen.add(name)
        found.append(msgspec.structs.replace(group, name=name))
    return found
