"""Virtual keys: who may ask the gateway, for what, and up to which limits.

The store holds a key's SHA-256, never the secret, which is shown once. A gateway looks keys up in a `KeyRing`, in
memory; a change in the store is seen at the ring's next refresh.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from tiercel.errors import ConfigurationError
from tiercel.store.database import Database
from tiercel.store.key_secrets import digest_of, new_secret
from tiercel.store.limit_rules import Period, Scope
from tiercel.store.limit_tables import key_revision, virtual_keys

__all__ = ["KeyRing", "Permission", "Tier", "VirtualKey", "create_key", "find_key", "list_keys", "revoke_key"]

Permission = Literal["operator", "feedback"]
Tier = Literal["cache", "student", "frontier"]

_names = msgspec.json.Decoder(tuple[str, ...])


class VirtualKey(Struct, frozen=True, kw_only=True):
    """A key as everything but the caller knows it: without its secret."""

    id: str
    """Names the key in logs and in the ledger, as in `key_3f9a20c7d1e4`."""
    name: str
    """What people call it; not unique."""
    tenant: str
    """Keys of one tenant share cached answers."""
    created: float
    """Unix time in seconds."""
    expires: float | None = None
    """Unix time from which it is refused; None for never."""
    revoked: float | None = None
    """Unix time at which it was revoked; None while it was not."""
    workloads: tuple[str, ...] | None = None
    """Names of the workloads that it may use; None for all."""
    tiers: tuple[Tier, ...] | None = None
    """Tiers that may answer it; None for all."""
    local_only: bool = False
    """Whether its requests must not leave the machine."""
    budget_usd: float | None = None
    """USD a period; None for no budget."""
    period: Period = "month"
    """What the budget is for."""
    requests_per_minute: int | None = None
    """None for no limit."""
    tokens_per_minute: int | None = None
    """Input and output; None for no limit."""
    capture: bool = True
    """Whether contents of its requests may be stored."""
    permissions: tuple[Permission, ...] = ()
    """What it may do beside asking: operator, see the figures of all; feedback, judge what other keys were answered."""

    @property
    def scope(self) -> Scope:
        """Its limits."""
        return Scope(
            kind="key",
            name=self.id,
            budget_usd=self.budget_usd,
            period=self.period,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )

    def may_use(self, workload: str | None) -> bool:
        """Whether it is for the workload of this name; None stands for requests that belong to none."""
        return self.workloads is None or workload in self.workloads

    @property
    def may_ask_frontier(self) -> bool:
        """Whether it may have any model of a provider answer, and not only its workloads."""
        return not self.local_only and self.may_use(None) and "frontier" in (self.tiers or get_args(Tier))

    def is_valid(self, now: float) -> bool:
        """Whether it opens the gateway at a Unix time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def create_key(
    database: Database,
    name: str,
    *,
    tenant: str | None = None,
    expires: float | None = None,
    workloads: Iterable[str] | None = None,
    tiers: Iterable[str] | None = None,
    local_only: bool = False,
    budget_usd: float | None = None,
    period: str = "month",
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    capture: bool = True,
    permissions: Iterable[str] = (),
    now: float | None = None,
) -> tuple[VirtualKey, str]:
    """Make a key; its secret is returned here and can't be had again.

    Args:
        database: that the gateways share.
        name: what people call it.
        tenant: who shares cached answers with it; the key alone when None.
        expires: Unix time from which it is refused.
        workloads: names of those that it may use; all when None.
        tiers: that may answer it; all when None.
        local_only: whether its requests must not leave the machine.
        budget_usd: USD a period.
        period: day, month or total.
        requests_per_minute: in any 60 s.
        tokens_per_minute: in any 60 s.
        capture: whether contents of its requests may be stored.
        permissions: what it may do beside asking; operator, feedback or both.
        now: Unix time; the clock's when None.

    Raises:
        ConfigurationError: a name, tier, permission, limit or time makes no sense.
        StorageError: the database does not answer.
    """
    moment = time.time() if now is None else now
    key_id = "key_" + secrets.token_hex(6)
    key = VirtualKey(
        id=key_id,
        name=_checked_name(name, "key"),
        tenant=key_id if tenant is None else _checked_name(tenant, "tenant"),
        created=moment,
        expires=_checked_expiry(expires, moment),
        workloads=_checked_workloads(workloads),
        tiers=_checked_tiers(tiers),
        local_only=local_only,
        budget_usd=budget_usd,
        period=period,  # pyright: ignore[reportArgumentType]
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        capture=capture,
        permissions=_checked_permissions(permissions),
    )
    _ = key.scope  # raises for limits that mean nothing
    if key.local_only and key.tiers == ("frontier",):
        raise ConfigurationError("a local-only key for the frontier alone could ask nothing; leave one of the two out")
    secret = new_secret()
    row = msgspec.structs.asdict(key) | {
        "digest": digest_of(secret),
        "workloads": _as_json(key.workloads),
        "tiers": _as_json(key.tiers),
        "permissions": _as_json(key.permissions),
    }
    with database.writing() as connection:
        connection.execute(insert(virtual_keys), row)
        _count_change(connection)
    return key, secret


