"""Installs the peers of the comparison from PyPI and npm, each into a folder of its own outside the repository.

python benchmarks/gateway/install_peers.py [litellm tensorzero portkey] [--upgrade]

The place is TIERCEL_BENCH_PEERS, by default ~/.cache/tiercel-peers. Needs Python 3.11 or later, npm and about 1 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from _contenders import CONTENDERS, PEERS

PYTHON_PACKAGES = {"litellm": "litellm[proxy]", "tensorzero": "tensorzero uvloop"}
NPM_PACKAGES = {"portkey": "@portkey-ai/gateway"}


def install_python(folder: Path, packages: str, upgrade: bool) -> None:
    """A virtual environment with one peer."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    _run(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *["--upgrade"] * upgrade, *packages.split()]
    )


def install_npm(folder: Path, package: str, upgrade: bool) -> None:
    """A folder with one npm package."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package}@latest" if upgrade else package
    _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel", "error", wanted])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stdout=sys.stderr, check=False)
    except FileNotFoundError:
        raise SystemExit(f"there is no {command[0]}; install it first") from None
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*PYTHON_PACKAGES, *NPM_PACKAGES]
    parser.add_argument("peers", nargs="*", default=every, help=", ".join(every))
    parser.add_argument("--upgrade", action="store_true", help="take the latest versions where some are installed")
    options = parser.parse_args()
    for peer in options.peers:
        if peer in PYTHON_PACKAGES:
            install_python(PEERS / peer, PYTHON_PACKAGES[peer], options.upgrade)
        elif peer in NPM_PACKAGES:
            install_npm(PEERS / peer, NPM_PACKAGES[peer], options.upgrade)
        else:
            raise SystemExit(f"no such peer: {peer}; there are {', '.join(every)}")
        print(f"{CONTENDERS[peer].name} {CONTENDERS[peer].version()} in {PEERS / peer}")


if __name__ == "__main__":
    main()
