"""The end of a run names what was skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_green_run_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_whole.py").write_text(
        "import pytest\npytest.importorskip('no_such_package', reason='no_such_package is not installed')\n"
    )
    (tmp_path / "test_parts.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef server():\n    pytest.skip('there is no server')\n\n"
        "def test_a(server): ...\ndef test_b(server): ...\ndef test_c(): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.skipped", "-n", "2"]
    run = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert [line for line in run.stdout.splitlines() if line.startswith("NOT TESTED")] == [
        "NOT TESTED: no_such_package is not installed (skipped once: test_whole.py)",
        "NOT TESTED: there is no server (skipped 2 times: test_parts.py)",
    ]
