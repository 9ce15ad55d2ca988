"""The further names that a request has for its user, so that it is found by each of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "further_users",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", "user_hash", name="pk_further_users"),
        sa.ForeignKeyConstraint(["id"], ["entries.id"], name="fk_further_users_id_entries"),
    )
    op.create_index("ix_further_users_user_hash", "further_users", ["user_hash"])
