"""Training labels that are probably wrong, for people to look at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.flows.preparation import Prepared
from tiercel.flows.storage import guarded

__all__ = ["doubts_of", "outside_view"]

FILE = "outside_view.npy"
CLEAR_MARGIN = 0.4
"""How much likelier another label must be for a row to be shown."""


def outside_view(prepared: Prepared, work: Path, seed: int) -> NDArray[np.float32]:
    """What linear rungs that were trained without a row say of it, shape (n, k); kept in `work`."""
    from tiercel.students.linear_training import cross_fitted

    path = work / FILE
    if path.is_file():
        return np.load(path, allow_pickle=False)
    assert prepared.labels is not None
    train = prepared.train
    found = cross_fitted(train.texts, train.targets, multi=prepared.labels.multi, seed=seed)
    aside = work / f"part-{FILE}"
    with guarded(path):
        np.save(aside, found)
        aside.replace(path)
    return found


def doubts_of(prepared: Prepared, work: Path, examples: int) -> dict[str, Any] | None:
    """Labels in doubt by confident learning: how many, the estimated noise, and the most doubtful rows.

    None where no rung has looked at the rows from outside, or answers carry several labels.
    """
    from tiercel.datasets.mislabels import find_mislabels

    labels, train, path = prepared.labels, prepared.train, work / FILE
    if labels is None or labels.multi or not path.is_file():
        return None
    view: NDArray[np.float32] = np.load(path, allow_pickle=False)
    given = train.targets.argmax(axis=1)
    found = find_mislabels(view / view.sum(axis=1, keepdims=True), given)
    # Where the outside view is weak, confident learning doubts many labels a little; people are shown what is clear.
    clear = int((found.margin >= CLEAR_MARGIN).sum())
    rows, suggested = found.rows[: min(clear, examples)].tolist(), found.suggested[: min(clear, examples)].tolist()
    shown = [
        {
            "id": train.ids[i],
            "text": train.texts[i][:400],
            "label": labels.labels[given[i]],
            "suggested": labels.labels[other],
            "verified": bool(train.verified[i]),
        }
        for i, other in zip(rows, suggested, strict=True)
    ]
    return {"rows": clear, "of": len(train), "examples": shown}
