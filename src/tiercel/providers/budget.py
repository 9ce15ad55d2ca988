"""Money that may be spent, held exactly: what is under way is reserved before it is sent.

Amounts are whole billionths of a USD, so that sums do not drift; costs round up, the limit rounds down.
"""

from __future__ import annotations

import math

__all__ = ["Budget", "nano_usd", "usd"]


def nano_usd(amount: float) -> int:
    """A cost in USD as billionths, rounded up."""
    return math.ceil(round(amount * 1e9, 3))


def usd(nano: int) -> float:
    """Billionths as USD."""
    return nano / 1e9


class Budget:
    """What may be spent, what is, and what is reserved for requests under way.

    Args:
        limit: USD; None for no limit.
        spent: billionths that earlier runs have spent.
    """

    def __init__(self, limit: float | None, spent: int = 0) -> None:
        self.limit = None if limit is None else math.floor(round(limit * 1e9, 3))
        self.spent = spent
        self.reserved = 0
        self.under_way = 0

    def reserve(self, amount: int) -> bool:
        """Set `amount` aside for one request; False, and nothing changes, where it would go over the limit."""
        if self.limit is not None and self.spent + self.reserved + amount > self.limit:
            return False
        self.reserved += amount
        self.under_way += 1
        return True

    def settle(self, reserved: int, charged: int) -> None:
        """A request has ended: `reserved` is free again, and `charged` is spent."""
        self.reserved -= reserved
        self.under_way -= 1
        self.spent += charged
