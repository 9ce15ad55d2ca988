"""Checks of an installation: the program, its configuration, and all that it will need while it serves.

`examine` runs them in order and gives a `Finding` for each; nothing that it says holds a secret.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from email.utils import formatdate
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from tiercel._version import __version__
from tiercel.errors import ConfigurationError, MissingExtraError
from tiercel.gateway.finding import Finding, counted, found
from tiercel.gateway.sections import Settings
from tiercel.gateway.settings import read_settings

__all__ = ["NEEDED", "examine", "extras"]

NEEDED = "serve"
"""The extra without which nothing is served."""
_REQUIREMENT = re.compile(r"([\w.-]+)(\[[^]]*\])?[^;]*;(.*)\bextra *== *['\"]([\w-]+)['\"]")
_SYSTEM = re.compile(r"sys_platform *(==|!=) *['\"](\w+)['\"]")


def examine(path: Path | None, environ: Mapping[str, str], *, offline: bool = False) -> Iterator[Finding]:
    """Check everything, one finding at a time.

    Args:
        path: of tiercel.toml; None for the defaults alone.
        environ: variables of the environment.
        offline: leaves out what asks a provider or a database on another machine.
    """
    yield _python()
    yield from _extras()
    yield _clock()
    settings = yield from _configuration(path, environ)
    if settings is None:
        yield found("the rest", "skipped", "needs a configuration without mistakes")
        return
    from tiercel.gateway._doctor_network import port, providers
    from tiercel.gateway._doctor_places import bundles, disk, recognisers, store
    from tiercel.gateway._doctor_prices import prices

    yield from bundles(settings)
    yield store(settings, offline=offline)
    yield prices(settings, offline=offline)
    yield disk(settings)
    yield from recognisers(settings)
    yield port(settings)
    yield from providers(settings, offline=offline)


def _python() -> Finding:
    text = f"tiercel {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return found("program", "error", f"{text}; use Python 3.11 to 3.13")
    return found("program", "ok", text)


def _extras() -> Iterator[Finding]:
    for extra, names in extras().items():
        numbers = {name: _version(name) for name in names}
        missing = [name for name, number in numbers.items() if number is None]
        if not missing:
            yield found(f"extra {extra}", "ok", ", ".join(f"{name} {number}" for name, number in numbers.items()))
        elif extra == NEEDED:
            text = f"{', '.join(missing)} missing; run: pip install 'tiercel[{extra}]'"
            yield found(f"extra {extra}", "error", text)
        else:
            text = f"lacks {', '.join(missing)}; where it is wanted, run: pip install 'tiercel[{extra}]'"
            yield found(f"extra {extra}", "skipped", text)


def extras() -> dict[str, tuple[str, ...]]:
    """The distributions that each extra adds to smaller ones, as this installation's own metadata lists them.

    The developers' extra is left out, and what only other systems need.
    """
    named: dict[str, list[str]] = {}
    for requirement in _requirements():
        parts = _REQUIREMENT.match(requirement)
        if parts is not None and parts[4] != "dev" and _is_for_this_machine(parts[3]):
            named.setdefault(parts[4], []).append(parts[1])
    shown = {"tiercel"}
    own: dict[str, tuple[str, ...]] = {}
    for extra, names in sorted(named.items(), key=lambda item: len(item[1])):  # the metadata repeats what is contained
        own[extra] = tuple(name for name in dict.fromkeys(names) if name not in shown)
        shown.update(names)
    return {extra: names for extra, names in own.items() if names}


def _is_for_this_machine(marker: str) -> bool:
    named = _SYSTEM.search(marker)
    return named is None or (named[2] == sys.platform) == (named[1] == "==")


def _requirements() -> list[str]:
    try:
        return requires("tiercel") or []
    except PackageNotFoundError:  # run from its source alone
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _clock() -> Finding:
    now = time.time()
    shown = formatdate(now, usegmt=True)
    if now < Path(__file__).stat().st_mtime - 86_400:
        text = f"it is {shown}, before this program was installed; set the clock, on which budgets and TLS rest"
        return found("clock", "error", text)
    return found("clock", "ok", shown)


def _configuration(path: Path | None, environ: Mapping[str, str]) -> Generator[Finding, None, Settings | None]:
    """Findings on tiercel.toml, and the settings where it has no mistakes."""
    try:
        settings = read_settings(path, environ)
    except (ConfigurationError, MissingExtraError) as error:
        lines = str(error).split("\n  ")
        for line in lines[1:] or lines:
            yield found("configuration", "error", line)
        return None
    for warning in settings.warnings:
        yield found("configuration", "warning", warning)
    if path is None:
        yield found("configuration", "warning", "none, so defaults are used; write one with: tiercel init")
    else:
        counts = f"{counted(len(settings.providers), 'provider')}, {counted(len(settings.workloads), 'workload')}"
        yield found("configuration", "ok", f"{path}: {counts}")
    for provider in settings.providers:
        source = provider.key_env or (str(provider.key_file) if provider.key_file else None)
        text = f"key from {source} (not shown)" if source else "no key, as its settings say"
        yield found(f"secret of {provider.name}", "ok", text)
    return settings
