"""Tables of virtual keys and of limits; they share the `MetaData` of `store.tables`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, Table, Text

from tiercel.store.tables import metadata

__all__ = ["key_revision", "limit_accounts", "limit_holdings", "virtual_keys"]

virtual_keys = Table(
    "virtual_keys",
    metadata,
    Column("id", Text, primary_key=True),
    # SHA-256 of the secret; the secret itself is nowhere.
    Column("digest", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    # Lists as JSON; NULL allows all.
    Column("workloads", Text),
    Column("tiers", Text),
    Column("local_only", Boolean, nullable=False),
    Column("budget_usd", Double),
    Column("period", Text, nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("capture", Boolean, nullable=False),
    # A list as JSON; NULL allows nothing.
    Column("permissions", Text),
    Index(None, "digest", unique=True),
)

key_revision = Table(
    "key_revision",
    metadata,
    # One row, whose number grows with every change of a key: a gateway asks for it instead of reading all keys.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)

limit_accounts = Table(
    "limit_accounts",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("clock", Double, nullable=False),
    # Money is nano-USD, each window's own.
    Column("day", Integer, nullable=False),
    Column("day_spent", BigInteger, nullable=False),
    Column("day_reserved", BigInteger, nullable=False),
    Column("month", Integer, nullable=False),
    Column("month_spent", BigInteger, nullable=False),
    Column("month_reserved", BigInteger, nullable=False),
    Column("total_spent", BigInteger, nullable=False),
    Column("total_reserved", BigInteger, nullable=False),
    # The last minute, MessagePack of {second: [requests, tokens]}.
    Column("admitted", LargeBinary, nullable=False),
    # Rows change with every request: room in their page lets PostgreSQL do so without touching the index.
    postgresql_with={"fillfactor": "50"},
)

limit_holdings = Table(
    "limit_holdings",
    metadata,
    Column("reservation", BigInteger, primary_key=True, autoincrement=False),
    Column("scope", Text, primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("second", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),
    Column("month", Integer, nullable=False),
    # NULL once the money was given back because nobody had settled it in time.
    Column("expires", Double),
    Index(None, "scope", "expires"),
    sqlite_with_rowid=False,
)
