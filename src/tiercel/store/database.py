"""The store's database: SQLite in WAL mode, or PostgreSQL where several gateways share it.

A transaction is either `reading` or `writing`. On SQLite a writing one takes the write lock at its start: one that only
found out at its first write that it needs the lock could not wait for it, because what it had read would be stale.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from tiercel.errors import ConfigurationError, MissingExtraError, StorageError
from tiercel.store.schema import bring_up_to_date, check_revision

__all__ = ["BUSY_TIMEOUT_S", "Database", "open_database"]

BUSY_TIMEOUT_S = 15.0
"""How long SQLite waits for another writer before it gives up."""
_CONNECT_TIMEOUT_S = 10
_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")
# Refusals that pass by themselves, so that nothing in the URL is wrong.
_PASSES = re.compile(r"too many|starting up|shutting down|recovery", re.IGNORECASE)


class Database:
    """One database and its pool of connections; threads share it, processes each open their own."""

    def __init__(self, engine: Engine, url_shown: str) -> None:
        self.engine = engine
        """SQLAlchemy's; a transaction begun on it directly is a writing one."""
        self.url_shown = url_shown
        """The path or URL without its password and options."""

    def __repr__(self) -> str:
        return f"Database({self.url_shown!r})"

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; else it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @property
    def path(self) -> Path | None:
        """SQLite's file; None for PostgreSQL."""
        return Path(self.engine.url.database or "") if self.is_sqlite else None

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """A transaction that may write; committed at the end, rolled back when the block raises.

        On SQLite it holds the database's only write lock from its start. Don't nest: the inner one would wait for the
        outer one.

        Raises:
            StorageError: the database can't be reached, is full, broken, or locked for too long.
        """
        with self.guarded(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A transaction that sees one state of the database and can't change it.

        Keep it short: while it lasts, SQLite can't shorten its write-ahead log.

        Raises:
            StorageError: the database can't be reached or is broken.
        """
        options: dict[str, Any] = {"tiercel_reading": True}
        if not self.is_sqlite:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self.guarded(), self.engine.connect() as connection:
            yield connection.execution_options(**options)

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Turn what the database says into one of our errors; a broken constraint stays SQLAlchemy's own."""
        try:
            yield
        except (exc.IntegrityError, exc.DataError, exc.ProgrammingError):
            raise
        except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error) as error:
            raise _failure(error, self.url_shown) from error

    def close(self) -> None:
        """Close all connections; the last one to close an SQLite file also folds its write-ahead log into it."""
        self.engine.dispose()


