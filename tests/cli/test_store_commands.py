from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import typer

from tests.flows.test_lineage import _bundle
from tests.gateway.manifests import write_manifest
from tests.store.rows import content, entry
from tiercel.cli import store_commands
from tiercel.cli.main import run as run_program
from tiercel.flows.lineage import lineage_of
from tiercel.store.database import open_database
from tiercel.store.entries import append
from tiercel.store.retention import user_hash, user_salt

NOW = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC).timestamp()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of three requests, the latest of them now."""
    monkeypatch.delenv("TIERCEL_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_commands.time, "time", lambda: NOW)
    path = tmp_path / "tiercel.db"
    with closing(open_database(path)) as database:
        ada = user_hash("ada", user_salt(database))
        append(
            database,
            [
                entry(id="a" * 32, created=NOW - 10 * 86_400, content=content("old")),
                entry(id="b" * 32, created=NOW - 86_400, content=content("new"), user=ada),
                entry(id="c" * 32, created=NOW, tier="student", cost_usd=0.0, model="small\x1b[31m", user=ada),
            ],
        )
    return path


def run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the program with these commands in it, whether or not it has them yet."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    app.callback()(lambda: None)
    store_commands.register(app)
    # `tiercel.cli.main` is also the name of a function.
    monkeypatch.setattr(sys.modules[run_program.__module__], "app", app)
    return run_program(arguments)


def test_export_writes_the_frontiers_traces(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export-traces", "-o", "out.jsonl"], monkeypatch) == 0
    assert "2 traces written to out.jsonl" in capsys.readouterr().out
    assert [json.loads(line)["id"][0] for line in Path("out.jsonl").read_text().splitlines()] == ["a", "b"]
    arguments = ["export-traces", "-o", "x.jsonl", "--since", "7d", "--tier", "student,frontier", "--json"]
    assert run([*arguments, "--store", f"sqlite:///{store}"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 2
    assert [json.loads(line)["id"][0] for line in Path("x.jsonl").read_text().splitlines()] == ["b", "c"]


def test_the_store_of_the_environment_is_used(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = store.rename(store.with_name("elsewhere.db"))
    assert run(["costs"], monkeypatch) == 2
    assert "there is no store tiercel.db" in capsys.readouterr().err
    monkeypatch.setenv("TIERCEL_STORE", str(moved))
    assert run(["costs"], monkeypatch) == 0


def test_the_store_of_the_settings_is_used_where_no_other_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.parent / "kept").mkdir()
    store.rename(store.parent / "kept" / "moved.db")
    # A provider whose key is in another process's environment is no business of this command.
    provider = '[[provider]]\nname = "openai"\nkey_env = "TIERCEL_TEST_IS_NOT_SET"\n'
    Path("tiercel.toml").write_text(f'{provider}[capture]\nstore = "kept/moved.db"\n')
    assert run(["costs"], monkeypatch) == 0
    Path("tiercel.toml").rename("other.toml")
    assert run(["costs"], monkeypatch) == 2
    assert "there is no store tiercel.db" in capsys.readouterr().err
    assert run(["costs", "--config", "other.toml"], monkeypatch) == 0
    assert run(["costs", "--config", "other.toml", "--store", "none.db"], monkeypatch) == 2
    assert "there is no store none.db" in capsys.readouterr().err
    assert run(["costs", "--config", "nowhere.toml"], monkeypatch) == 2
    assert "nowhere.toml: no such file" in capsys.readouterr().err


def test_a_password_of_the_settings_store_is_in_no_error(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIERCEL_TEST_STORE", "postgresql://u:hunter2@127.0.0.1:1/d")
    Path("tiercel.toml").write_text('[capture]\nstore_env = "TIERCEL_TEST_STORE"\n')
    assert run(["costs"], monkeypatch) == 1
    told = capsys.readouterr()
    assert "127.0.0.1" in told.err
    assert "hunter2" not in told.err + told.out


def test_costs_shows_a_table_and_its_total(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["costs", "--by", "tier,model", "--since", "2026-03-01", "--latency"], monkeypatch) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert lines[0][:4] == ["tier", "model", "requests", "errors"]
    assert lines[1][:3] == ["frontier", "gpt-4o", "1"]
    assert lines[2][:3] == ["student", "small?[31m", "1"]
    assert lines[3][0:2] == ["total", "2"]
    assert "\x1b" not in told
    assert "500.0 ms" in told


def test_costs_as_json_and_of_no_time_at_all(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["costs", "--by", "total", "--json"], monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["requests"] == 3
    assert found["lines"] == [found["total"]]
    assert run(["costs", "--until", "2020-01-01"], monkeypatch) == 0
    assert "no requests in that time" in capsys.readouterr().out


def test_forget_names_the_bundles(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "taught", lineage_of(["b" * 32]))
    other = _bundle(tmp_path / "other", lineage_of(["a" * 32]))
    assert run(["forget", "ada", "--bundle", str(bundle), "--bundle", str(other)], monkeypatch) == 0
    told = capsys.readouterr().out
    assert "2 traces of the user found, 2 contents deleted" in told
    assert f"{bundle} was trained on 1 of them" in told
    assert str(other) not in told
    assert run(["forget", "ada", "--json"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["trace_ids"] == []


def test_forget_looks_through_the_bundles_of_the_settings(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "served")
    lineage = lineage_of(["b" * 32])
    (tmp_path / "served" / "lineage.bin").write_bytes(lineage)
    Path("tiercel.toml").write_text('[[workload]]\nname = "helpdesk"\nbundle = "served"\nproviders = ["elsewhere"]\n')
    assert run(["forget", "ada"], monkeypatch) == 0
    assert f"{tmp_path / 'served'} was trained on 1 of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["costs", "--by", "hour"], "choose from day, workload"),
        (["costs", "--since", "yesterday"], "--since 'yesterday' is no time"),
        (["export-traces", "-o", "x.jsonl", "--tier", "teacher"], "choose from cache, student"),
        (["export-traces", "-o", "x.csv"], "ends in .jsonl"),
        (["export-traces", "-o", "x.jsonl", "--workload", "none"], "no such traces"),
        (["forget", "ada", "--bundle", "nowhere"], "no such folder"),
        (["forget", "ada", "--store", "mysql://u:hunter2@h/d"], "can't be a mysql database"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    arguments: list[str],
    words: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(arguments, monkeypatch) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert "hunter2" not in told
