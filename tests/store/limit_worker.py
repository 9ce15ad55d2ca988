"""A gateway as far as limits go, in a process of its own: `python -m tests.store.limit_worker MODE URL NUMBER TIMES`.

It says `ready`, waits for a line on stdin, so that several start at once, and prints what it did as JSON.
"""

from __future__ import annotations

import json
import random
import sys

from tiercel.store.database import Database, open_database
from tiercel.store.limit_rows import read_accounts, transaction
from tiercel.store.limits import Reservation, Scope, release, reserve, settle

NOON = 1_795_176_000.0
ESTIMATE = 0.001
BUDGET = Scope(kind="key", name="shared", budget_usd=0.1, period="total")
WIDE = Scope(kind="key", name="wide", budget_usd=0.1, period="total")
RATE = Scope(kind="workload", name="shared", requests_per_minute=40)
LARGE = Scope(kind="key", name="large", budget_usd=1000.0)
LARGER = Scope(kind="workload", name="larger", budget_usd=1000.0, requests_per_minute=100_000)


def hammer(database: Database, scopes: list[Scope], number: int, times: int) -> int:
    """Ask over and over, and keep what is granted; returns how often it was."""
    # Every other process names its scopes the other way round.
    ordered = scopes[:: -1 if number % 2 else 1]
    answers = [reserve(database, ordered, usd=ESTIMATE, tokens=1, now=NOON) for _ in range(times)]
    return sum(isinstance(answer, Reservation) for answer in answers)


def book(database: Database, number: int, times: int) -> dict[str, int]:
    """Reserve, and settle or release at once; the sums must come out to the last nano-USD."""
    rng, nano, requests, kept = random.Random(number), 0, 0, 0
    for _ in range(times):
        scopes = rng.sample([LARGE, LARGER], k=rng.choice((1, 2)))
        answer = reserve(database, scopes, usd=ESTIMATE, tokens=1, now=NOON)
        assert isinstance(answer, Reservation)
        fate = rng.randrange(4)
        if fate == 0:
            assert release(database, answer)
        elif fate == 1:
            kept += LARGE in scopes
            requests += LARGER in scopes
        else:
            actual = rng.randrange(2_000_000)
            assert settle(database, answer, usd=actual / 1e9, tokens=1)
            nano += actual * (LARGE in scopes)
            requests += LARGER in scopes
    return {"spent_nano": nano, "kept": kept, "requests": requests}


def main(mode: str, url: str, number: int, times: int) -> None:
    database = open_database(url)
    print("ready", flush=True)
    sys.stdin.readline()
    told = dict[str, int]()
    if mode == "all":
        told["alone"] = hammer(database, [BUDGET], number, times)
        told["both"] = hammer(database, [WIDE, RATE], number, times)
        told |= book(database, number, times)
    elif mode == "die-holding":
        reserve(database, [BUDGET], usd=0.1, tokens=1, now=NOON, lease_s=300)
        print("held", flush=True)
        sys.stdin.readline()
        raise AssertionError("nobody killed this process")
    else:
        with transaction(database) as connection:
            assert read_accounts(connection, [BUDGET.id])
            print("held", flush=True)
            sys.stdin.readline()
            raise AssertionError("nobody killed this process")
    database.close()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
