"""Rows whose requests a teacher wrote (`tiercel augment`): they are trained on and nothing else.

They are not drawn like the traffic. Among calibration or test rows they would make a certificate speak of requests that
nobody sends, so a pilot puts them into training, and only those that repeat no row that is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tiercel.datasets.near_duplicates import NearDuplicateIndex
from tiercel.flows.preparation import Prepared, rows_of
from tiercel.flows.progress import Progress
from tiercel.types import Example

__all__ = ["MARK", "add_written", "part_written"]

MARK = "augmented"
"""The field of `metadata` that names the cluster of failures for which a request was written."""


def part_written(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The traffic itself, and the rows that a teacher wrote; each in its order."""
    real, written = list[Example](), list[Example]()
    for example in examples:
        (written if (example.metadata or {}).get(MARK) else real).append(example)
    return real, written


def add_written(prepared: Prepared, written: Sequence[Example], progress: Progress) -> Prepared:
    """`prepared` with the written rows behind its training rows.

    Left out are rows that nearly repeat a gate, calibration or test row, and answers that are not of the task's form.

    Args:
        prepared: parts of the traffic without these rows.
        written: as `part_written` gives them.
        progress: is warned of what is left out.
    """
    if not written:
        return prepared
    rows, _ = rows_of(written, prepared.reader, prepared.task, prepared.labels, prepared.database)
    index = NearDuplicateIndex()
    for part in (prepared.gate, prepared.calibration, prepared.test):
        for text in part.texts:
            index.add(text)
    near = np.array([index.find(text) is not None for text in rows.texts], dtype=np.bool_)
    kept = rows.take(np.flatnonzero(~near & rows.parsed))
    if near.any():
        progress.warn(f"{int(near.sum())} augmented rows nearly repeat a row that is measured on and are left out")
    unfit = len(written) - int(near.sum()) - len(kept)
    if unfit:
        progress.warn(f"{unfit} augmented rows are of another workload, or their answers not of the task's form")
    return replace(prepared, train=prepared.train + kept)
