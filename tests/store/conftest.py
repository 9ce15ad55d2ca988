"""A store on SQLite, and one on PostgreSQL where its server is installed."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiercel.store.database import Database, open_database

VERSIONS = Path("/usr/lib/postgresql")
_numbers = itertools.count(1)


def _binary(name: str) -> str | None:
    newest = sorted(VERSIONS.glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)


def _has_user(name: str) -> bool:
    import pwd

    return any(entry.pw_name == name for entry in pwd.getpwall())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server that this run starts, without a database's name; its owner needs a password."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    if not (initdb and control):
        pytest.skip("PostgreSQL's server is not installed (initdb, pg_ctl)")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user and not _has_user(user):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    # Not in pytest's own folder, which every run of pytest closes to other users again.
    folder = Path(tempfile.mkdtemp(prefix="tiercel-postgres-"))
    (folder / "password").write_text("open sesame\n")
    if user:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})

    secret = ("-A", "scram-sha-256", f"--pwfile={folder}/password")
    run(initdb, "-D", f"{folder}/data", "-U", "owner", *secret, "--no-sync", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(control, "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
    try:
        yield f"postgresql://owner:open%20sesame@127.0.0.1:{port}/"
    finally:
        run(control, "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    import psycopg

    name = f"store_{next(_numbers)}"
    with psycopg.connect(postgres_server + "postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # pyright: ignore[reportArgumentType]
    yield postgres_server + name
    with psycopg.connect(postgres_server + "postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # pyright: ignore[reportArgumentType]


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
