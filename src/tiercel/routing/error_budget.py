"""One error budget for all that is said of a workload while it is served: what each epoch may spend, and what it spent.

An epoch is the time of one policy: a retrained student or a moved threshold begins the next. Epoch k may spend
1 / (k (k + 1)) of the budget, so that all epochs there can ever be spend no more than the whole.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from tiercel.errors import ConfigurationError, DataError

__all__ = ["Allotment", "ErrorBudget", "Purpose", "Spend"]

Purpose = Literal["certificate", "broken", "within"]
_SLACK = 1 + 1e-9


class Allotment(Struct, frozen=True, kw_only=True):
    """What one epoch may spend."""

    certificate: float
    """1 - confidence that its certificate is to be issued at; 0 for the first epoch, whose certificate was issued
    before there was a monitor and carries its own confidence."""
    broken: float
    """Chance of a false alarm while the epoch lasts."""
    within: float
    """Chance of a false "within the bound" while the epoch lasts."""


class Spend(Struct, frozen=True, kw_only=True):
    """One entry of the ledger."""

    epoch: int
    """Number, from 1."""
    purpose: Purpose
    """What the chance of an error was spent on."""
    delta: float
    """The chance."""


class ErrorBudget(Struct, frozen=True, kw_only=True):
    """The chance that anything said online of a workload is ever wrong, and what of it is spent."""

    total: float
    """In (0, 1)."""
    spends: tuple[Spend, ...] = ()
    """In the order in which they were made."""

    def __post_init__(self) -> None:
        if not 0 < self.total < 1:
            raise ConfigurationError(f"an error budget of {self.total} is none; give a chance such as 0.05")

    @property
    def left(self) -> float:
        """What no epoch has spent."""
        return max(0.0, self.total - sum(spend.delta for spend in self.spends))

    def allotment(self, epoch: int) -> Allotment:
        """What epoch number `epoch` may spend: half on its certificate, a quarter each on the two online claims.

        The first epoch's half goes to the online claims.
        """
        if epoch < 1:
            raise DataError(f"there is no epoch {epoch}; the first is 1")
        own = self.total / (epoch * (epoch + 1))
        if epoch == 1:
            return Allotment(certificate=0.0, broken=own / 2, within=own / 2)
        return Allotment(certificate=own / 2, broken=own / 4, within=own / 4)

    def spend(self, epoch: int, *, certificate: float, broken: float, within: float) -> ErrorBudget:
        """The budget after an epoch began.

        Args:
            epoch: its number.
            certificate: 1 - confidence of its certificate, as far as it comes from this budget.
            broken: level of its alarm.
            within: level of its other claim.

        Raises:
            DataError: the epoch spent already, or it spends more than its allotment.
        """
        if any(spend.epoch >= epoch for spend in self.spends):
            raise DataError(f"epoch {epoch} of the error budget has begun already; open the next one")
        allowed = self.allotment(epoch)
        wanted: dict[Purpose, float] = {"certificate": certificate, "broken": broken, "within": within}
        for purpose, delta in wanted.items():
            most: float = getattr(allowed, purpose)
            if not 0 <= delta <= most * _SLACK:
                raise DataError(
                    f"epoch {epoch} wants {delta:.4g} for {purpose} and may have {most:.4g}; {_mend(purpose, most)}"
                )
        new = tuple(Spend(epoch=epoch, purpose=p, delta=d) for p, d in wanted.items() if d)
        return msgspec.structs.replace(self, spends=self.spends + new)


def _mend(purpose: Purpose, most: float) -> str:
    if purpose == "certificate":
        return f"issue its certificate with --confidence {1 - most:.6g}"
    return "lower its level"
