"""A pilot on a real terminal: what its bars show, and Ctrl-C typed at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.flows.conftest import rows, write_rows
from tests.flows.tiny import make_encoder

_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WAIT_S = 240
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal that of a new session, so that Ctrl-C typed there interrupts; then becomes the program."""


class Terminal:
    """A program on a terminal of its own, 120 columns wide."""

    def __init__(self, command: list[str]) -> None:
        self.screen, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
            start_new_session=True,
        )
        os.close(theirs)

    def read(self, until: Callable[[str], object]) -> str:
        """All that was shown, without styles, once `until` holds of it or the program has ended."""
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline and not until(self.shown):
            try:
                piece = os.read(self.screen, 65_536)
            except OSError:  # the program has closed the terminal
                piece = b""
            if not piece:
                break
            self.shown += _STYLES.sub("", piece.decode("utf-8", "replace"))
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def end(self) -> int:
        """The exit code, once everything that was shown is read."""
        self.read(lambda _: False)
        os.close(self.screen)
        return self.process.wait(_WAIT_S)


def test_bars_show_stage_share_and_time_left_and_ctrl_c_is_taken_up_again(tmp_path: Path) -> None:
    lines = rows(240)
    encoder = make_encoder(tmp_path / "encoder", [row["messages"][1]["content"] for row in lines])
    path, out = write_rows(tmp_path / "traffic.jsonl", lines), tmp_path / "out"
    command = [sys.executable, "-m", "tiercel", "pilot", str(path), "--out", str(out), "--threads", "1"]
    command += ["--students", "linear,encoder", "--encoder", str(encoder), "--max-loss", "0.3"]
    tuning = re.compile(r"fine-tuning [^\r\n]*? (\d+)/(\d+) \d:\d\d:\d\d left \d:\d\d:\d\d")

    first = Terminal(command)
    shown = first.read(tuning.search)
    bar = tuning.search(shown)
    assert bar is not None, shown[-2_000:]
    assert 0 <= int(bar[1]) <= int(bar[2])
    assert "training linear" in shown
    first.type(b"\x03")
    assert first.end() == 130
    assert "interrupted" in first.shown
    assert "Traceback" not in first.shown
    assert not (out / "bundle").exists()
    assert not (out / "report.json").exists()

    second = Terminal(command)
    assert second.end() == 0
    assert "fine-tuning" in second.shown
    assert "training linear" not in second.shown, "what was finished is trained again"
    assert (out / "report.html").exists()
