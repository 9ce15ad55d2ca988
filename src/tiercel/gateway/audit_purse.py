"""What a workload's budget leaves for audits, so that it is known before a draw whether an audit could be paid.

A budget that is used up takes requests out of the record, not audits out of the draws: what was drawn is asked and paid
whatever the budget says by then, or losses could be missed because they were drawn late.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tiercel.gateway.workloads import Workload
from tiercel.store.database import Database
from tiercel.store.limits import Scope, spent

__all__ = ["AuditPurse", "budget_of"]

_AMPLE = 10
"""Audits for which a budget has to leave enough before it is said again that it leaves nothing."""

_log = logging.getLogger("tiercel.gateway")


def budget_of(workload: Workload) -> Scope | None:
    """The budget that audits of a workload are paid from; None where it has none."""
    own = workload.settings
    if own.budget_usd is None:
        return None
    return Scope(kind="workload", name=own.name, budget_usd=own.budget_usd, period=own.period)


class AuditPurse:
    """What is left, as the store had it at the last look.

    Args:
        database: of the limits.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._left: dict[str, float] = {}
        self._resting: set[str] = set()

    def look(self, workloads: Iterable[Workload], now: float) -> None:
        """Read what is left; blocks on the store.

        Args:
            workloads: that are audited.
            now: Unix time.

        Raises:
            StorageError: the store does not answer.
        """
        scopes = [scope for scope in map(budget_of, workloads) if scope is not None]
        self._left = {
            found.scope.name: (found.scope.budget_usd or 0.0) - found.spent_usd - found.reserved_usd
            for found in (spent(self._database, scopes, now) if scopes else ())
        }

    def pays(self, workload: Workload, usd: float | None) -> bool:
        """Whether a budget leaves as much: always where a workload has none, never where the cost is unknown."""
        if workload.settings.budget_usd is None:
            return True
        name, left = workload.name, self._left.get(workload.name, 0.0)
        if usd is not None and usd <= left:
            if left > _AMPLE * usd:
                self._resting.discard(name)
            return True
        if name not in self._resting:
            self._resting.add(name)
            _log.warning("workload %s: its budget leaves nothing for audits; its requests are not monitored now", name)
        return False

    def take(self, workload: Workload, usd: float | None) -> None:
        """Reckon with an audit that was drawn; the store has it at the next look but one."""
        if workload.name in self._left:
            self._left[workload.name] -= usd or 0.0
