"""vLLM as a child process on loopback: started, waited for, and ended for sure, whatever becomes of this process."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tiercel.engines import _guardian
from tiercel.engines._http import JsonClient
from tiercel.engines.remote import RemoteEngine
from tiercel.errors import ConfigurationError, EngineError, MissingExtraError, TiercelError
from tiercel.providers.openai_compatible import UpstreamError

__all__ = ["ServerProcess", "VllmEngine", "vllm_command"]

START_S = 900.0
"""Seconds that a server may take to load its model."""
STOP_S = 20.0
"""Seconds that a server may take to end before it is made to."""
_POLL_S = 0.2
_LAST_LINES = 12


class ServerProcess:
    """A server of OpenAI's API on a free port of loopback, with a key that only this process knows.

    Args:
        command: the server's, with {port} and {key} where they go.
        name: for messages.
        start_s: seconds until it has to answer /health.
        environment: added to this process's.

    Raises:
        EngineError: it ended or did not answer in time; the message ends with its last words.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        start_s: float = START_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.key = secrets.token_hex(24)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        filled = [part.replace("{port}", str(self.port)).replace("{key}", self.key) for part in command]
        self._process = subprocess.Popen(
            [sys.executable, _guardian.__file__, str(STOP_S), *filled],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
        )
        _STARTED.add(self)
        try:
            self._wait(start_s)
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of its log, without the key."""
        size = os.fstat(self._log.fileno()).st_size
        # The child writes through the same file description: it is read without moving it.
        raw = os.pread(self._log.fileno(), 8192, max(0, size - 8192)).decode(errors="replace")
        return "\n".join(raw.replace(self.key, "[key]").splitlines()[-_LAST_LINES:])

    def _wait(self, seconds: float) -> None:
        client = JsonClient(f"http://127.0.0.1:{self.port}", timeout_s=5.0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.alive:
                code = self._process.returncode
                raise EngineError(
                    f"{self.name} ended with code {code} before it answered; its last lines:\n{self.last_words}"
                )
            with contextlib.suppress(OSError):
                if client.ask("GET", "/health")[0] == 200:
                    return
            time.sleep(_POLL_S)
        raise EngineError(f"{self.name} did not answer within {seconds:g} s; its last lines:\n{self.last_words}")

    def stop(self) -> None:
        """End the server and whatever it started; returns when it is gone."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._log.closed:
            self._log.close()
        _STARTED.discard(self)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def vllm_command(
    model: Path | str,
    *,
    context: int | None = None,
    adapters: Mapping[str, Path] | None = None,
    options: Sequence[str] = (),
    python: str = sys.executable,
) -> list[str]:
    """The command of vLLM's server for one model.

    Args:
        model: folder or name of the model.
        context: tokens of a request and its answer; None for the model's own.
        adapters: LoRA adapters, as folders, by the names that requests use.
        options: further options of `vllm serve`, such as --tensor-parallel-size 2.
        python: the interpreter that has vLLM.

    Raises:
        ConfigurationError: the interpreter does not run.
        MissingExtraError: it has no vLLM.
    """
    look = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('vllm') else 3)"
    try:
        code = subprocess.run([python, "-c", look], check=False, capture_output=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{python}: does not run ({error}); give the interpreter that has vLLM") from None
    if code != 0:
        raise MissingExtraError("vllm", "vllm")
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--model", str(model), "--api-key", "{key}"]
    if context is not None:
        command += ["--max-model-len", str(context)]
    if adapters:
        command += ["--enable-lora", "--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return [*command, *options]


class VllmEngine(RemoteEngine):
    """vLLM with one model, in a child process that ends with this engine.

    Args:
        model: folder or name of the model.
        context: tokens of a request and its answer; None for the model's own.
        adapters: LoRA adapters, as folders, by the names that requests use.
        options: further options of `vllm serve`.
        slots: requests sent at once by `generate_many`.
        python: the interpreter that has vLLM.
        start_s: seconds until it has to answer.
        environment: added to this process's.

    Raises:
        EngineError: it did not start.
        MissingExtraError: vLLM is not installed.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        context: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        options: Sequence[str] = (),
        slots: int = 64,
        python: str = sys.executable,
        start_s: float = START_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = vllm_command(model, context=context, adapters=adapters, options=options, python=python)
        self.process = ServerProcess(command, name=f"vLLM with {model}", start_s=start_s, environment=environment)
        try:
            super().__init__(self.process.url, model=str(model), api_key=self.process.key, dialect="vllm", slots=slots)
        except BaseException:
            self.process.stop()
            raise

    def _mapped(self, error: UpstreamError, body: dict[str, Any]) -> TiercelError:
        if error.status is None and not self.process.alive:
            return EngineError(f"{self.process.name} ended by itself; its last lines:\n{self.process.last_words}")
        return super()._mapped(error, body)

    def close(self) -> None:
        """Cancel all work and end the server."""
        super().close()
        self.process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_STARTED: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for process in list(_STARTED):
        process.stop()
