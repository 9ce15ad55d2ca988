from __future__ import annotations

import datetime as dt
import random
import statistics
from collections import defaultdict
from typing import Any

import pytest

from tests.store.rows import entry
from tiercel.errors import ConfigurationError
from tiercel.store.costs import DIMENSIONS, CostLine, costs
from tiercel.store.database import Database
from tiercel.store.entries import Entry, append

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC).timestamp()


def _mixed(number: int = 400) -> list[Entry]:
    rnd = random.Random(5)
    made = list[Entry]()
    for _ in range(number):
        status = rnd.choice([200, 200, 200, 429, 500])
        made.append(
            entry(
                created=NOON + rnd.randint(-2 * 86_400, 2 * 86_400),
                workload=rnd.choice([None, "tickets", "sql"]),
                key=rnd.choice([None, "a", "b"]),
                user=rnd.choice([None, "u"]),
                bundle=rnd.choice([None, "x@1"]),
                api=rnd.choice(["chat", "responses"]),
                tier=rnd.choice(["student", "frontier"]),
                model=rnd.choice(["m1", "m2"]),
                status=status,
                latency_s=rnd.choice([None, rnd.random()]),
                input_tokens=rnd.randint(0, 2**31 - 1),
                cached_input_tokens=rnd.randint(0, 100),
                output_tokens=rnd.randint(0, 100),
                reasoning_tokens=rnd.randint(0, 50),
                compute_s=rnd.random(),
                cost_usd=rnd.choice([None, rnd.random()]),
                frontier_cost_usd=rnd.choice([None, rnd.random()]),
                content=None,
            )
        )
    return made


def _value(e: Entry, name: str) -> str | None:
    if name == "day":
        return dt.datetime.fromtimestamp(e.created, dt.UTC).date().isoformat()
    return getattr(e, name)


def _sum(values: list[float | None]) -> Any:
    known = [v for v in values if v is not None]
    return pytest.approx(sum(known)) if known else None


def _by_hand(all_: list[Entry], by: tuple[str, ...]) -> list[dict[str, Any]]:
    groups = defaultdict[tuple[str | None, ...], list[Entry]](list)
    for e in all_:
        groups[tuple(_value(e, name) for name in by)].append(e)
    lines = list[dict[str, Any]]()
    for key in sorted(groups, key=lambda k: [(v is not None, v or "") for v in k]):
        es = groups[key]
        answered = [e.latency_s for e in es if e.status < 400 and e.latency_s is not None]
        both = [(e.frontier_cost_usd, e.cost_usd) for e in es if None not in (e.frontier_cost_usd, e.cost_usd)]
        lines.append(
            {
                "group": dict(zip(by, key, strict=True)),
                "requests": len(es),
                "errors": sum(e.status >= 400 for e in es),
                "input_tokens": sum(e.input_tokens for e in es),
                "cached_input_tokens": sum(e.cached_input_tokens for e in es),
                "output_tokens": sum(e.output_tokens for e in es),
                "reasoning_tokens": sum(e.reasoning_tokens for e in es),
                "compute_s": pytest.approx(sum(e.compute_s for e in es)),
                "cost_usd": _sum([e.cost_usd for e in es]),
                "frontier_cost_usd": _sum([e.frontier_cost_usd for e in es]),
                "saved_usd": _sum([f - c for f, c in both]),  # pyright: ignore[reportOptionalOperand]
                "unpriced": sum(e.cost_usd is None and e.status < 400 for e in es),
                "latency_p50_s": pytest.approx(statistics.median(answered)) if answered else None,
            }
        )
    return lines


def _fields(line: CostLine) -> dict[str, Any]:
    return {name: getattr(line, name) for name in CostLine.__struct_fields__}


@pytest.mark.parametrize(
    "by", [(), ("day",), ("workload", "tier"), ("day", "workload", "key", "tier", "model"), DIMENSIONS]
)
def test_sums_are_those_made_by_hand(database: Database, by: Any) -> None:
    all_ = _mixed()
    append(database, all_)
    found = [_fields(line) for line in costs(database, by=by, latency=True)]
    assert found == _by_hand(all_, by)
    without = [_fields(line) | {"latency_p50_s": None} for line in costs(database, by=by)]
    assert without == [line | {"latency_p50_s": None} for line in _by_hand(all_, by)]


def test_since_is_the_first_and_until_is_left_out(database: Database) -> None:
    append(database, [entry(created=NOON + second, model=str(second)) for second in range(5)])
    lines = costs(database, NOON + 1, NOON + 4, ("model",))
    assert [line.group["model"] for line in lines] == ["1", "2", "3"]


def test_days_end_at_midnight_utc_wherever_the_machine_is(database: Database) -> None:
    midnight = dt.datetime(2026, 3, 2, tzinfo=dt.UTC).timestamp()
    append(database, [entry(created=midnight - 0.001), entry(created=midnight)])
    assert [line.group for line in costs(database, by=("day",))] == [{"day": "2026-03-01"}, {"day": "2026-03-02"}]


def test_an_empty_ledger_has_no_lines(database: Database) -> None:
    assert costs(database) == []
    assert costs(database, by=()) == []


@pytest.mark.parametrize("by", [("hour",), ("day", "day"), ("id; DROP TABLE entries",)])
def test_a_wrong_dimension_is_told(sqlite_database: Database, by: Any) -> None:
    with pytest.raises(ConfigurationError, match="choose from day, workload"):
        costs(sqlite_database, by=by)
