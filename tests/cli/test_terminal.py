"""A pilot on a real terminal: what its bars show, and Ctrl-C typed at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
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
        while not until(self.shown) and select.select([self.screen], [], [], max(0, deadline - time.monotonic()))[0]:
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
        return self.process.wait(_WAIT_S)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


_BARS = """
import time
from tiercel.cli.terminal import TerminalProgress

with TerminalProgress() as progress:
    progress.stage("training linear on 255 rows")
    progress.warn("3 rows were set aside")
    progress.stage("fine-tuning the encoder")
    for done in range(1, 9):
        progress.step(done, 40)
        time.sleep(0.15)
"""


def test_a_bar_shows_the_stage_its_share_and_the_time_left() -> None:
    with Terminal([sys.executable, "-c", _BARS]) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown
    bars = re.findall(r"fine-tuning the encoder +\S+ +(\d+)/40 0:00:\d\d left (\S+)", shown)
    shares = [int(done) for done, _ in bars]
    assert shares == sorted(shares)
    assert {3, 5, 8} <= set(shares), shown
    left = [clock for _, clock in bars if clock != "-:--:--"]
    assert left, "the time left is never shown"
    assert all(re.fullmatch(r"0:00:\d\d", clock) for clock in left)
    assert re.search(r"training linear on 255 rows +\S+ +1/1", shown), "a stage that is over stays, as done"
    assert "warning: 3 rows were set aside" in shown


def test_ctrl_c_ends_a_pilot_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    lines = rows(240)
    encoder = make_encoder(tmp_path / "encoder", [row["messages"][1]["content"] for row in lines])
    path, out = write_rows(tmp_path / "traffic.jsonl", lines), tmp_path / "out"
    command = [sys.executable, "-m", "tiercel", "pilot", str(path), "--out", str(out), "--threads", "1"]
    command += ["--students", "linear,encoder", "--encoder", str(encoder), "--max-loss", "0.3"]
    with Terminal(command) as terminal:
        terminal.read(re.compile(r"fine-tuning ").search)
        terminal.type(b"\x03")
        assert terminal.end() == 130, terminal.shown[-2_000:]
        shown = terminal.shown
    trained = re.search(r"training linear on \d+ rows", shown)
    assert trained is not None
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert not (out / "bundle").exists()
    assert not (out / "report.json").exists()
    with Terminal(command) as terminal:
        assert terminal.end() == 0, terminal.shown[-2_000:]
        shown = terminal.shown
    assert "fine-tuning" in shown
    assert trained[0] not in shown, "what was finished is trained again"
    assert (out / "report.html").exists()
