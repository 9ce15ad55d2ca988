"""`tiercel replay` as a user meets it: a process, its log, its signals and its errors."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from tests.conftest import chat, write_lines
from tiercel.cli.replay_command import register

CODE = """
import sys
from tiercel.cli.main import app, main
from tiercel.cli.replay_command import register
if "replay" not in [c.callback.__name__ for c in app.registered_commands]:
    register(app)
main(sys.argv[1:])
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "recorded.jsonl", chat("hello", "hi"), chat("bye", "see you"))


@contextmanager
def running(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program on a free port, and its URL."""
    command = [sys.executable, "-c", CODE, "replay", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"answers to 2 requests at (http://\S+)", line)
        assert found, line + process.stderr.read()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def post(url: str, text: str) -> str:
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    with urllib.request.urlopen(url + "/chat/completions", body, 10) as response:
        return json.load(response)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_stops_when_told(recorded: Path, number: signal.Signals) -> None:
    with running(recorded, "--fallback", "echo", "--fault", "500=0") as (process, url):
        assert [post(url, text) for text in ("hello", "bye", "unknown")] == ["hi", "see you", "unknown"]
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "3 answered, 0 not recorded" in err
    assert "hello" not in err


def test_faults_are_played(recorded: Path) -> None:
    with running(recorded, "--fault", "429=1", "--retry-after", "7") as (_, url):
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(url, "hello")
        assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fault", "flood=0.1"], "flood"),
        (["--fault", "429=2"], "from 0 to 1"),
        (["--fault", "429=0.6", "--fault", "500=0.6"], "add up to 1.2"),
        (["--speed", "0"], "--speed"),
        (["--fallback", "last"], "--fallback"),
        (["--port", "70000"], "--port"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_a_mistake_is_one_clear_line(
    recorded: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    from tiercel.errors import UserError

    app = typer.Typer()
    register(app)
    with pytest.raises(UserError) as caught:
        app(args=[str(recorded), *arguments], standalone_mode=False)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_options_load_no_heavy_library() -> None:
    code = (
        "import sys, typer; from tiercel.cli.replay_command import register; register(typer.Typer()); "
        "print({'aiohttp', 'msgspec', 'numpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