def list_keys(database: Database) -> tuple[VirtualKey, ...]:
    """All keys, oldest first; also those that were revoked or have expired.

    Raises:
        StorageError: the database does not answer.
    """
    with database.reading() as connection:
        rows = connection.execute(select(virtual_keys).order_by(virtual_keys.c.created, virtual_keys.c.id))
        return tuple(_key(row) for row in rows)


def revoke_key(database: Database, key_id: str, *, now: float | None = None) -> VirtualKey:
    """Refuse a key from now on; gateways see it at the next refresh of their rings.

    Args:
        database: that the gateways share.
        key_id: as `list_keys` shows it; not the secret.
        now: Unix time; the clock's when None.

    Returns:
        The key. One that was revoked before keeps its time.

    Raises:
        ConfigurationError: there is no such key.
        StorageError: the database does not answer.
    """
    moment = time.time() if now is None else now
    chosen = virtual_keys.c.id == key_id
    with database.writing() as connection:
        connection.execute(update(virtual_keys).where(chosen, virtual_keys.c.revoked.is_(None)).values(revoked=moment))
        row = connection.execute(select(virtual_keys).where(chosen)).one_or_none()
        if row is not None:
            _count_change(connection)
            return _key(row)
    # What was given may be a secret in the wrong place, so it is shown only where it looks like an id.
    shown = f" {key_id}" if key_id.startswith("key_") and len(key_id) <= 40 and key_id.isprintable() else ""
    raise ConfigurationError(f"there is no key{shown}; `tiercel keys list` shows the ids (key_...)")


def find_key(database: Database, secret: str, *, now: float | None = None) -> VirtualKey | None:
    """The valid key with this secret, straight from the database; None where there is none.

    Raises:
        StorageError: the database does not answer.
    """
    digest = digest_of(secret)
    with database.reading() as connection:
        row = connection.execute(select(virtual_keys).where(virtual_keys.c.digest == digest)).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    key = _key(row)
    return key if key.is_valid(time.time() if now is None else now) else None


