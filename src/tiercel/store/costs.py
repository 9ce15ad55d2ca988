"""What answers cost and what they saved, summed by the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, case, func, select

from tiercel.errors import ConfigurationError
from tiercel.store.database import Database
from tiercel.store.tables import entries

__all__ = ["DIMENSIONS", "CostLine", "Dimension", "costs"]

Dimension = Literal["day", "workload", "key", "tier", "model", "provider", "bundle", "api", "user"]
DIMENSIONS: tuple[Dimension, ...] = ("day", "workload", "key", "tier", "model", "provider", "bundle", "api", "user")
"""What costs can be split by."""
_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_SUMMED = ("status", *_TOKENS, "compute_s", "cost_usd", "frontier_cost_usd")


class CostLine(Struct, frozen=True, kw_only=True):
    """Sums over the entries that share the values of `group`."""

    group: dict[str, str | None]
    """Dimension to value; a day is a date in UTC; None where the entries name none."""
    requests: int
    """Answered, errors included."""
    errors: int
    """Those that the client got a status of 400 or more for."""
    input_tokens: int
    """Cached ones included."""
    cached_input_tokens: int
    output_tokens: int
    """Reasoning included."""
    reasoning_tokens: int
    compute_s: float
    """Seconds of the gateway's own CPU or GPU."""
    cost_usd: float | None
    """Of the entries with a known cost; None where there is none."""
    frontier_cost_usd: float | None
    """What the frontier would have cost, over the entries where that is known; None where there is none."""
    saved_usd: float | None
    """The frontier's cost less the cost, over the entries where both are known; None where there is none."""
    unpriced: int
    """Answers whose cost is not known; `cost_usd` leaves them out."""
    latency_p50_s: float | None
    """Median seconds to the last byte, errors left out; None where no entry has a latency, or nobody asked."""


def costs(
    database: Database,
    since: float | None = None,
    until: float | None = None,
    by: Sequence[Dimension] = ("day", "workload", "key", "tier", "model"),
    *,
    latency: bool = False,
) -> list[CostLine]:
    """Sums of the ledger, one line for each combination of values, ordered by them.

    Args:
        database: the store.
        since: Unix time in seconds of the first entry; None for the ledger's first.
        until: Unix time in seconds that entries come before; None for no end.
        by: dimensions; none at all for one line of totals (no line where there is no entry).
        latency: also find medians; takes some five times as long.

    Raises:
        ConfigurationError: a dimension has no such name, or is named twice.
        StorageError: the database can't be read.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown or len(set(by)) < len(by):
        what = f"{unknown[0]!r} is no dimension" if unknown else "a dimension is named twice"
        raise ConfigurationError(f"costs can't be split so: {what}; choose from {', '.join(DIMENSIONS)}")
    rows = _rows(database, since, until, by, latency)
    with database.reading() as connection:
        found = connection.execute(_sums(rows, by, latency)).all()
    width = len(by)
    names = [name for name in CostLine.__struct_fields__ if name not in ("group", "latency_p50_s")]
    return [
        CostLine(
            group=dict(zip(by, row[:width], strict=True)),
            **dict(zip(names, row[width : width + len(names)], strict=True)),
            latency_p50_s=row[-1] if latency else None,
        )
        for row in found
    ]


def _dimension(database: Database, name: Dimension) -> ColumnElement[Any]:
    if name == "day":
        if database.is_sqlite:
            return func.date(entries.c.created, "unixepoch")
        return func.to_char(func.timezone("UTC", func.to_timestamp(entries.c.created)), "YYYY-MM-DD")
    return entries.c[{"key": "key_id", "user": "user_hash"}.get(name, name)]


def _rows(database: Database, since: float | None, until: float | None, by: Sequence[Dimension], latency: bool) -> Any:
    """The entries with their dimensions; with `latency`, also each one's rank in its group and how many have one."""
    split = [_dimension(database, name) for name in by]
    columns = [c.label(f"by_{name}") for c, name in zip(split, by, strict=True)] + [entries.c[name] for name in _SUMMED]
    if latency:
        answered = case((entries.c.status < 400, entries.c.latency_s))
        rank = func.row_number().over(partition_by=split or None, order_by=answered.nulls_last())
        number = func.count(answered).over(partition_by=split or None)
        columns += [answered.label("answered_s"), rank.label("rank"), number.label("number")]
    query = select(*columns)
    if since is not None:
        query = query.where(entries.c.created >= since)
    if until is not None:
        query = query.where(entries.c.created < until)
    return query.subquery()


def _sums(rows: Any, by: Sequence[Dimension], latency: bool) -> Any:
    c = rows.c
    groups = [c[f"by_{name}"] for name in by]
    both = and_(c.cost_usd.is_not(None), c.frontier_cost_usd.is_not(None))
    columns: list[Any] = [
        func.count(),
        func.coalesce(func.sum(case((c.status >= 400, 1), else_=0)), 0),
        *(
            # PostgreSQL makes a decimal of a sum of whole numbers.
            func.sum(c[name]).cast(entries.c[name].type)
            for name in _TOKENS
        ),
        func.sum(c.compute_s),
        func.sum(c.cost_usd),
        func.sum(c.frontier_cost_usd),
        func.sum(case((both, c.frontier_cost_usd - c.cost_usd))),
        func.count(case((and_(c.status < 400, c.cost_usd.is_(None)), 1))),
    ]
    if latency:
        middle = c.rank.in_([(c.number + 1) // 2, (c.number + 2) // 2])
        columns.append(func.avg(case((middle, c.answered_s))))
    query = select(*groups, *columns).select_from(rows).having(func.count() > 0)
    return query.group_by(*groups).order_by(*(g.nulls_first() for g in groups))
