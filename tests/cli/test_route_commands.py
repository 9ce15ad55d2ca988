"""`tiercel route` as a user types it: tables, JSON, exit codes, one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.flows.recorded import recorded_file
from tiercel.cli.route_commands import register
from tiercel.errors import ConfigurationError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("route")


@pytest.fixture(scope="module")
def traffic(folder: Path) -> Path:
    return recorded_file(folder, 420)


def run(*words: str | Path) -> Any:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["route", *map(str, words)])


COSTS = ("--weak-cost", "1", "--strong-cost", "12")


@pytest.fixture(scope="module")
def fitted(traffic: Path, folder: Path) -> Any:
    words = ("fit", traffic, "--weak", "tiny", "--strong", "huge", "--max-loss", "0.1", "--encoder", "none", *COSTS)
    words += ("--use", "length,difficulty,arithmetic,answer_form")
    return run(*words, "--out", folder / "policy", "--json")


def test_fit_prints_the_outcome_and_evaluate_judges_it_on_other_traffic(fitted: Any, folder: Path) -> None:
    assert fitted.exit_code == 0
    outcome = json.loads(fitted.stdout)
    assert outcome["kind"] == "fit" and outcome["operating"]["weak_share"] > 0.3
    page = folder / "page.html"
    other = recorded_file(folder, 200, seed=3)
    done = run("evaluate", folder / "policy", other, "--out", page)
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny-1b answers") and "answer gate" in done.stdout and "APGR" in done.stdout
    assert page.read_text().startswith("<!doctype html>")
    found = json.loads(run("evaluate", folder / "policy", other, "--json").stdout)
    assert found["judged_rows"] == 200 and found["step"] == outcome["step"]


def test_compare_prints_every_router_with_intervals(folder: Path) -> None:
    small = recorded_file(folder, 150, seed=9)
    words = ("compare", small, "--weak", "tiny", "--strong", "huge", "--folds", "2", "--encoder", "none", *COSTS)
    found = run(*words, "--use", "length,difficulty,arithmetic")
    assert found.exit_code == 0
    for name in ("random", "length", "TF-IDF", "request gate", "answer gate", "oracle"):
        assert any(line.startswith(name) and "[" in line for line in found.stdout.splitlines())


def test_a_bound_that_nothing_meets_ends_with_exit_code_3(traffic: Path, folder: Path) -> None:
    words = ("fit", traffic, "--weak", "tiny", "--strong", "huge", "--max-loss", "0.001", "--stage", "pre", *COSTS)
    found = run(*words, "--encoder", "none", "--use", "length,difficulty", "--out", folder / "nothing")
    assert found.exit_code == 3
    assert "No part of this traffic can be certified" in found.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--stage", "middle"), "choose pre, post or both"),
        (("--use", "lenght"), "no signal is called 'lenght'"),
        (("--use", "neighbours"), "there is no encoder"),
        (("--signals", "nowhere.py"), "no such file of signals"),
        (("--max-loss", "2"), "--max-loss must lie between 0 and 1"),
        (("--encoder", "/nowhere/at/all"), "the encoder"),
    ],
)
def test_a_mistake_ends_with_what_to_type(
    traffic: Path, tmp_path: Path, words: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERCEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = ("--encoder", "none") if "--encoder" not in words else ()
    found = run("fit", traffic, "--weak", "tiny", "--strong", "huge", *COSTS, "--out", tmp_path / "p", *given, *words)
    assert isinstance(found.exception, ConfigurationError)
    assert problem in str(found.exception)
    assert "\n" not in str(found.exception)
