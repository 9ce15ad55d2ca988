"""Keeping what native code writes to the process's stderr, which no Python stream sees."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["Kept", "kept_stderr"]

_LOCK = threading.Lock()
_LONGEST = 20_000


class Kept:
    """What was written.

    Attributes:
        text: set when the block ends.
        drop: whether to drop the text; otherwise it goes where it was meant to go, after the block.
    """

    def __init__(self) -> None:
        self.text = ""
        self.drop = False


@contextmanager
def kept_stderr() -> Generator[Kept]:
    """Hold back everything that is written to file descriptor 2 in the block; other threads' lines come after it."""
    kept = Kept()
    with _LOCK, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield kept
        finally:
            os.dup2(real, 2)
            file.seek(0)
            raw = file.read(_LONGEST)
            kept.text = raw.decode(errors="replace")
            if raw and not kept.drop:
                os.write(real, raw)
            os.close(real)
