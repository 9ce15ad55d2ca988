"""Runs a command that may not outlive whoever started it: python _guardian.py SECONDS COMMAND...

It stands between a parent and a server. The server and whatever it starts are one process group; when the parent closes
the pipe on standard input, by closing it or by dying in any way, the group is asked to end and, after the seconds, made
to. Nothing of this package is imported, so that it runs under any interpreter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the pipe does; its exit code."""
    grace, command = float(arguments[0]), arguments[1:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
        # What the server started may outlive it.
        _signal(child.pid, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    # Ctrl-C in a terminal goes to the parent, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = child.wait()
    _signal(child.pid, signal.SIGKILL)
    return code


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
