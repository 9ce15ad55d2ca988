"""Readers of what stands in deploy/: units, Dockerfiles, YAML; and a check of commands against the program itself."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import typer
import yaml

from tiercel.cli.main import app
from tiercel.gateway.sections import Settings
from tiercel.gateway.settings import read_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
PRODUCTION = DEPLOY / "kubernetes" / "overlays" / "production"
STORE_URL = "postgresql://tiercel:hunter2@postgres:5432/tiercel"


def unit(path: Path) -> dict[str, list[str]]:
    """Settings of a systemd unit; one that stands several times has several values."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def dockerfile(path: Path) -> list[list[tuple[str, str]]]:
    """Stages of a Dockerfile, each a list of instructions and what they are given."""
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    stages: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, rest.strip()))
    return stages


def values(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for name, rest in stage if name == instruction]


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text("utf-8")) if d is not None]


def read_with(toml: Path, mounts: dict[str, str], folder: Path) -> Settings:
    """Read a tiercel.toml as the deployment would, its mounts being files of `folder`.

    Args:
        toml: of the deployment.
        mounts: what stands in each file that the deployment mounts, by its path there.
        folder: to put them in.
    """
    text = toml.read_text("utf-8")
    for path, content in mounts.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o400)
        text = text.replace(f'"{path}"', json.dumps(str(file)))
    copy = folder / "tiercel.toml"
    copy.write_text(text)
    return read_settings(copy, {})


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The options of a command line as the program understands it; what it does not know raises."""
    command = typer.main.get_command(app)
    name = arguments[0]
    found = command.get_command(command.make_context("tiercel", ["--help"], resilient_parsing=True), name)
    assert found is not None, name
    return found.make_context(name, list(arguments[1:])).params


def words(text: str) -> list[str]:
    return shlex.split(text)
