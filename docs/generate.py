"""Writes commands.md from the program's own help, and the tables of configuration.md from the settings' docstrings.

`make docs` runs it, and tests say when it is due.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIGURATION = Path(__file__).with_name("configuration.md")
COMMANDS = (
    "",
    "import",
    "workloads",
    "label",
    "augment",
    "pilot",
    "plan",
    "certify",
    "answer",
    "serve",
    "init",
    "doctor",
    "watch",
    "certificate verify",
)


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


def configuration_page() -> str:
    """configuration.md with its tables written anew."""
    from tiercel.gateway.settings_page import with_tables

    return with_tables(CONFIGURATION.read_text("utf-8"))


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(page(), encoding="utf-8")
    CONFIGURATION.write_text(configuration_page(), encoding="utf-8")
