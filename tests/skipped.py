"""Says at the end of a run what was not tested, and why: what is skipped leaves a suite green."""

from __future__ import annotations

from typing import Any

__all__ = ["pytest_terminal_summary"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write a line for each reason to skip; pytest calls this, in the process that gathers the reports of all."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        path, _, reason = report.longrepr
        skipped.setdefault(reason.removeprefix("Skipped: "), []).append(path.rpartition("/")[2])
    for reason, files in sorted(skipped.items()):
        times = f"skipped {len(files)} times" if len(files) > 1 else "skipped once"
        terminalreporter.write_line(f"NOT TESTED: {reason} ({times}: {', '.join(sorted(set(files)))})", yellow=True)
