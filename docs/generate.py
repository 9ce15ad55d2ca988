"""Writes commands.md from the program's own help; `make docs` runs it, and a test says when it is due."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = ("", "import", "workloads", "label", "pilot", "answer", "serve", "certificate verify")


def page() -> str:
    """The page's text."""
    program = Path(sys.executable).with_name("tiercel")
    plain = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    parts = ["# Commands", "", "Generated from the program's help by `make docs`.", ""]
    for command in COMMANDS:
        told = subprocess.run(
            [program, *command.split(), "--help"], env=plain, capture_output=True, text=True, check=True
        ).stdout
        lines = "\n".join(line.rstrip() for line in told.strip().splitlines())
        parts += [f"## tiercel {command}".rstrip(), "", "```text", lines, "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(page(), encoding="utf-8")
