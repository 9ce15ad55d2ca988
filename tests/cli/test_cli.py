"""The command line as a user meets it: what it prints, where, and its exit codes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import SYSTEM, rows, write_rows
from tests.ports import free_port
from tiercel.cli.main import run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "traffic.jsonl", rows(400, noise=0.02))


def test_help_lists_every_command_and_starts_without_heavy_libraries() -> None:
    code = (
        "import sys; from tiercel.cli.main import run; code = run(['--help']); "
        "heavy = {'numpy', 'torch', 'rich.console', 'msgspec', 'transformers', 'scipy', 'aiohttp'} & set(sys.modules); "
        "print('heavy:', sorted(heavy)); sys.exit(code)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("import", "workloads", "pilot", "answer", "serve", "certificate"):
        assert f"\n  {name} " in told.stdout
    assert "heavy: []" in told.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from tiercel import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_the_program_runs_as_a_module() -> None:
    told = subprocess.run([sys.executable, "-m", "tiercel", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip()
    assert (
        subprocess.run([sys.executable, "-m", "tiercel", "nonsense"], check=False, capture_output=True).returncode == 2
    )


def test_import_writes_the_contract_and_the_rejects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows(30)
    path = write_rows(tmp_path / "log.jsonl", [*lines, lines[3], '{"messages": [', '{"messages": []}'])
    out = tmp_path / "deep" / "out.jsonl.gz"
    assert run(["import", str(path), "--output", str(out)]) == 0
    told = capsys.readouterr().out
    assert "30 rows written" in told
    assert "2 rejected, 1 exact duplicates dropped, 33 read" in told
    with gzip.open(out) as stream:
        assert len([json.loads(line) for line in stream]) == 30
    rejects = [json.loads(x) for x in (tmp_path / "deep" / "out.rejects.jsonl").read_text().splitlines()]
    assert [(r["line"], r["file"]) for r in rejects] == [(32, str(path)), (33, str(path))]
    assert all(r["reason"] and r["raw"] for r in rejects)
    assert run(["import", str(out), "--output", str(tmp_path / "again.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 30


def test_import_of_csv_names_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("question,label\nwhere is my parcel,delivery\nmoney back,refund\n")
    out = tmp_path / "out.jsonl"
    assert run(["import", str(path), "--output", str(out)]) == 2
    assert "its columns are: question, label" in capsys.readouterr().err
    assert not out.exists()
    assert run(["import", str(path), "-o", str(out), "--csv-input", "question", "--csv-answer", "label"]) == 0
    assert json.loads(out.read_text().splitlines()[0])["messages"][-1]["content"] == "delivery"


def test_workloads_lists_rows_task_spend_and_what_to_type(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workloads", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["workloads"]
    assert [(w["rows"], w["task"], w["answer_shape"]) for w in found] == [(400, "classification", "one label of 4")]
    assert found[0]["spend_usd"] > 0
    assert run(["workloads", str(log)]) == 0
    told = capsys.readouterr().out
    assert "classification" in told
    assert "next: tiercel pilot" not in told
    assert "collect more" in told


def test_workloads_uses_the_users_prices(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text("model,input,cached_input,output\ngpt-4o,1000000,1000000,0\n")
    run(["workloads", str(log), "--prices", str(prices), "--json"])
    found = json.loads(capsys.readouterr().out)["workloads"][0]
    assert found["spend_usd"] == pytest.approx(found["input_tokens"])


def test_pilot_answer_and_verify(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pilot"
    assert run(["pilot", str(log), "--students", "linear", "--max-loss", "0.1", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "of this traffic can move from gpt-4o" in told.out
    assert f"tiercel serve --bundle {out / 'bundle'}" in told.out.replace("\n", "")
    assert "training linear" in told.err
    requests = write_rows(
        tmp_path / "requests.jsonl",
        [
            {
                "id": "a",
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "parcel courier"}],
            },
            {"id": "b", "messages": [{"role": "user", "content": "another workload"}]},
            "no json",
        ],
    )
    answers = tmp_path / "answers.jsonl"
    assert run(["answer", str(out), "--input", str(requests), "--output", str(answers), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts == {"rows": 2, "student": 1, "frontier": 0, "unanswered": 1, "rejected": 1, "errors": {}}
    first, second = (json.loads(line) for line in answers.read_text().splitlines())
    assert (first["id"], first["tier"], first["answer"]) == ("a", "student", "delivery")
    assert first["latency_ms"] > 0
    assert 0 < first["confidence"] < 1
    assert (second["tier"], second["answer"]) == ("frontier", None)
    assert run(["certificate", "verify", str(out)]) == 0
    assert "follows from its" in capsys.readouterr().out
    record = json.loads((out / "bundle" / "certificate.json").read_text())
    record["rows"][0][2] = 1.0 - record["rows"][0][2]
    (out / "bundle" / "certificate.json").write_text(json.dumps(record))
    assert run(["certificate", "verify", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_pilot_exits_3_when_nothing_is_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "noise.jsonl", rows(300, noise=1.0))
    assert run(["pilot", str(path), "--students", "linear", "--out", str(tmp_path / "out")]) == 3
    assert "No part of this traffic can be certified" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()


def test_pilot_json_is_report_json(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run(["pilot", str(log), "--students", "linear", "--max-loss", "0.1", "--out", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((out / "report.json").read_text())


def test_examples_can_be_kept_out_of_the_report(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(["pilot", str(log), "--students", "linear", "--max-loss", "0.1", "--out", str(out), "--examples", "0"])
    assert json.loads((out / "report.json").read_text())["details"]["accepted_wrongly"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pilot"], "Missing argument"),
        (["pilot", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["pilot", "."], "is a folder"),
        (["workloads", "nothing.jsonl"], "no such file"),
        (["import", "a.jsonl", "--output", "b.parquet"], "ends in .jsonl"),
        (["import", "a.jsonl", "--output", "a.jsonl"], "also an input"),
        (["answer", "nothing", "--input", "x", "--output", "y"], "no such folder"),
        (["certificate", "verify", "nothing"], "no such folder"),
        (["serve", "--bundle", "nothing"], "no such folder"),
        (["workloads", "x.jsonl", "--prices", "none.csv"], "no such price file"),
        (["workloads", "x.jsonl", "--format", "excel"], "no format is called 'excel'"),
        (["fly"], "No such command"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "x.jsonl", rows(2))
    write_rows(tmp_path / "a.jsonl", rows(2))
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_output_that_nobody_reads_is_no_error(log: Path) -> None:
    program = [sys.executable, "-c", "from tiercel.cli import main; main()", "workloads", str(log), "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_no_colour_where_nobody_looks(log: Path) -> None:
    program = [sys.executable, "-c", "from tiercel.cli import main; main()", "workloads", str(log)]
    told = subprocess.run(program, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
    assert "\x1b" not in told.stdout + told.stderr


def test_a_frontier_that_cannot_be_reached_is_told_and_exits_1(
    linear_pilot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    arguments = ["answer", str(linear_pilot), "--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert run([*arguments, "--frontier-url", f"http://127.0.0.1:{free_port()}/v1"]) == 1
    told = capsys.readouterr()
    assert "warning: 1 of 1 requests to the frontier failed; most often (1): " in told.err
    assert "1 left to it" in told.out
    assert json.loads((tmp_path / "out.jsonl").read_text())["error"]


@pytest.mark.parametrize("damage", ["cut", "foreign", "newer", "missing file", "wrong field"])
def test_a_bundle_that_cannot_be_verified_exits_1(
    linear_pilot: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(linear_pilot / "bundle", bundle)
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    if damage == "missing file":
        (bundle / "card.md").unlink()
    else:
        path.write_text(
            {
                "cut": path.read_text()[:-9],
                "foreign": '{"name": "something else"}',
                "newer": json.dumps(manifest | {"format": 99, "version": "7.0"}),
                "wrong field": json.dumps(manifest | {"files": ["policy.json"]}),
            }[damage]
        )
    assert run(["certificate", "verify", str(bundle)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_tool_calls_without_tools_are_warned_of_by_import_and_workloads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "cancel", "arguments": "{}"}}
    lines = rows(5)
    for line in lines[:2]:
        line["messages"][-1] = {"role": "assistant", "content": None, "tool_calls": [call]}
    path = write_rows(tmp_path / "log.jsonl", lines)
    for arguments in (["import", str(path), "-o", str(tmp_path / "out.jsonl")], ["workloads", str(path)]):
        assert run(arguments) == 0
        assert "warning: 2 answers call tools that the log does not list" in capsys.readouterr().err
