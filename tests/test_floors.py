"""The floors of the design hold: what import-linter checks."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_a_floor_imports_only_floors_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    linter = pytest.importorskip("importlinter.cli")
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    monkeypatch.chdir(ROOT)
    failed = linter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    told = capsys.readouterr().out
    assert not failed, told
    assert "0 broken" in told
