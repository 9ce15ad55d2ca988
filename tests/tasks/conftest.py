"""A small shop database, and PostgreSQL where it is installed."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

SHOP = """
CREATE TABLE "customer" ("id" INTEGER PRIMARY KEY, "Name" TEXT, "city" TEXT, "credit" REAL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer (id), "unit price" REAL, "order" INT);
CREATE TABLE t (a INT, b TEXT);
CREATE INDEX t_a ON t (a);
INSERT INTO t VALUES (1, 'x'), (2, 'y');
INSERT INTO customer VALUES (1, 'Ada', 'Bern', 10.5), (2, 'Bob', 'Basel', NULL), (3, 'Cleo', 'Bern', 0.1);
INSERT INTO orders VALUES (1, 1, 2.5, 4), (2, 1, 10.0, 1), (3, 3, 0.2, 7);
"""
VERSIONS = Path("/usr/lib/postgresql")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SHOP)
    return path


def _binary(name: str) -> str | None:
    newest = sorted(VERSIONS.glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)


def _has_user(name: str) -> bool:
    import pwd

    return any(entry.pw_name == name for entry in pwd.getpwall())


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URLs of a server that this run starts: of its owner, and of a role that may only read `customer`."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    if not (initdb and control):
        pytest.skip("PostgreSQL's server is not installed (initdb, pg_ctl)")
    folder = tmp_path_factory.mktemp("postgres")
    # PostgreSQL refuses to run as root.
    user = ("postgres" if os.geteuid() == 0 else None) if hasattr(os, "geteuid") else None
    if user and not _has_user(user):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    if user:
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent.is_relative_to(tmp_path_factory.getbasetemp().parent):
                parent.chmod(0o755)
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})

    run(initdb, "-D", f"{folder}/data", "-U", "owner", "-A", "trust", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(control, "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
    try:
        owner = f"postgresql://owner@127.0.0.1:{port}/postgres"
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("CREATE TABLE customer (id INT, name TEXT, credit NUMERIC)")
            connection.execute("INSERT INTO customer VALUES (1, 'Ada', 10.5), (2, 'Bob', NULL), (3, 'Cleo', 0.1)")
            connection.execute("CREATE TABLE t (a INT); INSERT INTO t VALUES (1); CREATE SEQUENCE s")
            connection.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON customer TO reader")
            connection.execute("GRANT ALL ON t, s TO reader; GRANT CREATE ON SCHEMA public TO reader")
        yield owner, owner.replace("owner@", "reader@")
    finally:
        run(control, "-D", f"{folder}/data", "-m", "immediate", "stop")
