"""The life of a child process, with a server that any interpreter runs; vLLM itself where it is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiercel.engines.vllm_process import ServerProcess, VllmEngine, vllm_command
from tiercel.errors import ConfigurationError, EngineError, MissingExtraError

SERVER = """
import http.server, os, signal, subprocess, sys
port, key, stubborn, pids = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "stubborn", sys.argv[4]
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(pids, "w").write(f"{os.getpid()} {grandchild.pid}")
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
print("serving with", key, flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def command(pids: Path, manner: str = "willing") -> list[str]:
    return [sys.executable, "-c", SERVER, "{port}", "{key}", manner, str(pids)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(running, pids))


def pids_of(path: Path) -> list[int]:
    return [int(p) for p in path.read_text().split()]


def test_a_server_runs_until_it_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    with ServerProcess(command(tmp_path / "pids"), name="a server", start_s=60) as process:
        assert process.alive
        pids = pids_of(tmp_path / "pids")
        assert all(map(running, pids))
        assert "serving with [key]" in process.last_words
        assert process.key not in process.last_words
    assert gone(pids)
    assert not process.alive
    process.stop()


def test_a_server_that_does_not_want_to_end_is_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.engines.vllm_process.STOP_S", 0.3)
    with ServerProcess(command(tmp_path / "pids", "stubborn"), name="a server", start_s=60):
        pids = pids_of(tmp_path / "pids")
    assert gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes run")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_does_not_outlive_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    code = (
        "import time\nfrom tiercel.engines.vllm_process import ServerProcess\n"
        f"p = ServerProcess({command(tmp_path / 'pids')!r}, name='a server', start_s=60)\n"
        "print('up', flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        pids = pids_of(tmp_path / "pids")
        parent.send_signal(how)
        parent.wait(20)
        assert gone(pids)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout:
            parent.stdout.close()


def test_a_server_that_ends_at_once_leaves_its_last_words() -> None:
    code = "import sys; sys.exit('no such model: {key}')"
    with pytest.raises(EngineError, match=r"a server ended with code 1 before it answered.*\n.*no such model: \[key\]"):
        ServerProcess([sys.executable, "-c", code], name="a server", start_s=60)


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(EngineError, match="did not answer within 2 s"):
        ServerProcess([sys.executable, "-c", code], name="a server", start_s=2)
    if (tmp_path / "pid").exists():
        assert gone(pids_of(tmp_path / "pid"))


def test_an_interpreter_without_vllm_says_what_to_type(tmp_path: Path) -> None:
    bare = [sys.executable, "-S"]
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {" ".join(bare)} "$@"\n')
    script.chmod(0o755)
    with pytest.raises(MissingExtraError, match=r"vllm is not installed; run: pip install 'tiercel\[vllm\]'"):
        VllmEngine("model", python=str(script))
    with pytest.raises(ConfigurationError, match="does not run"):
        vllm_command("model", python=str(tmp_path / "nowhere"))


def test_the_command_names_all_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    made = vllm_command(
        "m", context=512, adapters={"brief": Path("/a/b")}, options=["--enforce-eager"], python=str(script)
    )
    text = " ".join(made)
    for part in ("--host 127.0.0.1 --port {port}", "--api-key {key}", "--model m", "--max-model-len 512"):
        assert part in text
    assert text.endswith("--enable-lora --lora-modules brief=/a/b --enforce-eager")
