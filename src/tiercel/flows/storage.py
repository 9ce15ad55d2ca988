"""Writing files whole or not at all, and never over what a user may want to keep."""

from __future__ import annotations

import errno
import gzip
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tiercel.errors import ConfigurationError, StorageError, TiercelError, ran_out_of_memory

__all__ = ["check_output", "guarded", "make_folder", "moved_into", "new_file", "replace_folder", "write_file"]

_FAILED_WRITE = re.compile(
    r"os error (27|28|122)\b|No space left|File too large|failed writing|file write failed|write error", re.IGNORECASE
)


@contextmanager
def guarded(path: Path, option: str = "--out") -> Generator[None]:
    """Turn what an operating system says of `path` into one clear error; `option` of the command gives another."""
    try:
        yield
    except TiercelError:
        raise
    except OSError as error:
        if ran_out_of_memory(error):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"{path}: the disk is full; free some space and run the same command again") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(
                f"{path}: can't write there ({error.strerror}); choose another place with {option}"
            ) from None
        raise StorageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        # Libraries that write weights have errors of their own for a write that failed.
        if _FAILED_WRITE.search(str(error)) is None:
            raise
        raise StorageError(
            f"{path}: a write failed, the disk is full or a limit was reached; free some space and run it again"
        ) from None


def check_output(
    path: Path, inputs: Iterable[Path], *, what: str = "", role: str = "an input", advice: str = "choose another name"
) -> None:
    """Raise `ConfigurationError` for a file that can't be written without loss.

    Args:
        path: of the file.
        inputs: files and folders that are read, and are then to be there still.
        what: names the file in the error; "--output" and its path when left out.
        role: of the inputs, where they are something else.
        advice: of the error.
    """
    what = what or f"--output {path}"
    with guarded(path):
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{what} is there and is no regular file; {advice}")
        for source in inputs:
            if _same(path, source) or _same(_aside(path), source):
                raise ConfigurationError(f"{what} is also {role}; {advice}")


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def make_folder(path: Path, option: str = "--out") -> Path:
    """Make `path` and its parents.

    Raises:
        StorageError: it can't be made or is a file.
    """
    with guarded(path, option):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".tiercel-write-test"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # by another process that makes the same folder
    return path


@contextmanager
def moved_into(path: Path, option: str = "--out") -> Generator[Path]:
    """The path of a file aside that becomes `path` unless the block raises."""
    aside = _aside(path)
    with guarded(path, option):
        try:
            yield aside
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def write_file(path: Path, content: bytes, option: str = "--out") -> None:
    """Write `content` aside and rename it to `path`."""
    with moved_into(path, option) as aside:
        aside.write_bytes(content)


@contextmanager
def new_file(path: Path, option: str = "--out") -> Generator[BinaryIO]:
    """A stream to a file aside, compressed where `path` ends in .gz, that becomes `path` unless the block raises."""
    with (
        moved_into(path, option) as aside,
        gzip.open(aside, "wb", compresslevel=5) if path.suffix == ".gz" else aside.open("wb") as stream,
    ):
        yield cast("BinaryIO", stream)


def replace_folder(aside: Path, target: Path) -> None:
    """Put the finished folder `aside` in the place of `target`, which is gone afterwards."""
    with guarded(target):
        if not target.exists():
            aside.replace(target)
            return
        # A new name: one such as NAME.old may be a copy that the user keeps.
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        target.replace(old / target.name)
        aside.replace(target)
        shutil.rmtree(old, ignore_errors=True)
