"""Bringing a database to the program's version, by migrations that the package holds.

Files of migrations/versions start with their revision, 0001, 0002 and so on, so that a database which is up to date is
seen to be so without loading Alembic.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from tiercel.errors import ConfigurationError, MissingExtraError

__all__ = ["VERSION_TABLE", "alembic_config", "bring_up_to_date", "check_revision", "current_revision", "revisions"]

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "tiercel_version"
"""Not Alembic's default: the database may be shared with another program that uses Alembic."""
_LOCK = 0x7469_6572_6365_6C01
"""Of PostgreSQL's advisory locks: one process migrates, the others wait."""


@functools.cache
def revisions() -> tuple[str, ...]:
    """All revisions that the program knows, oldest first."""
    return tuple(sorted(p.name[:4] for p in (MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")))


def current_revision(connection: Connection) -> str | None:
    """The database's revision; None for one without tables of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def bring_up_to_date(engine: Engine, shown: str, *, to: str | None = None) -> None:
    """Run the migrations that are missing, all of them or none; of several processes, one does and the others wait.

    Args:
        engine: of the database.
        shown: its URL for errors.
        to: revision to stop at; the newest when None.

    Raises:
        ConfigurationError: the database is newer than the program.
        MissingExtraError: Alembic is not installed.
    """
    wanted = to or revisions()[-1]
    if _known(_revision_of(engine), shown) == wanted:
        return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if _known(current_revision(connection), shown) == wanted:
            return
        try:
            from alembic import command
        except ImportError:
            raise MissingExtraError("alembic", "serve") from None
        command.upgrade(alembic_config(connection), wanted)


def check_revision(engine: Engine, shown: str) -> None:
    """See that the database is of this program's version, and change nothing.

    Raises:
        ConfigurationError: it is older, newer, or no store.
    """
    found = _known(_revision_of(engine), shown)
    if found is None:
        raise ConfigurationError(f"{shown} holds no store; give the path or URL that the gateway writes to")
    if found != revisions()[-1]:
        raise ConfigurationError(
            f"the store {shown} is of an older version ({found}; this program has {revisions()[-1]}); "
            "start the gateway of this version once: it brings the store up to date"
        )


def alembic_config(connection: Connection) -> Any:
    """Alembic's configuration for `connection`, whose transaction has begun; no alembic.ini is read."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _revision_of(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return current_revision(connection.execution_options(tiercel_reading=True))


def _known(revision: str | None, shown: str) -> str | None:
    if revision is not None and revision not in revisions():
        raise ConfigurationError(
            f"the store {shown} was written by a newer version of Tiercel ({revision}; this one knows up to "
            f"{revisions()[-1]}); update the program"
        )
    return revision
