"""A gateway as far as audits go, in a process of its own: `python -m tests.store.audit_worker URL NUMBER`.

It says `ready`, waits for a line on stdin, so that several start at once, and prints the digest of its monitor at the end.
"""

from __future__ import annotations

import hashlib
import sys

from tests.routing.audit_streams import opened, traffic
from tiercel.errors import DataError
from tiercel.routing.audit_book import AuditBook
from tiercel.store.audit_log import audit_key
from tiercel.store.database import open_database

REQUESTS = 130


def main() -> None:
    """Open the same epoch as all the others, which one can, and write audits of its own."""
    url, number = sys.argv[1], int(sys.argv[2])
    database = open_database(url)
    print("ready", flush=True)
    sys.stdin.readline()
    book = AuditBook(database)
    master = audit_key(database)
    book.record("tickets", [opened(master=master)], now=float(number))
    for events in traffic(REQUESTS, 0.2, seed=number, master=master, prefix=f"p{number}-"):
        outcomes = book.record("tickets", events, now=float(number))
        assert not any(isinstance(o, DataError) for o in outcomes), outcomes
    print("done", flush=True)
    sys.stdin.readline()
    book.catch_up()
    print(hashlib.sha256(book.monitor("tickets").encode()).hexdigest(), flush=True)
    database.close()


if __name__ == "__main__":
    main()
