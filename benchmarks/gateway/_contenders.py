"""The one place that says how each contender is started: its command, configuration, headers and version.

Every contender gets one process, no database, no cache, no guardrail and no retries beyond its defaults; Tiercel's
lines say what it does on top. Peers live in folders of their own, made by `install_peers.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import _tiercel
from _process import HERE, Launch, NotStarted, free_port

__all__ = ["CONTENDERS", "PEERS", "Contender", "tensorzero_command"]

PEERS = Path(os.environ.get("TIERCEL_BENCH_PEERS", Path.home() / ".cache" / "tiercel-peers"))
INSTALL = "run: python benchmarks/gateway/install_peers.py"
_KEYS = {"OPENAI_API_KEY": "bench", "PYTHONPATH": ""}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One line of the comparison."""

    name: str
    version: Callable[[], str]
    launch: Callable[[int, Path], Launch] | None
    """Makes the command from the upstream's port and a folder for its files; None where it is no server."""


def _bare(upstream: int, _: Path) -> Launch:
    port = free_port()
    command = [_tiercel.PYTHON, str(HERE / "bare_proxy.py"), str(port), f"http://127.0.0.1:{upstream}"]
    return Launch(name="the bare aiohttp proxy", command=command, port=port)


def _litellm(upstream: int, folder: Path) -> Launch:
    port, program = free_port(), _installed("LiteLLM", PEERS / "litellm" / "bin" / "litellm")
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-4o-mini\n"
        "    litellm_params:\n"
        "      model: openai/gpt-4o-mini\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n"
        "      api_key: bench\n"
    )
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = _KEYS | {
        # Its lightest form: no key to check, prices from its package, nothing sent home.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    return Launch(name="LiteLLM", command=command, port=port, env=env)


def _portkey(upstream: int, _: Path) -> Launch:
    port = free_port()
    script = _installed("Portkey", PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js")
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
    command = [shutil.which("node") or "node", str(script), f"--port={port}", "--headless"]
    return Launch(name="Portkey", command=command, port=port, env={"NODE_ENV": "production"}, headers=headers)


def tensorzero_command(upstream: int, folder: Path, seconds: float, started: float) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the process that drives TensorZero's embedded gateway and measures it.

    Args:
        upstream: port of the mock upstream.
        folder: for its configuration.
        seconds: of each measurement.
        started: `time.time()` at which the process is started.

    Raises:
        NotStarted: it is not installed.
    """
    python = _installed("TensorZero", PEERS / "tensorzero" / "bin" / "python")
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway.observability]\nenabled = false\n"
        "[models.mock]\n"
        'routing = ["mock"]\n'
        "[models.mock.providers.mock]\n"
        'type = "openai"\n'
        'model_name = "gpt-4o-mini"\n'
        f'api_base = "http://127.0.0.1:{upstream}/v1/"\n'
    )
    script = str(HERE / "tensorzero_driver.py")
    return [str(python), script, str(upstream), str(config), str(seconds), str(started)], os.environ | _KEYS


def _installed(name: str, path: Path) -> Path:
    if not path.exists():
        raise NotStarted(f"{name} is not installed ({path} is not there); {INSTALL}")
    return path


def _python_version(peer: str) -> Callable[[], str]:
    def version() -> str:
        code = f"from importlib.metadata import version; print(version('{peer}'))"
        python = str(PEERS / peer / "bin" / "python")
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    return version


def _portkey_version() -> str:
    return json.loads((PEERS / "portkey/node_modules/@portkey-ai/gateway/package.json").read_text())["version"]


def _aiohttp_version() -> str:
    import aiohttp

    return f"aiohttp {aiohttp.__version__}"


CONTENDERS = {
    "bare": Contender(name="bare aiohttp proxy", version=_aiohttp_version, launch=_bare),
    "litellm": Contender(name="LiteLLM", version=_python_version("litellm"), launch=_litellm),
    "portkey": Contender(name="Portkey", version=_portkey_version, launch=_portkey),
    "tensorzero": Contender(name="TensorZero, in process", version=_python_version("tensorzero"), launch=None),
    "tiercel": Contender(name="Tiercel, capture", version=_tiercel.version, launch=_tiercel.launch),
    "tiercel-key": Contender(
        name="Tiercel, capture, key and budget",
        version=_tiercel.version,
        launch=lambda u, f: _tiercel.launch(u, f, keyed=True),
    ),
    "tiercel-bundle": Contender(
        name="Tiercel, capture, encoder bundle",
        version=_tiercel.version,
        launch=lambda u, f: _tiercel.launch(u, f, bundle=_tiercel.helpdesk_bundle()),
    ),
}
