"""Virtual keys, and what keys and workloads have used of their limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "virtual_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
        sa.Column("workloads", sa.Text),
        sa.Column("tiers", sa.Text),
        sa.Column("local_only", sa.Boolean, nullable=False),
        sa.Column("budget_usd", sa.Double),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("capture", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_virtual_keys"),
    )
    op.create_index("ix_virtual_keys_digest", "virtual_keys", ["digest"], unique=True)
    revisions = op.create_table(
        "key_revision",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_key_revision"),
    )
    op.bulk_insert(revisions, [{"id": 1, "revision": 0}])
    op.create_table(
        "limit_accounts",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("clock", sa.Double, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("day_spent", sa.BigInteger, nullable=False),
        sa.Column("day_reserved", sa.BigInteger, nullable=False),
        sa.Column("month", sa.Integer, nullable=False),
        sa.Column("month_spent", sa.BigInteger, nullable=False),
        sa.Column("month_reserved", sa.BigInteger, nullable=False),
        sa.Column("total_spent", sa.BigInteger, nullable=False),
        sa.Column("total_reserved", sa.BigInteger, nullable=False),
        sa.Column("admitted", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_limit_accounts"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "limit_holdings",
        sa.Column("reservation", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("second", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("month", sa.Integer, nullable=False),
        sa.Column("expires", sa.Double),
        sa.PrimaryKeyConstraint("reservation", "scope", name="pk_limit_holdings"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_limit_holdings_scope_expires", "limit_holdings", ["scope", "expires"])
