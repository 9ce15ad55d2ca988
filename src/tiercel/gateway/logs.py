"""The log as JSON, one object a line."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec

__all__ = ["JsonFormatter"]


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message; nothing else of a record, since it may hold content."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        return msgspec.json.encode(line).decode()
