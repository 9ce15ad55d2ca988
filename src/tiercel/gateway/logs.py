"""The log on stderr, as text or as JSON; what other libraries say goes the same way, without what may hold content."""

from __future__ import annotations

import logging
import re
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import msgspec

from tiercel.gateway.sections import Telemetry

__all__ = ["JsonFormatter", "log_failure", "logs_json", "set_log_level", "set_up_logging", "without_content"]

_OWN = "tiercel"
_ASKS_FOR_JSON = re.compile(r"""^\s*log_format\s*=\s*["']json["']""", re.MULTILINE)

_log = logging.getLogger("tiercel.gateway")


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message; nothing else of a record, since it may hold content."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        return msgspec.json.encode(line).decode()


def set_up_logging(telemetry: Telemetry) -> None:
    """Log to stderr in the form that is configured, unless this process logs somewhere already.

    Warnings of Python, and errors that nobody has caught, become lines of the log too: one that is read by a program
    has no other lines.
    """
    # What no line shows need not be found out for each (see "Optimization" in the documentation of logging).
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    _add_handler(is_json=telemetry.log_format == "json")
    if _log.level == logging.NOTSET:
        set_log_level(telemetry)


def _add_handler(*, is_json: bool) -> None:
    if _log.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_foreign_without_content)
    logging.getLogger().addHandler(handler)
    if is_json:
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_thread


def logs_json(config: Path) -> bool:
    """Whether a configuration file asks for JSON, even one with mistakes: they are then told in that form."""
    try:
        return _ASKS_FOR_JSON.search(config.read_text("utf-8-sig")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def log_failure(text: str) -> None:
    """Log what ends the program as JSON, even before the configuration is known."""
    _add_handler(is_json=True)
    _log.critical("%s", text)


def set_log_level(telemetry: Telemetry) -> None:
    """Log from the configured level on; of other libraries, warnings and worse alone."""
    _log.setLevel(telemetry.log_level.upper())


def without_content(record: logging.LogRecord) -> bool:
    """Keep of an exception that another library logs its type alone: its text may quote a request."""
    if record.exc_info and record.exc_info[0] is not None:
        record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
    record.exc_info, record.exc_text = None, None
    return True


def _foreign_without_content(record: logging.LogRecord) -> bool:
    return record.name.startswith(_OWN) or without_content(record)


def _log_uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        at = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
        _log.critical("the program failed: %s%s", kind.__name__, at)


def _log_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and told.exc_type is not SystemExit:
        _log_uncaught(told.exc_type, told.exc_value, told.exc_traceback)
