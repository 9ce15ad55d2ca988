"""The ledger, contents of traces, and the salt of users' hashes.

The file's number is the revision; numbers follow each other without a gap.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "entries",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("api", sa.Text, nullable=False),
        sa.Column("workload", sa.Text),
        sa.Column("key_id", sa.Text),
        sa.Column("user_hash", sa.Text),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text),
        sa.Column("provider", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("confidence", sa.Double),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("latency_s", sa.Double),
        sa.Column("first_byte_s", sa.Double),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("counted_by", sa.Text, nullable=False),
        sa.Column("compute_s", sa.Double, nullable=False),
        sa.Column("cost_usd", sa.Double),
        sa.Column("frontier_cost_usd", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
    )
    op.create_index("ix_entries_created_id", "entries", ["created", "id"])
    named = sa.column("user_hash").is_not(None)
    op.create_index("ix_entries_user_hash", "entries", ["user_hash"], sqlite_where=named, postgresql_where=named)
    op.create_table(
        "contents",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("blanked", sa.Integer, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_contents"),
        sa.ForeignKeyConstraint(["id"], ["entries.id"], name="fk_contents_id"),
        sa.UniqueConstraint("id", name="uq_contents_id"),
    )
    there = sa.column("blanked") == sa.text("0")
    op.create_index("ix_contents_created", "contents", ["created"], sqlite_where=there, postgresql_where=there)
    op.create_table(
        "salts",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_salts"),
    )
