"""`tiercel route` as a user types it: tables, JSON, exit codes, one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.flows.recorded import ladder_file, recorded_file
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
    words = ("compare", small, "--ladder", "tiny,huge", "--tier-costs", "1,12", "--folds", "2", "--encoder", "none")
    found = run(*words, "--use", "length,difficulty,arithmetic")
    assert found.exit_code == 0
    for name in ("random", "length", "TF-IDF", "request gate", "answer gate", "oracle"):
        assert any(line.startswith(name) and "[" in line for line in found.stdout.splitlines())


def test_a_bound_that_nothing_meets_ends_with_exit_code_3(traffic: Path, folder: Path) -> None:
    words = ("fit", traffic, "--weak", "tiny", "--strong", "huge", "--max-loss", "0.001", "--stage", "pre", *COSTS)
    found = run(*words, "--encoder", "none", "--use", "length,difficulty", "--out", folder / "nothing")
    assert found.exit_code == 3
    assert "No part of this traffic can be certified" in found.stdout


@pytest.fixture(scope="module")
def laddered(folder: Path) -> Any:
    words = (
        "fit",
        ladder_file(folder, 420),
        "--ladder",
        "tiny,mid,huge",
        "--tier-costs",
        "1,4,20",
        "--max-loss",
        "0.12",
    )
    return run(
        *words, "--use", "length,difficulty,arithmetic", "--encoder", "none", "--out", folder / "ladder", "--json"
    )


def test_a_ladder_is_fitted_and_judged_by_the_same_commands(laddered: Any, folder: Path) -> None:
    assert laddered.exit_code == 0
    outcome = json.loads(laddered.stdout)
    assert [t["model"] for t in outcome["tiers"]] == ["tiny-1b", "mid-3b", "huge-9"]
    page = folder / "ladder.html"
    done = run("evaluate", folder / "ladder", ladder_file(folder, 200, seed=3), "--out", page)
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny-1b answers") and "quality alone" in done.stdout
    assert "gate tier2: length, difficulty, arithmetic; combined by" in done.stdout
    assert page.read_text().startswith("<!doctype html>")


def test_signals_are_listed_and_those_of_a_users_file_are_checked(tmp_path: Path) -> None:
    found = json.loads(run("signals", "--json").stdout)
    by = {row["name"]: row for row in found}
    assert (by["personal_data"]["stage"], by["sql_execution"]["cost"]) == ("pre", "database")
    assert "context_fit" in run("signals").stdout
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from tiercel.routing.signal import Signal, Stage\n"
        "class Mine(Signal):\n"
        "    name, stage = 'mine', Stage.PRE\n"
        "    def columns(self):\n"
        "        return ('one',)\n"
        "    def transform(self, exchanges):\n"
        "        return [[len(e.answer or '')] for e in exchanges.items]\n"
    )
    done = run("signals", "--signals", mine)
    assert isinstance(done.exception, ConfigurationError) and "reads answers" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--weak", "tiny"), "name the models"),
        (("--ladder", "tiny,huge", "--weak", "tiny"), "leave out --weak"),
        (("--ladder", "tiny"), "two models at least"),
        (("--ladder", "tiny,mid,huge", "--tier-costs", "1,two,3"), "give numbers with commas"),
        (("--ladder", "tiny,mid,huge", "--tier-costs", "4,2,1"), "in the order of their costs"),
        (("--weak", "tiny", "--strong", "huge", "--abstention-loss", "0.3"), "is for ladders"),
        (("--ladder", "tiny,mid,huge", "--window", "0"), "--window is 0"),
        (("--ladder", "tiny,mid,huge", "--stage", "both"), "--stage is pre or post"),
    ],
)
def test_a_mistake_about_a_ladder_ends_with_what_to_type(
    folder: Path, tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    found = run("fit", ladder_file(folder, 120, seed=4), "--encoder", "none", "--out", tmp_path / "p", *words)
    assert isinstance(found.exception, ConfigurationError)
    assert problem in str(found.exception) and "\n" not in str(found.exception)


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
