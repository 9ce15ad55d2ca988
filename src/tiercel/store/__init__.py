"""What a gateway remembers: the ledger, contents of traces, keys and limits, on SQLite or PostgreSQL."""

from __future__ import annotations

from tiercel.errors import MissingExtraError

try:
    import sqlalchemy as _sqlalchemy  # pyright: ignore[reportUnusedImport]  # noqa: F401
except ImportError:
    raise MissingExtraError("sqlalchemy", "serve") from None
