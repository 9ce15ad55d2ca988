"""Who may answer a request, by its key and by its workload, and whether it may leave this machine.

Answers, counts of tokens and audits all go by these rules.
"""

from __future__ import annotations

from typing import Literal

from tiercel.gateway.exchange import Exchange
from tiercel.gateway.fronts import Asked
from tiercel.gateway.sections import Tier
from tiercel.gateway.workloads import Workload, Workloads
from tiercel.store.keys import VirtualKey

__all__ = ["Kept", "may_answer", "may_be_audited", "why_kept"]

Kept = Literal["local_only", "tier_not_allowed"]
"""Why a request does not leave: it has to stay on this machine, or the frontier is none of its tiers."""


def may_answer(tier: Tier, key: VirtualKey | None, workload: Workload | None) -> bool:
    """Whether a tier may answer, by the caller's key and by the workload's settings."""
    if key is not None and key.tiers is not None and tier not in key.tiers:
        return False
    elsewhere = tier == "student" and workload is not None and workload.settings.engine_is_elsewhere
    if elsewhere and _is_local(key, workload):
        return False
    return workload is None or workload.settings.tiers is None or tier in workload.settings.tiers


def why_kept(exchange: Exchange, asked: Asked, workloads: Workloads) -> Kept | None:
    """Why a request must not be sent to a provider; None where it may be.

    Args:
        exchange: its key, its workload, and what its client asked for.
        asked: the request.
        workloads: that the gateway knows.
    """
    if exchange.forced == "student" or _is_local(exchange.key, exchange.workload):
        return "local_only"
    if exchange.workload is None and any(w.settings.local_only for w in workloads.known):
        # What can't be read can't be told from a workload that has to stay.
        readable = exchange.api == "embeddings" or (asked.chat is not None and asked.chat.messages is not None)
        if not readable:
            return "local_only"
    return None if may_answer("frontier", exchange.key, exchange.workload) else "tier_not_allowed"


def may_be_audited(key: VirtualKey | None, workload: Workload) -> bool:
    """Whether the frontier may be asked what a student has answered for this key."""
    return not _is_local(key, workload) and may_answer("frontier", key, workload)


def _is_local(key: VirtualKey | None, workload: Workload | None) -> bool:
    return (key is not None and key.local_only) or (workload is not None and workload.settings.local_only)
