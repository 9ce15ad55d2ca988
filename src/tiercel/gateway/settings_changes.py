"""What a reload changes: which settings take effect at once, and which wait for a restart."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import fields, replace

from tiercel.errors import ConfigurationError
from tiercel.gateway.sections import Settings, is_loopback

__all__ = ["RESTART", "Changes", "changed", "reloaded"]

RESTART = frozenset(
    (
        "server.host",
        "server.port",
        "server.workers",
        "server.max_body_mb",
        "capture.store",
        "capture.store_env",
        "capture.store_file",
        "capture.store_url",
        "capture.queue",
        "telemetry.otlp_endpoint",
        "telemetry.log_format",
    )
)
"""Settings that are fixed once the program runs: sockets, processes and connections that outlive a reload."""
_NOT_SHOWN = {
    "key_env": "key",
    "key_file": "key",
    "api_key": "key",
    "engine_key_env": "engine_key",
    "engine_key_file": "engine_key",
    "store_url": "store_url",
}
"""What is said in the place of a field: a new key is one change, however it is given."""


class Changes(Struct, frozen=True, kw_only=True):
    """What differs between two configurations; values are not told, since some are secret."""

    applied: tuple[str, ...]
    """Settings that a reload puts into effect, such as `workload billing.budget_usd`."""
    restart: tuple[str, ...]
    """Settings that keep their old value until the program is started again."""

    @property
    def none(self) -> bool:
        """Whether both are the same."""
        return not self.applied and not self.restart


def changed(old: Settings, new: Settings) -> Changes:
    """What differs between the settings in effect and those of a reload.

    Args:
        old: in effect.
        new: read again.
    """
    applied: list[str] = []
    restart: list[str] = []
    for section in ("server", "frontier", "capture", "privacy", "cache", "costs", "monitor", "telemetry"):
        for name in _differing(getattr(old, section), getattr(new, section)):
            setting = f"{section}.{name}"
            (restart if setting in RESTART else applied).append(setting)
    applied += _among("provider", old.providers, new.providers)
    applied += _among("workload", old.workloads, new.workloads)
    return Changes(applied=tuple(applied), restart=tuple(restart))


def reloaded(running: Settings, read: Settings) -> Settings:
    """What a reload puts into effect: what was read, except for settings that wait for a restart.

    Args:
        running: in effect.
        read: read again.

    Raises:
        ConfigurationError: what was read is safe at the address that it names, and not where the gateway listens.
    """
    kept: dict[str, dict[str, Any]] = {}
    for section, _, name in (setting.partition(".") for setting in RESTART):
        kept.setdefault(section, {})[name] = getattr(getattr(running, section), name)
    found = replace(read, **{section: replace(getattr(read, section), **values) for section, values in kept.items()})
    server = found.server
    if server.require_keys is False and not (server.insecure_open or is_loopback(server.host)):
        text = f"server.require_keys is false, and the gateway still listens at {server.host}"
        raise ConfigurationError(f"{text}, which other machines reach; take it out, or restart at the new address")
    return found


def _differing(old: Struct, new: Struct) -> list[str]:
    names = [f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name)]
    return list(dict.fromkeys(_NOT_SHOWN.get(name, name) for name in names))


def _among(what: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> list[str]:
    """Changes of sections that have names: gone, new, different, in another order."""
    before, after = {x.name: x for x in old}, {x.name: x for x in new}
    found = [f"{what} {name} (gone)" for name in before if name not in after]
    found += [f"{what} {name} (new)" for name in after if name not in before]
    for name, value in after.items():
        if name in before:
            found += [f"{what} {name}.{field}" for field in _differing(before[name], value)]
    shared = [name for name in before if name in after]
    if shared != [name for name in after if name in before]:
        found.append(f"{what} (order)")
    return found
