"""Tables of the ledger and of contents.

All tables of the store share one `MetaData`; tables of keys and limits live beside this module. Migrations spell their
tables out once more: a migration says what was true when it was written, this module what is true now.

Two tables for two promises: a row of `entries` is kept, and holds nothing that anybody wrote; a row of `contents` holds
request and answer, may be missing, and can be deleted without the sums of the ledger changing.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    column,
    literal_column,
    text,
)

__all__ = ["contents", "entries", "further_users", "kept", "metadata", "salts"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

entries = Table(
    "entries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created", Double, nullable=False),
    Column("api", Text, nullable=False),
    Column("workload", Text),
    Column("key_id", Text),
    Column("user_hash", Text),
    Column("tier", Text, nullable=False),
    Column("bundle", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("status", Integer, nullable=False),
    Column("reason", Text),
    Column("confidence", Double),
    Column("stream", Boolean, nullable=False),
    Column("latency_s", Double),
    Column("first_byte_s", Double),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("counted_by", Text, nullable=False),
    Column("compute_s", Double, nullable=False),
    Column("cost_usd", Double),
    Column("frontier_cost_usd", Double),
    Index(None, "created", "id"),
)
# Few requests name their user: the others cost the index nothing.
Index(
    None,
    entries.c.user_hash,
    sqlite_where=column("user_hash").is_not(None),
    postgresql_where=column("user_hash").is_not(None),
)

further_users = Table(
    "further_users",
    metadata,
    # Few requests name their user twice, and differently.
    Column("id", Text, ForeignKey("entries.id"), primary_key=True),
    Column("user_hash", Text, primary_key=True, index=True),
)

contents = Table(
    "contents",
    metadata,
    # Contents lie in the order in which they came, so that SQLite never moves one from page to page; see `retention`.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", Text, ForeignKey("entries.id"), nullable=False, unique=True),
    # The entry's time once more, so that the oldest contents are found without a walk over the whole ledger.
    Column("created", Double, nullable=False),
    # 1 where the bytes are blanked; a number, because SQLite stores 0 and 1 in the same space.
    Column("blanked", Integer, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
)
Index(
    None,
    contents.c.created,
    sqlite_where=column("blanked") == text("0"),
    postgresql_where=column("blanked") == text("0"),
)
# Written out, not bound: a prepared statement finds the index then.
kept = contents.c.blanked == literal_column("0")
"""Of `contents`: the bytes are there."""

salts = Table(
    "salts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
