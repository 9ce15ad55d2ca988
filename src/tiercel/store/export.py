"""Traces as rows of the data contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, select, tuple_

from tiercel.store.database import Database
from tiercel.store.entries import Tier
from tiercel.store.tables import contents, entries, kept

__all__ = ["export_traces"]

_BATCH = 500
_decode = msgspec.json.Decoder().decode
_COLUMNS = (
    "id",
    "created",
    "workload",
    "user_hash",
    "tier",
    "model",
    "counted_by",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def export_traces(
    database: Database,
    *,
    workload: str | None = None,
    since: float | None = None,
    until: float | None = None,
    tiers: Sequence[Tier] = ("frontier",),
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The traces whose content is kept, oldest first, as decoded rows of the data contract.

    The last message is the answer that the client got. It is the frontier's, as the contract has it, for the tier
    "frontier" alone; other tiers are named in `metadata`. Rows come in batches, each a short transaction of its own, so
    that memory stays flat and writers are not held up. A content that can't be read gives a row without messages.

    Args:
        database: the store.
        workload: name; None for all.
        since: Unix time in seconds of the first trace; None for the oldest.
        until: Unix time in seconds that traces come before; None for no end.
        tiers: who answered.
        limit: number of rows to stop after; None for all.

    Raises:
        StorageError: the database can't be read.
    """
    query = (
        select(*(entries.c[name] for name in _COLUMNS), contents.c.request, contents.c.response)
        .join_from(entries, contents, contents.c.id == entries.c.id)
        .where(kept, entries.c.status < 400, entries.c.tier.in_(tiers))
        .order_by(entries.c.created, entries.c.id)
    )
    if workload is not None:
        query = query.where(entries.c.workload == workload)
    if since is not None:
        query = query.where(entries.c.created >= since)
    if until is not None:
        query = query.where(entries.c.created < until)
    left = limit
    last: tuple[float, str] | None = None
    while left is None or left > 0:
        size = _BATCH if left is None else min(_BATCH, left)
        after = query if last is None else query.where(tuple_(entries.c.created, entries.c.id) > last)
        with database.reading() as connection:
            rows = connection.execute(after.limit(size)).all()
        yield from map(_trace, rows)
        if len(rows) < size:
            return
        last = rows[-1].created, rows[-1].id
        left = None if left is None else left - len(rows)


def _trace(row: Row[Any]) -> dict[str, Any]:
    metadata = {"workload": row.workload, "tier": row.tier, "user": row.user_hash}
    trace: dict[str, Any] = {
        "id": row.id,
        "messages": [],
        "created": row.created,
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    if row.model is not None:
        trace["model"] = row.model
    if row.counted_by != "estimate":
        # The contract's readers make an estimate of their own and say that it is one.
        trace["usage"] = {
            name: getattr(row, name)
            for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
        }
    try:
        request, response = _decode(row.request), _decode(row.response)
        trace["messages"] = [*request["messages"], {**response, "role": "assistant"}]
        trace |= {name: request[name] for name in ("tools", "response_format") if request.get(name)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        trace["messages"] = []
    return trace
