"""Numbers that can't be are refused by every command that takes them, and no command writes over what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import chat, write_lines
from tiercel.cli.main import run

TEACHER = ["--frontier-url", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["label", "t.jsonl", "-o", "l.jsonl", *TEACHER, "--seed", "-1"], "--seed is -1"),
        (["label", "t.jsonl", "-o", "l.jsonl", *TEACHER, "--temperature", "nan"], "--temperature is nan"),
        (["label", "t.jsonl", "-o", "l.jsonl", *TEACHER, "--timeout", "-1"], "--timeout is -1"),
        (["augment", "p", "t.jsonl", "-o", "l.jsonl", *TEACHER, "--threads", "0"], "--threads is 0"),
        (["certify", "j.jsonl", "--max-loss", "0.1", "--seed", "-1"], "--seed is -1"),
        (["recogniser", "m.jsonl", "--seed", "-1"], "--seed is -1"),
        (["recogniser", "m.jsonl", "--threads", "-2"], "--threads is -2"),
        (
            ["route", "fit", "r.jsonl", "--weak", "s", "--strong", "l", "--encoder", "none", "--seed", "-3"],
            "--seed is -3",
        ),
        (
            [
                "route",
                "compare",
                "r.jsonl",
                "--weak",
                "s",
                "--strong",
                "l",
                "--encoder",
                "none",
                "--weak-cost",
                "nan",
                "--strong-cost",
                "2",
            ],
            "costs are nan, 2",
        ),
        (["pilot", "t.jsonl", "--seed", "-1"], "--seed is -1"),
    ],
    ids=lambda a: " ".join(a[:1] + a[-2:]) if isinstance(a, list) else "",
)
def test_a_number_that_can_not_be_is_one_line_and_exit_2(
    arguments: list[str], said: str, traffic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in traffic.iterdir())
    assert run(arguments) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {said}")
    assert sorted(p.name for p in traffic.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "t.jsonl", "-o", "t.jsonl"],
        ["label", "t.rejects.jsonl", "-o", "t.jsonl", *TEACHER],
        ["label", "l.jsonl.journal", "-o", "l.jsonl", *TEACHER],
        ["augment", "p", "t.jsonl", "-o", "u.jsonl", "--test", "u.jsonl", *TEACHER],
        ["certify", "j.jsonl", "--max-loss", "0.1", "-o", "j.jsonl"],
        ["export-traces", "--store", "t.jsonl", "-o", "t.jsonl"],
        ["watch", "--store", "t.jsonl", "--record", "t.jsonl"],
        ["route", "fit", "result.json", "--weak", "s", "--strong", "l", "--out", "."],
        ["route", "fit", "r.jsonl", "--weak", "s", "--strong", "l", "--out", "b"],
        ["route", "evaluate", "policy", "r.jsonl", "--out", "r.jsonl"],
        ["route", "compare", "r.jsonl", "--weak", "s", "--strong", "l", "--rejects", "r.jsonl"],
        ["recogniser", "rec/m.jsonl", "--out", "rec"],
        ["recogniser", "m.jsonl", "--out", "t.jsonl"],
    ],
    ids=lambda a: " ".join(a[:3]),
)
def test_no_command_writes_over_what_it_reads(
    arguments: list[str], traffic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in traffic.rglob("*") if p.is_file()}
    assert run(arguments) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert any(words in told for words in ("also an input", "also the store", "holds a bundle", "is no recogniser"))
    assert {p: p.read_bytes() for p in traffic.rglob("*") if p.is_file()} == before


@pytest.fixture
def traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a file for each command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIERCEL_CACHE", str(tmp_path.parent / "cache"))
    for name in ("t.jsonl", "t.rejects.jsonl", "l.jsonl.journal", "u.jsonl"):
        write_lines(tmp_path / name, *(chat(f"q{i}", "a") for i in range(3)))
    scored = [{"model": m, "content": "a", "score": s} for m, s in (("s", 0), ("l", 1))]
    for name in ("r.jsonl", "result.json"):
        write_lines(tmp_path / name, *(chat(f"what is {i} times {i * i}?", responses=scored) for i in range(120)))
    write_lines(tmp_path / "j.jsonl", *({"id": i, "judged": 0, "verified": 0} for i in range(40)))
    marked = [{"text": f"I am Ann {i}", "spans": [{"start": 5, "end": 8, "type": "person"}]} for i in range(30)]
    write_lines(tmp_path / "m.jsonl", *marked)
    for folder in ("rec", "b", "policy"):
        (tmp_path / folder).mkdir()
    write_lines(tmp_path / "rec" / "m.jsonl", *marked)
    (tmp_path / "rec" / "spans.json").write_text("{}")
    (tmp_path / "b" / "manifest.json").write_text("{}")
    (tmp_path / "policy" / "policy.json").write_text(json.dumps({"format": 1}))
    return tmp_path
