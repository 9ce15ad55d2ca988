"""Anchors: rows with the frontier's own answer and a verified one, by which a change of the frontier is seen.

What the frontier loses on them in the recorded answers is known. It is asked them again, one by one, drawn by chance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import example_from
from tiercel.datasets.sources import iterate_rows
from tiercel.errors import DataError
from tiercel.types import Answer, Example

__all__ = ["FEWEST", "AnchorRow", "Anchors", "anchors_of", "read_anchor_rows"]

FEWEST = 30
"""Rows of a workload below which nothing is told from them."""
TOLERANCE = 0.02
"""Rise of the error that is no drift, where rows are many."""

_encode = msgspec.json.Encoder(order="sorted").encode


class AnchorRow(Struct, frozen=True, kw_only=True):
    """One row that can be asked again."""

    id: str
    body: dict[str, Any]
    """Chat request."""
    told: Answer
    """What the frontier answered when the row was recorded."""
    right: Answer
    """The verified answer."""


class Anchors(Struct, frozen=True, kw_only=True):
    """The anchors of one workload."""

    rows: tuple[AnchorRow, ...]
    error: float
    """Mean loss of the recorded answers."""
    tolerance: float
    """Rise that is no drift: at least twice the standard error of `error`, because a frontier does not always answer
    the same."""
    digest: str
    """Of the rows and how they are compared."""


def read_anchor_rows(path: Path) -> list[tuple[Example, AnchorRow]]:
    """Read a file of anchors in the data contract.

    Raises:
        DataError: a row can't be read, has no answer or no verified reference, or an id stands there twice; the message
            names the line.
    """
    found: list[tuple[Example, AnchorRow]] = []
    seen: set[str] = set()
    for row in iterate_rows(path):
        try:
            if row.error is not None:
                raise DataError(row.error)
            example = example_from(row.value)
            if example.answer is None or example.reference is None:
                raise DataError("an anchor needs the frontier's answer (its last message) and a verified `reference`")
            if example.id in seen:
                raise DataError("its id stands there twice; leave one of both out")
        except DataError as error:
            raise DataError(f"{path}, line {row.line}: {error}") from None
        seen.add(example.id)
        found.append((example, _row(example, example.answer, example.reference)))
    if not found:
        raise DataError(f"{path} holds no row; give rows with a verified `reference`")
    return found


def _row(example: Example, told: Answer, right: Answer) -> AnchorRow:
    body: dict[str, Any] = {"messages": list(msgspec.to_builtins(example.messages))}
    for name in ("model", "tools", "response_format"):
        if (value := getattr(example, name)) is not None:
            body[name] = value
    return AnchorRow(id=example.id, body=body, told=told, right=right)


def anchors_of(rows: Sequence[AnchorRow], losses: Sequence[float], measured: str) -> Anchors:
    """The anchors of a workload.

    Args:
        rows: at least `FEWEST`.
        losses: of the recorded answer of each row.
        measured: how they were compared; part of the digest.

    Raises:
        DataError: the rows are too few.
    """
    if len(rows) < FEWEST:
        raise DataError(f"{len(rows)} anchors are too few to see a change of the frontier; give at least {FEWEST}")
    error = math.fsum(losses) / len(rows)
    variance = math.fsum((loss - error) ** 2 for loss in losses) / (len(rows) - 1)
    digest = hashlib.sha256(_encode([measured, error, rows])).hexdigest()
    tolerance = max(TOLERANCE, 2 * math.sqrt(variance / len(rows)))
    return Anchors(rows=tuple(rows), error=error, tolerance=tolerance, digest=digest)
