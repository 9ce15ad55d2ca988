"""Commands that set the gateway up and check it. Each imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import print_json
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.gateway.finding import Finding
    from tiercel.gateway.starter import Found

__all__ = ["doctor", "init", "register"]


def init(
    folder: Annotated[Path, typer.Option("--dir", help="Folder to write tiercel.toml into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write over a tiercel.toml that is there.")] = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Write a tiercel.toml that works as it is, with the bundles and provider keys that are found here.

    Keys are recognised by the names of their environment variables, such as OPENAI_API_KEY; only the names are written.
    """
    from tiercel.flows.storage import write_file
    from tiercel.gateway.settings import read_settings
    from tiercel.gateway.starter import look_around, starting_file

    target = folder / options.CONFIG_FILE
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder; make it, or give another with --dir")
    if target.exists() and not force and not _may_overwrite(target):
        raise ConfigurationError(f"{target} is there already; write over it with --force")
    around = look_around(folder, os.environ)
    write_file(target, starting_file(around).encode(), "--dir")
    read_settings(target, os.environ)
    if json_output:
        print_json({"file": str(target), "providers": [p.name for p in around.providers], "bundles": around.bundles})
        return
    _tell(target, around)


def _may_overwrite(target: Path) -> bool:
    """Ask, where somebody is there to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(f"{target} is there already. Write over it?", default=False, err=True)


def _tell(target: Path, around: Found) -> None:
    print(f"wrote {target}")
    for provider in around.providers:
        print(f"  provider {provider.name}, key from {provider.variable}")
    if not around.providers:
        print("  no provider: no key was found in the environment; the file says how to add one")
    for bundle in around.bundles:
        print(f"  bundle {bundle}")
    print(f"next: tiercel doctor --config {target}")


def doctor(
    config: options.Config = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no provider and no database on another machine.")
    ] = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Check the installation: settings, secrets, bundles, store, providers, port, disk, clock.

    Exit code 1 when something is wrong that would keep the gateway from serving; warnings leave 0.
    """
    from tiercel.gateway.doctor import examine
    from tiercel.gateway.finding import counted

    findings: list[Finding] = []
    for finding in examine(options.config_file(config), os.environ, offline=offline):
        findings.append(finding)
        if not json_output:
            print(f"{finding.verdict:8} {finding.check}: {finding.text}", flush=True)
    errors = sum(f.verdict == "error" for f in findings)
    warnings = sum(f.verdict == "warning" for f in findings)
    if json_output:
        print_json({"ok": not errors, "errors": errors, "warnings": warnings, "findings": findings})
    else:
        told = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        print(told if errors or warnings else "all is well")
    if errors:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(init)
    app.command()(doctor)
