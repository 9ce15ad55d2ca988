"""What is special to llama.cpp in this process."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.conftest import Files, asked
from tests.engines.tiny_llama import TEMPLATE, TOOLS
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.errors import BundleError, ConfigurationError, EngineError


def quick(files: Files, **more: object) -> LlamaCppEngine:
    return LlamaCppEngine(files.gguf, **{"context": 256, "slots": 1, "threads": 1, **more})  # type: ignore[arg-type]


def listening() -> set[str]:
    """TCP sockets of this process that listen."""
    listed = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        listed |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    ours = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            ours.add(str(fd.readlink()))
    return listed & ours


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which ports are open")
def test_no_port_is_opened(files: Files) -> None:
    before = listening()
    with quick(files) as engine:
        assert listening() == before
        folder = engine._folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_without_sockets_in_files_loopback_and_a_key_serve(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(socket, "AF_UNIX")
        engine = quick(files)
    with engine:
        assert engine.count_tokens(asked().messages) > 0
        assert engine.busy == 0
        assert listening()


def test_signals_are_left_as_they_are(files: Files) -> None:
    libc = ctypes.CDLL(None)

    def handlers() -> list[bytes]:
        found = []
        for number in (signal.SIGINT, signal.SIGTERM):
            action = ctypes.create_string_buffer(256)
            libc.sigaction(int(number), None, action)
            found.append(action.raw[:8])
        return found

    before = handlers()
    with quick(files):
        assert handlers() == before


def test_nothing_is_written_to_stderr(files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    with quick(files) as engine:
        engine.generate(asked())
        stream = engine.stream(asked(max_tokens=100))
        next(stream)
        stream.close()
        with pytest.raises(ConfigurationError, match="Undefined rule identifier 'nowhere'"):
            engine.generate(asked(grammar="root ::= nowhere"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_model_that_can_not_be_loaded_is_one_clear_line(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.gguf").write_bytes(files.gguf.read_bytes()[:5000])
    (tmp_path / "text.gguf").write_text("hello")
    for name, says in (("cut.gguf", "can't load it"), ("text.gguf", "is no GGUF file"), ("gone.gguf", "can't be read")):
        with pytest.raises(BundleError, match=rf"{name}: .*{says}") as caught:
            LlamaCppEngine(tmp_path / name, slots=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="can't load it"):
        quick(files, adapters={"whole": files.gguf})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fields", [{"context": 0}, {"slots": 0}, {"threads": 0}])
def test_numbers_that_can_not_be_are_refused(files: Files, fields: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="give 1 or more"):
        quick(files, **fields)


def test_the_context_is_cut_to_what_the_model_was_trained_for(files: Files) -> None:
    with quick(files, context=5000) as engine:
        assert engine.context == 1024


def test_a_template_without_a_place_for_tools_refuses_them(files: Files) -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with quick(files, chat_template=bare, context=1024) as engine:
        assert engine.render(asked("hello").messages) == "hello"
        for fields in ({}, {"tool_choice": "required"}):
            with pytest.raises(ConfigurationError, match="no place for tools"):
                engine.generate(asked(tools=TOOLS, **fields))


def test_calls_that_are_no_json_can_not_be_forced(files: Files) -> None:
    odd = TEMPLATE.replace('{"name": {{ c.function.name | tojson }}', "<name>{{ c.function.name }}</name>{1")
    with quick(files, chat_template=odd, context=1024) as engine:
        with pytest.raises(ConfigurationError, match="can't be forced"):
            engine.generate(asked(tools=TOOLS, tool_choice="required"))
        assert engine.generate(asked(tools=TOOLS)).output_tokens


def test_a_template_that_can_not_be_used_is_told_of_at_the_start(files: Files) -> None:
    with pytest.raises(BundleError, match="chat template"):
        quick(files, chat_template="{{ raise_exception('roles must alternate') }}")


def test_a_closed_engine_ends_its_streams_and_says_so(files: Files) -> None:
    engine = quick(files)
    stream = engine.stream(asked(max_tokens=200))
    next(stream)
    engine.close()
    engine.close()
    assert list(stream) == []
    for ask in (lambda: engine.generate(asked()), lambda: engine.render(asked().messages), lambda: engine.busy):
        with pytest.raises(EngineError, match="was closed"):
            ask()


def test_an_engine_may_be_let_go_at_once(files: Files) -> None:
    for _ in range(5):
        quick(files).close()


def test_a_program_that_forgets_to_close_ends_well(files: Files) -> None:
    code = (
        "from pathlib import Path\nfrom tiercel.engines.llamacpp import LlamaCppEngine\n"
        "from tiercel.engines.protocol import GenerationRequest\nfrom tiercel.types import Message\n"
        f"engine = LlamaCppEngine(Path({str(files.gguf)!r}), context=1024, slots=1, threads=1)\n"
        "messages = (Message(role='user', content='hello'),)\n"
        "stream = engine.stream(GenerationRequest(messages=messages, max_tokens=900))\nnext(stream)\nprint('bye')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")
