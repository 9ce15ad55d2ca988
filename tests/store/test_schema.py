from __future__ import annotations

import importlib
import pkgutil

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

import tiercel.store
from tiercel.errors import ConfigurationError
from tiercel.store.database import Database, open_database
from tiercel.store.schema import VERSION_TABLE, alembic_config, bring_up_to_date, current_revision, revisions
from tiercel.store.tables import metadata

# Every module that adds tables to the metadata.
for module in pkgutil.iter_modules(tiercel.store.__path__):
    if module.name.endswith("tables"):
        importlib.import_module(f"tiercel.store.{module.name}")


def _differences(database: Database) -> list[object]:
    with database.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _empty(url: str) -> Database:
    """A database as the program connects to it, without its tables."""
    database = open_database(url)
    with database.writing() as connection:
        names = inspect(connection).get_table_names()
        cascade = "" if database.is_sqlite else " CASCADE"
        for name in [n for n in names if n != "entries"] + ["entries"]:
            connection.exec_driver_sql(f'DROP TABLE "{name}"{cascade}')
        assert inspect(connection).get_table_names() == []
    return database


def test_the_migrations_lead_to_exactly_the_tables_of_the_metadata(database: Database) -> None:
    assert _differences(database) == []
    with database.reading() as connection:
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, VERSION_TABLE}
        assert current_revision(connection) == revisions()[-1]


@pytest.mark.parametrize("start", revisions())
def test_a_database_of_any_revision_is_brought_up_to_date(start: str, store_url: str) -> None:
    database = _empty(store_url)
    bring_up_to_date(database.engine, "store", to=start)
    with database.reading() as connection:
        assert current_revision(connection) == start
    if start != revisions()[-1]:
        with pytest.raises(ConfigurationError, match="older version"):
            open_database(store_url, migrate=False)
    bring_up_to_date(database.engine, "store")
    assert _differences(database) == []
    database.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(store_url: str) -> None:
    database = _empty(store_url)
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE salts (other TEXT)")
    with pytest.raises(ConfigurationError):
        open_database(store_url)
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == ["salts"]
    database.close()


def test_a_missing_table_would_be_seen(database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE salts")
        connection.exec_driver_sql("ALTER TABLE contents ADD COLUMN surplus TEXT")
    assert len(_differences(database)) == 2


def test_revisions_are_numbered_without_a_gap_and_follow_each_other(sqlite_database: Database) -> None:
    assert revisions() == tuple(f"{n:04}" for n in range(1, len(revisions()) + 1))
    with sqlite_database.reading() as connection:
        scripts = list(ScriptDirectory.from_config(alembic_config(connection)).walk_revisions())
    assert [(s.revision, s.down_revision) for s in reversed(scripts)] == list(
        zip(revisions(), (None, *revisions()), strict=False)
    )
