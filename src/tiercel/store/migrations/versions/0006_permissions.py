"""What a key may do beside asking for answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("virtual_keys", sa.Column("permissions", sa.Text))
