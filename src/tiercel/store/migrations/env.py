"""Run by Alembic for every migration; the connection, with its transaction begun, comes from `store.database`."""

from __future__ import annotations

from alembic import context

from tiercel.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
