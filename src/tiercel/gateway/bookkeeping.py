"""Makes of an exchange what is kept of it: an entry of the ledger, content where it may be stored, counters, a span.

All of it happens in the recorder's thread, when the client has long had its answer.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tiercel.datasets.redaction import Redactor
from tiercel.errors import TiercelError
from tiercel.gateway.exchange import Exchange
from tiercel.gateway.metrics import Metrics
from tiercel.gateway.transcripts import completion_of
from tiercel.providers.tokens import estimate_usage
from tiercel.store.database import Database
from tiercel.store.entries import Content, Entry, append
from tiercel.store.limits import settle
from tiercel.types import Answer, Message, ToolCall

__all__ = ["Bookkeeper"]

Json = dict[str, Any]
_log = logging.getLogger("tiercel.gateway")