def open_database(url: str | Path, *, migrate: bool = True) -> Database:
    """Open the store, made and brought up to date where that is needed.

    Args:
        url: a path, `sqlite:///path` or `postgresql://user:password@host:port/database`.
        migrate: make missing tables; when False, the database must exist and be of this program's version.

    Raises:
        ConfigurationError: the URL, the login or the file is wrong, the database is newer than the program, or, with
            `migrate=False`, does not exist or is older.
        StorageError: the database can't be reached or written.
        MissingExtraError: psycopg is not installed.
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite":
        path = Path(parsed.database or "")
        _prepare_file(path, create=migrate)
        database = Database(_sqlite_engine(path), str(path))
    else:
        database = Database(_postgres_engine(parsed), _shown(parsed))
    try:
        _open(database, migrate)
    except BaseException:
        database.close()
        raise
    return database


def _parse(url: str | Path) -> URL:
    text = str(url).strip()
    scheme = text.partition(":")[0] if "://" in text else ""
    if isinstance(url, Path) or not scheme:
        if not text or text == ":memory:":
            raise ConfigurationError(f"the store {text!r} is no file; give a path such as tiercel.db")
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        parsed = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            f"the store's URL, which starts with {scheme}://, can't be read; "
            "give postgresql://user:password@host:port/database, with %XX for special characters of the password"
        ) from None
    if scheme == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.host:
            raise ConfigurationError("the store's URL names no file; give sqlite:///tiercel.db or sqlite:////full/path")
        return URL.create("sqlite", database=parsed.database)
    if scheme in _POSTGRES:
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(f"the store can't be a {scheme} database; give a path, sqlite:///path or postgresql://...")


def _shown(url: URL) -> str:
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{user}{url.host or ''}{port}/{url.database or ''}"


def _prepare_file(path: Path, *, create: bool) -> None:
    """Make the file, for its owner alone: it will hold what people wrote."""
    if path.is_dir():
        raise ConfigurationError(f"the store {path} is a folder; give a file in it, such as {path / 'tiercel.db'}")
    try:
        if path.exists():
            return
        if not create:
            raise ConfigurationError(f"there is no store {path}; give the path or URL that the gateway writes to")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"the store {path} can't be made: {error.strerror or error}") from None


def _sqlite_engine(path: Path) -> Engine:
    # Read and write, not create: a store that is gone is for a person to put back, and not to begin anew unseen.
    place = f"{path.absolute().as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(place, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)

    engine = create_engine(URL.create("sqlite", database=str(path)), creator=connect, hide_parameters=True)

    def connected(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(path)
        # Transactions begin where this module says, not where the driver guesses.
        connection.isolation_level = None
        # In WAL mode NORMAL keeps the database whole through a crash; a power cut may cost the last transactions.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten.
        connection.execute("PRAGMA secure_delete = ON")

    def checked_out(_connection: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        # What is written into a file that was deleted or replaced is gone without an error.
        if record.info["file"] != _identity(path):
            raise exc.DisconnectionError("the store's file is another one now")

    def begun(connection: Connection) -> None:
        reading = bool(connection.get_execution_options().get("tiercel_reading"))
        connection.exec_driver_sql(f"PRAGMA query_only = {int(reading)}")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", checked_out)
    event.listen(engine, "begin", begun)
    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _postgres_engine(url: URL) -> Engine:
    defaults: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "tiercel"}
    try:
        return create_engine(
            url,
            connect_args={name: value for name, value in defaults.items() if name not in url.query},
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ImportError:
        raise MissingExtraError("psycopg", "postgres") from None


def _open(database: Database, migrate: bool) -> None:
    try:
        if database.is_sqlite:
            _use_wal(database)
        if migrate:
            bring_up_to_date(database.engine, database.url_shown)
        else:
            check_revision(database.engine, database.url_shown)
    except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error) as error:
        raise _failure(error, database.url_shown, opening=True) from error


def _use_wal(database: Database) -> None:
    """Switch the file to a write-ahead log, which stays its mode; another process may be doing the same."""
    connection = database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        until = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)
        if mode is None or mode[0] != "wal":
            raise StorageError(
                f"the store {database.url_shown} can't keep a write-ahead log there; choose a folder on a local disk"
            )
    finally:
        connection.close()


def _failure(error: Exception, shown: str, *, opening: bool = False) -> ConfigurationError | StorageError:
    """Our error for one of a driver's; neither holds a statement's values nor a password."""
    cause = getattr(error, "orig", None) or error
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if isinstance(cause, sqlite3.Error):
        return _sqlite_failure(said, shown)
    if opening and "FATAL:" in said and not _PASSES.search(said):
        reason = said.rpartition("FATAL:")[2].strip()
        return ConfigurationError(f"the store {shown} refuses the login ({reason}); check the store's URL")
    if opening and isinstance(error, (exc.ProgrammingError, exc.IntegrityError)):
        return ConfigurationError(
            f"the store {shown} can't be set up ({said}); give a database of its own, on which its user may make tables"
        )
    if opening:
        return StorageError(f"the store {shown} can't be reached ({said}); check that it runs, and the store's URL")
    return StorageError(f"the store {shown} failed: {said}")


def _sqlite_failure(said: str, shown: str) -> ConfigurationError | StorageError:
    if "not a database" in said:
        return ConfigurationError(f"{shown} is not an SQLite database; give the store another path")
    if "already exists" in said:
        return ConfigurationError(f"{shown} holds tables of another program ({said}); give the store another path")
    if "locked" in said:
        return StorageError(f"the store {shown} was locked by another program for {BUSY_TIMEOUT_S:g} s; try again")
    if "full" in said:
        return StorageError(f"the store {shown} can't grow: the disk is full; free some space")
    if "malformed" in said:
        return StorageError(f"the store {shown} is damaged ({said}); put a backup in its place")
    if "unable to open" in said and not Path(shown).exists():
        return StorageError(f"the store {shown} is gone; put it back, or restart the program for a new one")
    if "readonly" in said or "unable to open" in said:
        return StorageError(f"the store {shown} can't be written; check the rights of the file and of its folder")
    return StorageError(f"the store {shown} failed: {said}")
