"""Budgets and rates that hold exactly, across threads, processes and gateways that share one store.

A request reserves what it may cost before it is sent, and is settled with what it did cost after. `reserve` takes from
all of its scopes or from none. A reservation has a lease: what a gateway that died has reserved goes back when the
lease is over; a late settlement of one that lives still counts what was spent. The rules are those of `limit_rules`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from msgspec import Struct
from sqlalchemy import Connection

from tiercel.errors import ConfigurationError
from tiercel.store.database import Database
from tiercel.store.limit_rows import (
    Accounts,
    StoredHolding,
    add_accounts,
    read_accounts,
    show_accounts,
    show_expired,
    take_expired,
    take_holdings,
    take_reserved,
    transaction,
    write,
)
from tiercel.store.limit_rules import Account, Exceeded, Scope, check_time, cost_nano, longest_wait, token_count

__all__ = [
    "LEASE_S",
    "Claim",
    "Exceeded",
    "Reservation",
    "Scope",
    "Settlement",
    "Spent",
    "claim",
    "owe",
    "release",
    "reserve",
    "reserve_many",
    "settle",
    "settle_many",
    "settlement",
    "spent",
]

LEASE_S = 900.0
"""Longer than a request may take, so that only the dead lose a reservation."""


class Reservation(Struct, frozen=True, kw_only=True):
    """What one request may cost, set aside in each of its scopes."""

    id: int
    """Number of the reservation; 0 where none of the scopes has a limit."""
    scopes: tuple[str, ...]
    """Ids of the scopes that it was taken from."""
    usd: float
    """The estimate."""
    tokens: int
    """The estimate."""
    expires: float
    """Unix time from which the money may go back."""


class Spent(Struct, frozen=True, kw_only=True):
    """What a scope has used."""

    scope: Scope
    spent_usd: float
    """Settled in the current period of its budget."""
    reserved_usd: float
    """Held by requests under way."""
    resets: float | None
    """Unix time at which the period ends; None for all time."""
    requests: int
    """Of the last minute, as the rate counts them."""
    tokens: int
    """Of the last minute."""


class Claim(Struct, frozen=True, kw_only=True):
    """What one request asks of its limits; `claim` makes it."""

    scopes: tuple[Scope, ...]
    """Those that have limits."""
    ids: tuple[str, ...]
    """Ids of these and of the scopes of `held`."""
    usd: float
    tokens: int
    now: float
    lease_s: float
    held: Reservation | None
    passing: bool


def claim(
    scopes: Sequence[Scope],
    *,
    usd: float,
    tokens: int,
    now: float,
    lease_s: float = LEASE_S,
    held: Reservation | None = None,
    passing: bool = False,
) -> Claim:
    """What a request asks for, checked.

    Args:
        scopes: each at most once; those without limits cost nothing.
        usd: what the request may cost at the most.
        tokens: that it may have at the most, input and output.
        now: Unix time in seconds.
        lease_s: seconds after which the money may go back, should nobody settle.
        held: what an earlier call has set aside for the same request; it is over once this call grants more. Its scopes
            are part of the new reservation, and their limits are not asked again.
        passing: whether the request is settled with these figures at once, so that nothing is left to settle.

    Raises:
        ConfigurationError: a scope is named twice.
        DataError: `usd`, `tokens` or `now` is out of range.
    """
    cost_nano(usd)
    check_time(now)
    if len({scope.id for scope in scopes}) < len(scopes):
        raise ConfigurationError(f"a scope is named twice in {', '.join(s.id for s in scopes)}; name each once")
    limited = tuple(scope for scope in scopes if scope.limited)
    return Claim(
        scopes=limited,
        ids=tuple(sorted({*(s.id for s in limited), *(held.scopes if held else ())})) if limited else (),
        usd=usd,
        tokens=token_count(tokens),
        now=now,
        lease_s=lease_s,
        held=held,
        passing=passing,
    )


def reserve(
    database: Database,
    scopes: Sequence[Scope],
    *,
    usd: float,
    tokens: int,
    now: float,
    lease_s: float = LEASE_S,
    held: Reservation | None = None,
) -> Reservation | Exceeded:
    """Set aside what a request may cost, in all scopes or, where one of them has not enough left, in none.

    A request whose limits are asked one after the other has one reservation all the same: each further one takes the
    place of the one before, in the same transaction, so that nothing is booked twice.

    Args:
        database: that all gateways share.
        scopes: as `claim` takes them, and so are the others.
        usd: what the request may cost at the most.
        tokens: that it may have at the most, input and output.
        now: Unix time in seconds.
        lease_s: seconds after which the money may go back, should nobody settle.
        held: what an earlier call has set aside for the same request.

    Returns:
        The reservation, to settle or release; or which limit it would pass, and then nothing is booked, and `held` is
        as it was.

    Raises:
        ConfigurationError: a scope is named twice.
        DataError: `usd`, `tokens` or `now` is out of range.
        StorageError: the database does not answer.
    """
    asked = claim(scopes, usd=usd, tokens=tokens, now=now, lease_s=lease_s, held=held)
    return reserve_many(database, [asked])[0]


def reserve_many(database: Database, claims: Sequence[Claim]) -> list[Reservation | Exceeded]:
    """Answer claims in their order, as `reserve` would one by one, in one transaction.

    Args:
        database: that all gateways share.
        claims: of different requests.

    Raises:
        StorageError: the database does not answer; nothing is booked then.
    """
    ids = sorted({scope for asked in claims for scope in asked.ids})
    if not ids:
        return [_without_limit(asked) for asked in claims]
    while True:
        with transaction(database) as connection:
            accounts = read_accounts(connection, ids)
            missing = [scope for scope in ids if scope not in accounts]
            if not missing:
                booking = _Booking(connection, accounts)
                answers = [booking.answer(asked) for asked in claims]
                if booking.changed:
                    write(connection, accounts, booking.holdings)
                return answers
        # Rows are made in a transaction of their own: while locks are held, their order would be broken.
        with database.writing() as connection:
            add_accounts(connection, missing)


class _Booking:
    """Books claims on accounts that are locked, to be written together.

    Args:
        connection: that has locked the accounts.
        accounts: of all claims.
    """

    def __init__(self, connection: Connection, accounts: Accounts) -> None:
        self._connection = connection
        self._accounts = accounts
        self.holdings: list[StoredHolding] = []
        self.changed = False
        """Whether there is something to write."""

    def answer(self, asked: Claim) -> Reservation | Exceeded:
        """Book a claim, or say which limit it would pass."""
        if not asked.ids:
            return _without_limit(asked)
        accounts = {scope: self._accounts[scope] for scope in asked.ids}
        for account in accounts.values():
            account.advance(asked.now)
        nano = cost_nano(asked.usd)
        if (refusal := self._refusal_for_good(asked, accounts, nano)) is not None:
            return refusal
        self.changed = True
        number, expires = secrets.randbits(62) + 1, _latest(accounts) + asked.lease_s
        if asked.held is not None:
            _undo(accounts, take_reserved(self._connection, asked.held.id))
        taken = {scope: account.take(nano, asked.tokens) for scope, account in accounts.items()}
        if asked.passing:
            for scope, account in accounts.items():
                account.settle(taken[scope], nano, asked.tokens)
            return Reservation(id=0, scopes=(), usd=asked.usd, tokens=asked.tokens, expires=expires)
        self.holdings += [
            StoredHolding(reservation=number, scope=scope, holding=holding, expires=expires)
            for scope, holding in taken.items()
        ]
        return Reservation(id=number, scopes=asked.ids, usd=asked.usd, tokens=asked.tokens, expires=expires)

    def _refusal_for_good(self, asked: Claim, accounts: Accounts, nano: int) -> Exceeded | None:
        """The refusal that remains once money of dead gateways was given back; None where all scopes have room."""
        refusal = _refusal(asked.scopes, accounts, nano, asked.tokens)
        if refusal is None:
            return None
        freed = take_expired(self._connection, accounts, _latest(accounts))
        for held in freed:
            accounts[held.scope].expire(held.holding)
        self.changed = self.changed or bool(freed)
        return _refusal(asked.scopes, accounts, nano, asked.tokens)


def _without_limit(asked: Claim) -> Reservation:
    """What a request holds that no limit asks about."""
    free = Reservation(id=0, scopes=(), usd=asked.usd, tokens=asked.tokens, expires=asked.now + asked.lease_s)
    return asked.held or free


def owe(database: Database, scope: Scope, *, usd: float, now: float, lease_s: float = LEASE_S) -> Reservation:
    """Set money aside whatever the budget says, for what was decided while there was enough of it.

    Args:
        database: that all gateways share.
        scope: whose budget pays.
        usd: what it may cost.
        now: Unix time in seconds.
        lease_s: seconds after which the money may go back, should nobody settle.

    Returns:
        What to settle, with no tokens: rates don't count it.

    Raises:
        DataError: `usd` or `now` is out of range.
        StorageError: the database does not answer.
    """
    nano = cost_nano(usd)
    with database.writing() as connection:
        add_accounts(connection, [scope.id])
    with transaction(database) as connection:
        accounts = read_accounts(connection, (scope.id,))
        account = accounts[scope.id]
        account.advance(now)
        number, expires = secrets.randbits(62) + 1, account.clock + lease_s
        held = StoredHolding(reservation=number, scope=scope.id, holding=account.owe(nano), expires=expires)
        write(connection, accounts, [held])
        return Reservation(id=number, scopes=(scope.id,), usd=usd, tokens=0, expires=expires)


def settle(database: Database, reservation: Reservation, *, usd: float, tokens: int) -> bool:
    """Replace what was reserved by what it was, which may be more.

    It is booked in the day, month and second of the reservation. A second settlement changes nothing.

    Args:
        database: in which it was reserved.
        reservation: as `reserve` gave it.
        usd: what the request cost.
        tokens: that it had, input and output.

    Returns:
        False where the reservation was settled or released before, or was purged.

    Raises:
        DataError: `usd` or `tokens` is out of range.
        StorageError: the database does not answer.
    """
    return settle_many(database, [settlement(reservation, usd=usd, tokens=tokens)])[0]


class Settlement(Struct, frozen=True, kw_only=True):
    """What a reservation is to be replaced by; `settlement` makes it."""

    reservation: Reservation
    nano_usd: int
    tokens: int


def settlement(reservation: Reservation, *, usd: float, tokens: int) -> Settlement:
    """What a request was, checked.

    Args:
        reservation: as `reserve` gave it.
        usd: what the request cost.
        tokens: that it had, input and output.

    Raises:
        DataError: `usd` or `tokens` is out of range.
    """
    return Settlement(reservation=reservation, nano_usd=cost_nano(usd), tokens=token_count(tokens))


def settle_many(database: Database, settlements: Sequence[Settlement]) -> list[bool]:
    """Settle reservations as `settle` would one by one, in one transaction.

    Args:
        database: in which they were reserved.
        settlements: of different reservations.

    Returns:
        For each, whether there was something to settle.

    Raises:
        StorageError: the database does not answer; nothing is settled then.
    """
    by_number = {s.reservation.id: s for s in settlements if s.reservation.scopes}

    def book(accounts: Accounts, taken: Sequence[StoredHolding]) -> None:
        for held in taken:
            said = by_number[held.reservation]
            accounts[held.scope].settle(held.holding, said.nano_usd, said.tokens, expired=held.expires is None)

    ended = _end(database, [s.reservation for s in by_number.values()], book)
    return [not s.reservation.scopes or s.reservation.id in ended for s in settlements]


def release(database: Database, reservation: Reservation) -> bool:
    """Take a reservation back as if it had never been made: for a request that was not sent.

    Args:
        database: in which it was reserved.
        reservation: as `reserve` gave it.

    Returns:
        False where the reservation was settled or released before, or was purged.

    Raises:
        StorageError: the database does not answer.
    """
    return not reservation.scopes or bool(_end(database, [reservation], _undo))


def spent(database: Database, scopes: Sequence[Scope], now: float) -> tuple[Spent, ...]:
    """What scopes have used, to show it; in the order of `scopes`.

    Args:
        database: that all gateways share.
        scopes: with or without limits; each one's period says which window is meant.
        now: Unix time in seconds.

    Raises:
        StorageError: the database does not answer.
    """
    ids = [scope.id for scope in scopes]
    with database.reading() as connection:
        accounts = show_accounts(connection, ids)
        for account in accounts.values():
            account.advance(now)
        for held in show_expired(connection, ids, now):
            accounts[held.scope].expire(held.holding)
    found = list[Spent]()
    for scope in scopes:
        if (account := accounts.get(scope.id)) is None:
            account = Account()
            account.advance(now)
        meter = account.meter(scope.period)
        requests, tokens = account.minute()
        found.append(
            Spent(
                scope=scope,
                spent_usd=meter.spent / 1e9,
                reserved_usd=meter.reserved / 1e9,
                resets=account.window_end(scope.period),
                requests=requests,
                tokens=tokens,
            )
        )
    return tuple(found)


def _refusal(scopes: Sequence[Scope], accounts: Accounts, nano: int, tokens: int) -> Exceeded | None:
    """The refusal with the longest wait; None where all scopes have room."""
    found = [accounts[scope.id].exceeded(scope, nano, tokens) for scope in scopes]
    return max((refusal for refusal in found if refusal is not None), key=longest_wait, default=None)


def _latest(accounts: Accounts) -> float:
    return max(account.clock for account in accounts.values())


def _undo(accounts: Accounts, taken: Sequence[StoredHolding]) -> None:
    """Book what holdings hold as if it had never been admitted."""
    for held in taken:
        accounts[held.scope].release(held.holding, expired=held.expires is None)


def _end(
    database: Database, reservations: Sequence[Reservation], book: Callable[[Accounts, Sequence[StoredHolding]], None]
) -> set[int]:
    """Take holdings out and book them; the numbers of the reservations that had any."""
    if not reservations:
        return set()
    ids = sorted({scope for reservation in reservations for scope in reservation.scopes})
    with transaction(database) as connection:
        accounts, held = take_holdings(connection, ids, [reservation.id for reservation in reservations])
        if held:
            book(accounts, held)
            write(connection, accounts)
    return {one.reservation for one in held}
