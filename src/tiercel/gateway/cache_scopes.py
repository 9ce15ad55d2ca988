"""Which cached answers a reload leaves valid: those of workloads that would still be answered in the same way.

A key of the cache holds its workload's mark. A reload gives the same mark to a workload whose scope stayed as it was,
and a new one to the others, so that what was kept for them is found no more and goes as the least recently used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tiercel.gateway.sections import Privacy, Provider, Settings
from tiercel.gateway.workloads import Workload

__all__ = ["Marked", "Scope", "marked", "scope_of"]

_MARK_BYTES = 8
_WITHOUT_EFFECT: dict[str, Any] = {
    "api_key": None,
    "first_byte_s": None,
    "key_env": None,
    "key_file": None,
    "max_connections": None,
    "retries": 0,
    "stream_usage": False,
    "timeout_s": 1.0,
    "tokenizer": None,
}
"""Settings of a provider that change how an answer is fetched, paid or counted, not what it says."""


class Scope(Struct, frozen=True, kw_only=True):
    """What the answers of one workload, or of all strangers, depend on besides the request."""

    providers: tuple[Provider, ...]
    """That it is escalated to, in order."""
    model: str | None
    """That answers where a request names none."""
    tiers: tuple[str, ...] | None
    """That may answer it; None for all."""
    local_only: bool
    """Whether its requests stay on this machine."""
    privacy: Privacy
    """Whether a provider sees personal data changes what it says."""


class Marked(Struct, frozen=True, kw_only=True):
    """A scope and the mark that it has in keys of the cache."""

    scope: Scope
    mark: bytes
    """Eight random bytes."""


def scope_of(settings: Settings, workload: Workload | None) -> Scope:
    """What the cached answers of a workload depend on.

    The bundle is no part of it: only answers of the frontier are cached.

    Args:
        settings: the configuration.
        workload: None for requests that belong to none.
    """
    own = workload.settings if workload else None
    trained_on = workload.desk.bundle.manifest.frontier if workload and workload.desk else None
    return Scope(
        providers=tuple(replace(p, **_WITHOUT_EFFECT) for p in settings.chain(own)),
        model=trained_on or settings.frontier.default_model,
        tiers=own.tiers if own else None,
        local_only=own.local_only if own else False,
        privacy=replace(settings.privacy, redact_storage=()),
    )


def marked(
    settings: Settings, workloads: Iterable[Workload], before: Mapping[str | None, Marked]
) -> dict[str | None, Marked]:
    """The scopes of one configuration by the workloads' names; of strangers under None.

    Args:
        settings: the configuration.
        workloads: that it knows.
        before: scopes of the configuration that this one replaces.
    """
    found: dict[str | None, Marked] = {}
    for workload in (None, *workloads):
        name, scope = workload.name if workload else None, scope_of(settings, workload)
        old = before.get(name)
        found[name] = old if old and old.scope == scope else Marked(scope=scope, mark=os.urandom(_MARK_BYTES))
    return found
