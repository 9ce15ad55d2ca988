"""A store on SQLite, and one on PostgreSQL where its server is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tiercel.store.database import Database, open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """A store with its tables, of either kind."""
    opened = open_database(store_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A store in an SQLite file."""
    opened = open_database(tmp_path / "store.db")
    yield opened
    opened.close()