class KeyRing:
    """The valid keys in memory, for the path of requests.

    `find` asks no database and may be called from any thread, also while another one refreshes. Where a refresh fails,
    the keys of the last one stay; `age_s` says how old they are.

    Args:
        database: that the gateways share.
        refresh_s: how often the owner is to call `refresh`, which blocks and so wants a thread; `due` keeps the time.
        clock: Unix time in seconds, for what expires.
    """

    def __init__(self, database: Database, refresh_s: float = 2.0, *, clock: Callable[[], float] = time.time) -> None:
        self.refresh_s = refresh_s
        self._database = database
        self._clock = clock
        self._keys: dict[bytes, tuple[bytes, VirtualKey]] = {}
        self._revision: int | None = None
        self._refreshed: float | None = None

    def __repr__(self) -> str:
        return f"KeyRing({len(self._keys)} keys)"

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def age_s(self) -> float | None:
        """Seconds since the last refresh that succeeded; None before the first."""
        return None if self._refreshed is None else time.monotonic() - self._refreshed

    @property
    def due(self) -> bool:
        """Whether it is time for a refresh."""
        age = self.age_s
        return age is None or age >= self.refresh_s

    def refresh(self) -> bool:
        """Read the keys again, where any has changed; True then.

        Raises:
            StorageError: the database does not answer.
        """
        begun = time.monotonic()
        with self._database.reading() as connection:
            # Read before the keys: one that changes in between makes the next refresh read them once more.
            revision = connection.execute(select(key_revision.c.revision)).scalar_one()
            changed = revision != self._revision
            if changed:
                rows = connection.execute(select(virtual_keys).where(virtual_keys.c.revoked.is_(None)))
                self._keys = {row.digest: (row.digest, _key(row)) for row in rows}
                self._revision = revision
        self._refreshed = begun
        return changed

    def find(self, secret: str) -> VirtualKey | None:
        """The valid key with this secret; None where there is none.

        How long it takes says nothing of other keys: what is looked up and compared is a digest, and who can't invert
        SHA-256 can't choose how far it agrees with another.
        """
        if not self._keys:
            return None
        digest = digest_of(secret)
        found = self._keys.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        key = found[1]
        return key if key.expires is None or self._clock() < key.expires else None


def _count_change(connection: Connection) -> None:
    connection.execute(update(key_revision).values(revision=key_revision.c.revision + 1))


def _key(row: Any) -> VirtualKey:
    fields = dict(row._mapping)
    del fields["digest"]
    for name in ("workloads", "tiers"):
        fields[name] = None if fields[name] is None else _names.decode(fields[name])
    fields["permissions"] = _names.decode(fields["permissions"] or "[]")
    return VirtualKey(**fields)


def _as_json(names: tuple[str, ...] | None) -> str | None:
    return None if names is None else msgspec.json.encode(names).decode()


def _checked_name(name: str, what: str) -> str:
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise ConfigurationError(f"{name[:80]!r} is no name of a {what}; give 1 to 200 printable letters")
    return name


def _checked_expiry(expires: float | None, now: float) -> float | None:
    if expires is not None and not now < expires < 253_370_764_800:
        raise ConfigurationError("the key would never be valid; give a time of expiry that lies ahead")
    return expires


def _checked_workloads(workloads: Iterable[str] | None) -> tuple[str, ...] | None:
    if workloads is None:
        return None
    names = tuple(dict.fromkeys(_checked_name(name, "workload") for name in workloads))
    if not names:
        raise ConfigurationError("a key without any workload could ask nothing; name one, or leave workloads out")
    return names


def _checked_tiers(tiers: Iterable[str] | None) -> tuple[Tier, ...] | None:
    if tiers is None:
        return None
    given = set(tiers)
    if unknown := sorted(given - set(get_args(Tier))):
        raise ConfigurationError(f"there is no tier {unknown[0][:40]!r}; use one of: {', '.join(get_args(Tier))}")
    if not given:
        raise ConfigurationError("a key without any tier could ask nothing; name one, or leave tiers out")
    return tuple(tier for tier in get_args(Tier) if tier in given)


def _checked_permissions(permissions: Iterable[str]) -> tuple[Permission, ...]:
    given, known = set(permissions), get_args(Permission)
    if unknown := sorted(given - set(known)):
        raise ConfigurationError(f"there is no permission {unknown[0][:40]!r}; use one of: {', '.join(known)}")
    return tuple(permission for permission in known if permission in given)
