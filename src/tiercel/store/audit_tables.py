"""Tables of the record of audits; they share the `MetaData` of `store.tables`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, Table, Text

from tiercel.store.tables import metadata

__all__ = ["audit_log", "audit_snapshots", "drift_tests", "turns"]

audit_log = Table(
    "audit_log",
    metadata,
    # Numbered by the program, without a gap: the number is part of what is hashed.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("created", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("workload", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("trace", Text),
    # Canonical JSON.
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index(None, "workload", "sequence"),
)

audit_snapshots = Table(
    "audit_snapshots",
    metadata,
    Column("workload", Text, primary_key=True),
    # All snapshots are taken at once, after this row of the log.
    Column("sequence", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

turns = Table(
    "turns",
    metadata,
    # Of what gateways take turns in.
    Column("name", Text, primary_key=True),
    # Unix time of the last turn.
    Column("taken", Double, nullable=False),
)

drift_tests = Table(
    "drift_tests",
    metadata,
    Column("workload", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, nullable=False),
    Column("moved", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("status", LargeBinary, nullable=False),
)
