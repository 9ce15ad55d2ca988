"""What the command line shows: JSON on stdout; progress on stderr, with rate and time left on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["TerminalProgress", "print_json"]


def print_json(value: Any) -> None:
    """Write a value to stdout as indented JSON; what JSON has no word for, such as a path, as its text."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


class TerminalProgress:
    """Draws a flow's progress; without a terminal, one line a stage."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._task: Any = None
        self._title = ""
        self._total = 0
        self._live = sys.stderr.isatty()

    def __enter__(self) -> TerminalProgress:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=False,
            )
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            if error is None:
                self._complete()
            self._bars.stop()

    def _complete(self) -> None:
        if self._task is not None:
            total = self._total or 1
            self._bars.update(self._task, total=total, completed=total)

    def stage(self, title: str) -> None:
        """A new part of the work begins."""
        self._title, self._total = title, 0
        if self._bars is None:
            print(f"{time.strftime('%H:%M:%S')}  {title}", file=sys.stderr)
            return
        self._complete()
        self._task = self._bars.add_task(title, total=None)

    def step(self, done: int, total: int) -> None:
        """The current part has done `done` of `total` steps; 0 for a total that is not known."""
        self._total = total or done
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total or None)

    def warn(self, text: str) -> None:
        """Print a warning above the bars."""
        if self._bars is None:
            print(f"warning: {text}", file=sys.stderr)
        else:
            self._bars.console.print(f"warning: {text}", markup=False, highlight=False)
