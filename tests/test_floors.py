"""The floors of the design hold: what import-linter checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def test_a_floor_imports_only_floors_below_it() -> None:
    pytest.importorskip("importlinter")
    # In a process of its own: it switches all loggers off that are there.
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src'); {LINT}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "0 broken" in told.stdout
