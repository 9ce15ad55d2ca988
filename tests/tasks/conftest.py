"""A small shop database, and PostgreSQL where it is installed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.postgres import new_database

SHOP = """
CREATE TABLE "customer" ("id" INTEGER PRIMARY KEY, "Name" TEXT, "city" TEXT, "credit" REAL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer (id), "unit price" REAL, "order" INT);
CREATE TABLE t (a INT, b TEXT);
CREATE INDEX t_a ON t (a);
INSERT INTO t VALUES (1, 'x'), (2, 'y');
INSERT INTO customer VALUES (1, 'Ada', 'Bern', 10.5), (2, 'Bob', 'Basel', NULL), (3, 'Cleo', 'Bern', 0.1);
INSERT INTO orders VALUES (1, 1, 2.5, 4), (2, 1, 10.0, 1), (3, 3, 0.2, 7);
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SHOP)
    return path


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> Iterator[tuple[str, str]]:
    """URLs of a PostgreSQL database: of its owner, and of a role that may only read `customer`."""
    import psycopg

    with new_database(postgres_server) as owner:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("CREATE TABLE customer (id INT, name TEXT, credit NUMERIC)")
            connection.execute("INSERT INTO customer VALUES (1, 'Ada', 10.5), (2, 'Bob', NULL), (3, 'Cleo', 0.1)")
            connection.execute("CREATE TABLE t (a INT); INSERT INTO t VALUES (1); CREATE SEQUENCE s")
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 'simsim'; GRANT SELECT ON customer TO reader")
            connection.execute("GRANT ALL ON t, s TO reader; GRANT CREATE ON SCHEMA public TO reader")
        yield owner, owner.replace("owner:open%20sesame@", "reader:simsim@")
