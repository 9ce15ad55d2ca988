"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import gzip
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tiercel.errors import StorageError, TiercelError, ran_out_of_memory

__all__ = ["guarded", "make_folder", "new_file", "replace_folder", "write_file"]

_FAILED_WRITE = re.compile(
    r"os error (27|28|122)\b|No space left|File too large|failed writing|file write failed|write error", re.IGNORECASE
)


@contextmanager
def guarded(path: Path) -> Generator[None]:
    """Turn what an operating system says of `path` into one clear error."""
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
                f"{path}: can't write there ({error.strerror}); choose another folder with --out"
            ) from None
        raise StorageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        # Libraries that write weights have errors of their own for a write that failed.
        if _FAILED_WRITE.search(str(error)) is None:
            raise
        raise StorageError(
            f"{path}: a write failed, the disk is full or a limit was reached; free some space and run it again"
        ) from None


def make_folder(path: Path) -> Path:
    """Make `path` and its parents.

    Raises:
        StorageError: it can't be made or is a file.
    """
    with guarded(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".tiercel-write-test"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # by another process that makes the same folder
    return path


def write_file(path: Path, content: bytes) -> None:
    """Write `content` aside and rename it to `path`."""
    aside = path.with_name(path.name + ".part")
    with guarded(path):
        try:
            aside.write_bytes(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """A stream to a file aside, compressed where `path` ends in .gz, that becomes `path` unless the block raises."""
    aside = path.with_name(path.name + ".part")
    with guarded(path):
        try:
            with gzip.open(aside, "wb", compresslevel=5) if path.suffix == ".gz" else aside.open("wb") as stream:
                yield cast("BinaryIO", stream)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def replace_folder(aside: Path, target: Path) -> None:
    """Put the finished folder `aside` in the place of `target`, which is gone afterwards."""
    old = target.with_name(target.name + ".old")
    with guarded(target):
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        aside.replace(target)
        shutil.rmtree(old, ignore_errors=True)
