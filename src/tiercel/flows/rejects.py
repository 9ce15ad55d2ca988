"""The file of rows that can't be used: nothing that is in them is lost.

A row of JSON a line: `file`, `line`, `item` (its number in a list), `reason`, `raw` (the row as it stands in the file).
Where that is no UTF-8, `raw_base64` holds its bytes, and `raw` only what can be read at its beginning.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from tiercel.datasets.sources import RawRow
from tiercel.errors import ConfigurationError
from tiercel.flows.storage import check_output, guarded, new_file

__all__ = ["RejectFile", "check_rejects", "raw_fields", "rejects_beside"]

SHOWN = 2_000
"""Bytes of a row that is no UTF-8 that are shown as text."""


class RejectFile:
    """Takes rejected rows; the file appears with its end, unless the block raises, and only where there are any.

    Args:
        path: of the file; None to keep none.
        inputs: files that are read; the file may be none of them.
        option: of the command that says where it is.
    """

    def __init__(self, path: Path | None, inputs: Sequence[Path] = (), option: str = "--rejects") -> None:
        self.path = path
        self._option = option
        self._stack = ExitStack()
        self._stream: BinaryIO | None = None
        self._encode = msgspec.json.Encoder().encode
        if path is not None:
            check_rejects(path, inputs, option)

    def __enter__(self) -> RejectFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._stream is not None:
            self._stack.__exit__(kind, error, tb)
        elif self.path is not None and kind is None:
            # What an earlier run set aside is not of this one.
            with guarded(self.path, self._option):
                self.path.unlink(missing_ok=True)

    def add(self, row: RawRow, reason: str) -> None:
        """Write one rejected row.

        Raises:
            StorageError: the file can't be written.
        """
        if self.path is None:
            return
        if self._stream is None:
            self._stream = self._stack.enter_context(new_file(self.path, self._option))
        place: dict[str, Any] = {"file": str(row.path), "line": row.line}
        if row.item is not None:
            place["item"] = row.item
        with guarded(self.path, self._option):
            self._stream.write(self._encode(place | {"reason": reason} | raw_fields(row.raw)) + b"\n")


def rejects_beside(output: Path) -> Path:
    """Where the rows go that could not become part of `output`."""
    return output.with_name(output.name.split(".jsonl")[0] + ".rejects.jsonl")


def check_rejects(path: Path, inputs: Sequence[Path], option: str = "--rejects") -> None:
    """Raise `ConfigurationError` where rejected rows would take the place of something else."""
    check_output(path, inputs, what=f"{path}, where rejected rows go,", advice=f"choose another place with {option}")
    with guarded(path, option):
        if not path.is_file():
            return
        with path.open("rb") as stream:
            beginning = stream.read(8)
    if beginning and not beginning.startswith((b'{"file":', b'{"line":')):
        raise ConfigurationError(
            f"{path}, where rejected rows go, holds something else; choose another place with {option}"
        )


def raw_fields(raw: bytes) -> dict[str, str]:
    """The fields `raw` and, where the row is no UTF-8, `raw_base64`."""
    try:
        return {"raw": raw.decode()}
    except UnicodeDecodeError:
        shown = raw[:SHOWN].decode("utf-8", "replace")
        return {"raw": shown, "raw_base64": base64.b64encode(raw).decode()}
