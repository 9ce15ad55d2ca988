"""Which gateways of a store are alive: each holds a lock that ends with its process, however that ends.

On SQLite it is the lock on a file beside the store, which the system gives up for a process that died; on PostgreSQL an
advisory lock of a session, which the server gives up when the connection ends. No clock is compared, so a process that
was only slow is never taken for dead, and one that was killed is seen to be gone at once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, text

from tiercel.errors import StorageError
from tiercel.store.database import Database

__all__ = ["GRACE_S", "Presence"]

GRACE_S = 5.0
"""Seconds for which a lock on PostgreSQL has to be free before its holder counts as gone: one that has only lost its
connection gets to notice and to stop."""


class Presence:
    """This gateway among those of its store, until it is closed or the process ends.

    Args:
        database: that the gateways share.
        clock: seconds that only grow.

    Raises:
        StorageError: the lock can't be made.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.id = secrets.token_hex(8)
        """By which other gateways ask for it."""
        self._database = database
        self._clock = clock
        self._free_since: dict[str, float] = {}
        self._file: IO[bytes] | None = None
        self._session: Connection | None = None
        if database.is_sqlite:
            mine = self._path(self.id)
            for left_over in mine.parent.glob(f"{mine.name.removesuffix(self.id)}*[0-9a-f]"):
                _is_free(left_over)
            self._file = _locked_file(mine)
        else:
            self._session = _locked_session(database, _number(self.id))

    def __repr__(self) -> str:
        return f"Presence({self.id!r})"

    def _path(self, id_: str) -> Path:
        path = self._database.path
        assert path is not None
        return path.with_name(f"{path.name}-gateway-{id_}")

    def held(self) -> bool:
        """Whether it still holds its lock; False once a connection to PostgreSQL was lost, and for good."""
        if self._session is None:
            return self._file is not None
        try:
            with self._database.guarded():
                self._session.execute(text("SELECT 1"))
        except StorageError:
            self.close()
            return False
        return True

    def is_gone(self, other: str) -> bool:
        """Whether the gateway of this id has ended.

        Args:
            other: its id; an empty or malformed one is nobody's, of whom nothing is known.

        Raises:
            StorageError: the database does not answer.
        """
        if other == self.id or len(other) != 16 or not all(c in "0123456789abcdef" for c in other):
            return False
        if self._database.is_sqlite:
            return _is_free(self._path(other))
        query = text("SELECT pg_try_advisory_xact_lock(:number)")
        with self._database.writing() as connection:
            free = bool(connection.execute(query, {"number": _number(other)}).scalar())
        if not free:
            self._free_since.pop(other, None)
            return False
        return self._clock() - self._free_since.setdefault(other, self._clock()) >= GRACE_S

    def close(self) -> None:
        """Give the lock up."""
        if self._file is not None:
            self._path(self.id).unlink(missing_ok=True)
            self._file.close()
            self._file = None
        if self._session is not None:
            # A session that goes back to the pool would keep its lock.
            self._session.invalidate()
            self._session.close()
            self._session = None


def _number(id_: str) -> int:
    """An id as PostgreSQL's locks are named: a signed number of 64 bits."""
    return int.from_bytes(bytes.fromhex(id_), "big", signed=True)


def _locked_session(database: Database, number: int) -> Connection:
    with database.guarded():
        session = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            session.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
        except BaseException:
            session.close()
            raise
    return session


def _locked_file(path: Path) -> IO[bytes]:
    """A new file that this process has locked; it appears under its name once it is."""
    aside = path.with_name(path.name + ".new")
    try:
        file = aside.open("xb")
        _lock(file)
        aside.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be made ({error.strerror}); check the rights of the store's folder") from None
    return file


def _is_free(path: Path) -> bool:
    """Whether nobody holds the file's lock; a file that is left over is taken away."""
    try:
        with path.open("rb") as file:
            if not _lock(file):
                return False
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError:
        return False  # it can't be told
    return True


def _lock(file: IO[Any]) -> bool:
    """Lock an open file, where the system can; False where another one has it, or nobody could."""
    try:
        import fcntl
    except ImportError:  # Windows: whether a gateway is gone can't be told there
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
