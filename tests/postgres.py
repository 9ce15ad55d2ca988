"""A PostgreSQL server of the tests' own, where its programs are installed; one for each process of a run."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port

VERSIONS = Path("/usr/lib/postgresql")
PASSWORD = "open sesame"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server that this run starts, without a database's name; its owner needs a password."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    if not (initdb and control):
        pytest.skip("PostgreSQL's server is not installed (initdb, pg_ctl)")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user and not any(entry.pw_name == user for entry in pwd.getpwall()):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    # Not in pytest's own folder, which every run of pytest closes to other users again.
    folder = Path(tempfile.mkdtemp(prefix="tiercel-postgres-"))
    (folder / "password").write_text(f"{PASSWORD}\n")
    if user:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    port = free_port()

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


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """URL of an empty database, dropped at the end."""
    import psycopg

    name = f"store_{next(_numbers)}"
    with psycopg.connect(server + "postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # pyright: ignore[reportArgumentType]
    yield server + name
    with psycopg.connect(server + "postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # pyright: ignore[reportArgumentType]


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    with new_database(postgres_server) as url:
        yield url


def _binary(name: str) -> str | None:
    newest = sorted(VERSIONS.glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)
