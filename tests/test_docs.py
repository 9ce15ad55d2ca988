"""Every fence of README and docs does what it says: commands run, Python runs, JSON is of the data contract."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.teacher_server import TeacherServer
from tests.flows.test_augmenting import Writer, hard
from tests.ports import free_port
from tiercel.cli.main import run
from tiercel.datasets.contract import example_from
from tiercel.store.database import open_database
from tiercel.store.entries import Content, Entry, append, new_id
from tiercel.store.retention import user_hash, user_salt

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fences(kind: str) -> list[tuple[str, str]]:
    """Page and text of all fences of a kind."""
    return [(p.name, m[2]) for p in PAGES for m in FENCE.finditer(p.read_text("utf-8")) if m[1] == kind]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of, and the pilot that the examples load."""
    folder = tmp_path_factory.mktemp("docs")
    lines = rows(900)
    write_rows(folder / "traffic.jsonl", lines)
    assert run(["import", str(folder / "traffic.jsonl"), "--output", str(folder / "traffic.jsonl.gz")]) == 0
    judged = [{"id": i, "judged": 0, **({"verified": 0} if i % 4 == 0 else {})} for i in range(600)]
    write_rows(folder / "judged.jsonl", judged)
    write_rows(folder / "requests.jsonl", [{**r, "messages": r["messages"][:2]} for r in rows(20, seed=4)])
    spend = [
        {
            "request_id": r["id"],
            "call_type": "acompletion",
            "startTime": "2025-10-09T08:53:20Z",
            "model": "gpt-4o",
            "proxy_server_request": json.dumps({"messages": r["messages"][:2]}),
            "response": json.dumps({"choices": [{"message": r["messages"][2], "finish_reason": "stop"}]}),
        }
        for r in lines
    ]
    write_rows(folder / "spend-logs.jsonl", spend)
    arguments = ["pilot", str(folder / "traffic.jsonl.gz"), "--students", "linear", "--out", str(folder / "pilot")]
    assert run(arguments) == 0
    (folder / "demo").symlink_to(folder / "pilot")
    _capture(folder / "tiercel.db")
    return folder


def _capture(path: Path) -> None:
    """A store with what a gateway kept of one answer."""
    with closing(open_database(path)) as database:
        content = Content(
            request=b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}',
            response=b'{"role": "assistant", "content": "hello to you"}',
        )
        entry = Entry(
            id=new_id(),
            created=time.time(),
            api="chat",
            workload="helpdesk",
            user=user_hash("someone@example.org", user_salt(database)),
            tier="frontier",
            model="gpt-4o",
            status=200,
            cost_usd=0.001,
            frontier_cost_usd=0.001,
            content=content,
        )
        append(database, [entry])


COMMANDS = [
    (page, line.removeprefix("$ ").split("#")[0].strip())
    for page, text in fences("console")
    for line in text.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_run(
    page: str, command: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    words = shlex.split(command)
    if words[0] == "export":
        return
    assert words[0] == "tiercel", f"{page}: {command}"
    if words[1] == "augment":
        augments(words[1:], tmp_path, monkeypatch)
        return
    if words[1] == "label":
        with TeacherServer() as teacher:
            words[words.index("--frontier-url") + 1] = teacher.url
            assert run(words[1:]) == 0, f"{page}: {command}"
        assert teacher.bodies
        return
    if words[1] == "serve":
        serves([*words[1:], *([] if "--port" in words else ["--port", str(free_port())])])
        return
    assert run(words[1:]) == 0, f"{page}: {command}"


def augments(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command beside a pilot whose student fails on something."""
    monkeypatch.chdir(folder)
    write_rows(folder / "plain.jsonl", [*rows(400), *hard(100, 3)])
    assert run(["import", "plain.jsonl", "--output", "traffic.jsonl.gz"]) == 0
    assert run(["pilot", "traffic.jsonl.gz", "--students", "linear", "--out", "pilot", "--max-loss", "0.2"]) in (0, 3)
    with TeacherServer() as teacher:
        teacher.behave = Writer()
        arguments[arguments.index("--frontier-url") + 1] = teacher.url
        assert run(arguments) == 0
    assert len((folder / "more.jsonl").read_text().splitlines()) == 12


def serves(arguments: list[str]) -> None:
    """Start the server, ask whether it is well, and stop it."""
    port = arguments[arguments.index("--port") + 1]
    program = [sys.executable, "-c", "from tiercel.cli import main; main()", *arguments]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                time.sleep(0.05)
        else:
            raise AssertionError("the server did not come up")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(("page", "code"), fences("python"))
def test_python_runs(page: str, code: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize(("page", "text"), fences("json"))
def test_json_is_of_the_data_contract(page: str, text: str) -> None:
    assert example_from(json.loads(text)).answer is not None, page


def test_the_page_of_commands_is_the_programs_help() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "commands.md").read_text("utf-8") == module.page(), "run: make docs"


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *sorted((ROOT / "design").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_helpdesk_example_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("build", ROOT / "examples" / "helpdesk" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "examples" / "helpdesk" / "traffic.jsonl.gz").read_bytes() == module.build()
