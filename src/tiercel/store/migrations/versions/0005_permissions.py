"""What a key may do beside asking for answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("virtual_keys", sa.Column("permissions", sa.Text))
