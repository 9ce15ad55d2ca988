"""The folder of a pilot: what is written into it takes the place of an earlier pilot's outcome and of nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from tiercel.errors import ConfigurationError
from tiercel.flows.rejects import check_rejects
from tiercel.flows.storage import check_output, guarded

__all__ = ["BUNDLE", "REJECTS", "REJECTS_OF_TEST", "WORK", "check_pilot_folder", "clear_work"]

BUNDLE, WORK = "bundle", ".work"
REJECTS, REJECTS_OF_TEST = "rejects.jsonl", "rejects-test.jsonl"
_ADVICE = "choose another folder with --out"


class _Listed(Struct):
    """What every manifest says, that of a newer program too."""

    format: int
    files: dict[str, str]


def check_pilot_folder(out: Path, inputs: Sequence[Path]) -> None:
    """Raise `ConfigurationError` where a pilot's outcome would take the place of something else.

    Args:
        out: the folder, which need not be there.
        inputs: files and folders that the pilot reads.
    """
    for name in ("report.json", "report.html"):
        check_output(out / name, inputs, what=str(out / name), advice=_ADVICE)
    for name in (REJECTS, REJECTS_OF_TEST):
        check_rejects(out / name, inputs, "--out")
    with guarded(out):
        for source in inputs:
            for folder in (out / BUNDLE, out / WORK):
                if source.resolve().is_relative_to(folder.resolve()):
                    raise ConfigurationError(f"{source} is read, and lies where a bundle will be written; {_ADVICE}")
        _check_bundle(out / BUNDLE)


def _check_bundle(folder: Path) -> None:
    """Raise `ConfigurationError` unless `folder` is not there, empty, or a bundle and nothing besides."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    foreign = f"{folder} is there and is no bundle that a pilot wrote; move it away, or {_ADVICE}"
    try:
        listed = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Listed)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigurationError(foreign) from None
    known = {*listed.files, "manifest.json"}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            raise ConfigurationError(f"{path} is no file of the bundle that a pilot will replace; move it away, or "
                                     f"{_ADVICE}")  # fmt: skip


def clear_work(out: Path) -> None:
    """Remove what a finished pilot needs no more, and the folder of it unless something else is in it."""
    with guarded(out), suppress(FileNotFoundError):
        for folder in (out / WORK).iterdir():
            if re.fullmatch("[0-9a-f]{16}", folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            (out / WORK).rmdir()
