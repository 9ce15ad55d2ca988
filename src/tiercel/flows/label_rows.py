"""Reading a file of requests for a teacher: rows that are to be asked, that keep their answer, that can't be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiercel.datasets.contract import example_from
from tiercel.datasets.sources import iterate_rows
from tiercel.datasets.templates import TemplateIndex
from tiercel.errors import DataError
from tiercel.flows.teacher import Teacher
from tiercel.types import Example

__all__ = ["Row", "read_rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the file; `workload` counts those of the file from 0."""

    line: int
    raw: bytes
    """As it stands in the file, of a row that can't be read; empty for others."""
    example: Example | None = None
    """None for a line that can't be read."""
    error: str = ""
    workload: int = 0
    key: str | None = None
    """Of a request to ask; None for a row that keeps its answer."""


def read_rows(source: Path, teacher: Teacher, *, again: bool) -> list[Row]:
    """All rows of a file, in order.

    Args:
        source: in the data contract.
        teacher: gives the requests their keys.
        again: requests that have an answer are asked too.

    Raises:
        DataError: the file can't be opened, or no row of it is a request.
    """
    rows, index = list[Row](), TemplateIndex()
    for raw in iterate_rows(source):
        try:
            if raw.error is not None:
                raise DataError(raw.error)
            example = example_from(raw.value)
        except DataError as error:
            rows.append(Row(line=raw.line, raw=raw.raw, error=str(error)))
            continue
        key = teacher.key(example) if example.answer is None or again else None
        rows.append(Row(line=raw.line, raw=b"", example=example, workload=index.add(example), key=key))
    if not any(row.example for row in rows):
        raise DataError(f"{source}: none of its {len(rows)} rows is a request in the data contract")
    return rows
