"""Upkeep of limits: reservations that nobody settled are forgotten, clocks that ran ahead are set back by hand."""

from __future__ import annotations

from tiercel.store.database import Database
from tiercel.store.limit_rows import (
    forget_holdings,
    read_accounts,
    scopes_ahead,
    scopes_to_purge,
    take_expired,
    transaction,
    write,
)

__all__ = ["KEPT_S", "purge", "set_clocks_back"]

KEPT_S = 86_400.0
"""Seconds for which an overdue reservation can still be settled."""


def purge(database: Database, now: float, *, kept_s: float = KEPT_S) -> int:
    """Give back what is overdue and forget reservations that nobody settled; run it now and then, from any gateway.

    A scope keeps one row for good, whose windows replace each other, so that reservations are all that can pile up.

    Args:
        database: that all gateways share.
        now: Unix time in seconds.
        kept_s: seconds after its admission in which an overdue reservation can still be settled.

    Returns:
        How many holdings (a reservation has one for each of its scopes) were forgotten.

    Raises:
        StorageError: the database does not answer.
    """
    before = now - kept_s
    with database.reading() as connection:
        scopes = scopes_to_purge(connection, now, before)
    forgotten = 0
    for scope in scopes:
        # One scope at a time: whoever locks no more than one row can't be part of a circle of waits.
        with transaction(database) as connection:
            accounts = read_accounts(connection, [scope])
            for held in take_expired(connection, [scope], now):
                accounts[scope].expire(held.holding)
            forgotten += forget_holdings(connection, scope, before)
            write(connection, accounts)
    return forgotten


def set_clocks_back(database: Database, now: float) -> tuple[str, ...]:
    """Repair what a gateway with a clock that ran ahead has left: scopes from the future go back to `now`.

    What they have used stays used. Only for use by hand, once all clocks are right: a scope's time never runs backwards
    by itself, so until then such a scope takes no more requests a minute than it has, nor does its budget begin anew.

    Args:
        database: that all gateways share.
        now: the right Unix time.

    Returns:
        Ids of the scopes that were set back.

    Raises:
        StorageError: the database does not answer.
    """
    with database.reading() as connection:
        ahead = scopes_ahead(connection, now)
    for scope in ahead:
        with transaction(database) as connection:
            accounts = read_accounts(connection, [scope])
            accounts[scope].set_back(now)
            write(connection, accounts)
    return tuple(ahead)
