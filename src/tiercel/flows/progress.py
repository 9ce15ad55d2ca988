"""How a flow tells its caller where it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Keeping", "Progress", "Silent"]


class Progress(Protocol):
    """Is told what a flow does; a command line draws it, a library user may ignore it."""

    def stage(self, title: str) -> None:
        """A new part of the work begins."""
        ...

    def step(self, done: int, total: int) -> None:
        """The current part has done `done` of `total` steps."""
        ...

    def warn(self, text: str) -> None:
        """Something that the user should know, though the work goes on."""
        ...


class Silent:
    """Tells nobody; keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, title: str) -> None:
        """Nothing."""

    def step(self, done: int, total: int) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Keep `text`."""
        self.warnings.append(text)


class Keeping:
    """Passes everything on, and keeps the warnings for the report.

    Args:
        inner: is told everything.
    """

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.warnings: list[str] = []

    def stage(self, title: str) -> None:
        """Pass it on."""
        self.inner.stage(title)

    def step(self, done: int, total: int) -> None:
        """Pass it on."""
        self.inner.step(done, total)

    def warn(self, text: str) -> None:
        """Keep `text`, and pass it on; rungs that meet the same trouble say it once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.inner.warn(text)
