from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.manifests import write_manifest
from tiercel.cli.main import run
from tiercel.gateway.starter import KNOWN

KEY = "sk-live-0123456789abcdef"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for known in KNOWN:
        monkeypatch.delenv(known.variable, raising=False)
    monkeypatch.chdir(tmp_path)


def test_init_writes_what_doctor_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_manifest(Path("helpdesk/bundle"))
    assert run(["init"]) == 0
    told = capsys.readouterr().out
    assert "provider openai, key from OPENAI_API_KEY" in told
    assert "bundle helpdesk/bundle" in told
    assert "next: tiercel doctor --config tiercel.toml" in told
    assert KEY not in told + Path("tiercel.toml").read_text()
    assert run(["doctor", "--offline", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    findings = {f["check"]: f for f in report["findings"]}
    assert findings["configuration"]["text"] == "tiercel.toml: 1 provider, 1 workload"
    assert findings["secret of openai"]["text"] == "key from OPENAI_API_KEY (not shown)"
    assert findings["bundle of helpdesk"]["verdict"] == "error"  # there is a manifest and nothing else
    assert report["ok"] is False
    assert KEY not in json.dumps(report)


def test_init_writes_over_nothing_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiercel.toml").write_text("# mine\n")
    assert run(["init"]) == 2
    assert "write over it with --force" in capsys.readouterr().err
    assert Path("tiercel.toml").read_text() == "# mine\n"
    assert run(["init", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "tiercel.toml", "providers": [], "bundles": []}
    assert "[server]" in Path("tiercel.toml").read_text()


def test_init_waits_for_no_answer_where_nobody_is_at_a_terminal() -> None:
    Path("tiercel.toml").write_text("# mine\n")
    program = [sys.executable, "-c", "from tiercel.cli import main; main()", "init"]
    done = subprocess.run(program, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""


def test_init_in_a_folder_that_is_not_there_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--dir", "nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_doctor_says_what_is_wrong_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiercel.toml").write_text("[server]\nprot = 1\nport = 0\n")
    assert run(["doctor", "--offline"]) == 1
    told = capsys.readouterr().out
    assert "error    configuration: tiercel.toml: server.prot: is no setting; did you mean port?" in told
    assert "\n1 error, " in told


def test_doctor_exits_0_where_there_are_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.toml").write_text("[server]\nport = 0\n")
    assert run(["doctor", "--offline", "--config", "other.toml"]) == 0
    assert "\n0 errors, " in capsys.readouterr().out


def test_help_of_the_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tiercel.cli.main import run; code = run(['doctor', '--help']); "
        "heavy = {'numpy', 'aiohttp', 'msgspec', 'sqlalchemy'} & set(sys.modules); "
        "print('heavy:', sorted(heavy)); sys.exit(code)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in told
