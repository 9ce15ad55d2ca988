"""The sql task on Spider's and GeoQuery's gold queries: grammar, guard and execution, and hostile statements.

python benchmarks/spider.py
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from _record import DATA, HERE, need, write_result
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.sql_canonical import canonical_sql
from tiercel.tasks.sql_execution import Outcome, execute
from tiercel.tasks.sql_grammar import sql_grammar
from tiercel.tasks.sql_guard import is_read_only
from tiercel.tasks.sql_results import same_rows
from tiercel.tasks.sql_schema import Schema, read_schema, schema_of_database

HOSTILE = HERE / "hostile.jsonl"


@dataclass
class Timer:
    """Milliseconds of the processor for each call: other work on the machine does not count."""

    ms: list[float] = field(default_factory=list)

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        value = call(*arguments)
        self.ms.append((time.process_time() - started) * 1e3)
        return value

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.ms, [50, 99])
        return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


@dataclass
class Counts:
    """What was counted over the gold queries of a collection."""

    queries: int = 0
    guarded: int = 0
    ran: int = 0
    inside: int = 0
    inside_of_ran: int = 0
    misnamed: int = 0
    misnamed_stopped: int = 0
    wrongly_same: int = 0
    outside: set[str] = field(default_factory=set)
    grammars: dict[str, tuple[Schema, Grammar, int]] = field(default_factory=dict)
    forms: dict[tuple[str, str], Any] = field(default_factory=dict)
    guard: Timer = field(default_factory=Timer)
    grammar: Timer = field(default_factory=Timer)
    execution: Timer = field(default_factory=Timer)
    canonical: Timer = field(default_factory=Timer)


def rows(files: Iterable[Path]) -> Iterable[tuple[str, str, str]]:
    """Database, system prompt and gold query."""
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["metadata"]["database"], row["messages"][0]["content"], row["messages"][-1]["content"]


def measure(folder: Path) -> Counts:
    found = Counts()
    for database, prompt, sql in rows(sorted(need(folder).glob("*.jsonl.gz"))):
        if database not in found.grammars:
            schema = schema_of_database(folder / database)
            assert schema == read_schema(prompt), f"the prompt's tables are not those of {database}"
            text = sql_grammar(schema)
            found.grammars[database] = schema, Grammar(text), len(text)
        schema, grammar, _ = found.grammars[database]
        found.queries += 1
        found.guarded += found.guard(is_read_only, sql)
        done = found.execution(execute, sql, folder / database)
        inside = found.grammar(grammar.accepts, sql)
        found.ran += done.outcome is Outcome.DONE
        found.inside += inside
        found.inside_of_ran += inside and done.outcome is Outcome.DONE
        if not inside:
            found.outside.add(f"{sql[: grammar.reached(sql)]} <here> {sql[grammar.reached(sql) :]}")
        wrong = misnamed(sql, schema)
        if wrong is not None:
            found.misnamed += 1
            found.misnamed_stopped += not grammar.accepts(wrong)
        first = found.forms.setdefault((database, found.canonical(canonical_sql, sql)), done)
        found.wrongly_same += not same_rows(first.rows, done.rows, ordered=False)
    return found


def misnamed(sql: str, schema: Schema) -> str | None:
    """The query with the first name of a table or column outside quotes misspelt."""
    names = {n.lower() for table, columns in schema.tables.items() for n in (table, *columns)}
    for match in re.finditer(r"'[^']*'|\"[^\"]*\"|\w+", sql):
        if match[0].lower() in names:
            return f"{sql[: match.end()]}zq{sql[match.end() :]}"
    return None


def hostile() -> tuple[int, int, Timer]:
    timer, stopped = Timer(), 0
    statements = [json.loads(line) for line in HOSTILE.read_text(encoding="utf-8").splitlines()]
    for row in statements:
        stopped += not timer(is_read_only, row["sql"], row["dialect"])
    return len(statements), stopped, timer


def main() -> None:
    is_read_only("SELECT 1")
    spider, geo = measure(DATA / "spider_dev"), measure(DATA / "geoquery")
    statements, stopped, timer = hostile()
    share = spider.inside / spider.queries
    sizes = [size for _, _, size in spider.grammars.values()]
    parses = max(g.most_parses for _, g, _ in spider.grammars.values())
    table: list[tuple[str, str, str, bool | None]] = [
        (
            "Spider gold queries that follow the grammar of their schema",
            ">= 98 %",
            f"{spider.inside} of {spider.queries} ({share:.1%})",
            share >= 0.98,
        ),
        (
            "GeoQuery gold queries that run and follow the grammar",
            "all",
            f"{geo.inside_of_ran} of {geo.ran} ({geo.queries} in all)",
            geo.inside_of_ran == geo.ran,
        ),
        *[
            (
                f"{name} queries with a table or column misspelt, stopped by the grammar",
                "all",
                f"{c.misnamed_stopped} of {c.misnamed}",
                c.misnamed_stopped == c.misnamed,
            )
            for name, c in (("Spider", spider), ("GeoQuery", geo))
        ],
        (
            "gold queries that pass the guard",
            "all",
            f"{spider.guarded + geo.guarded} of {spider.queries + geo.queries}",
            spider.guarded + geo.guarded == spider.queries + geo.queries,
        ),
        ("Spider gold queries that run", "all", f"{spider.ran} of {spider.queries}", spider.ran == spider.queries),
        ("hostile statements stopped by the guard", f"all of {statements}", str(stopped), stopped == statements),
        (
            "queries of one canonical form with different results",
            "0",
            str(spider.wrongly_same + geo.wrongly_same),
            spider.wrongly_same + geo.wrongly_same == 0,
        ),
        ("CPU time of one check of the guard: gold queries of Spider", "", str(spider.guard), None),
        ("CPU time of one check of the guard: hostile statements", "", str(timer), None),
        ("CPU time of one check against the grammar", "", str(spider.grammar), None),
        ("CPU time of one canonical form", "", str(spider.canonical), None),
        ("CPU time of one execution, guard included", "", str(spider.execution), None),
        ("grammar of a schema, 19 databases", "", f"{min(sizes):,} to {max(sizes):,} characters", None),
        ("parses open at once, at most", "", str(parses), None),
    ]
    write_result(
        "spider", "make bench-spider", table, "\n".join(f"- outside: `{q}`" for q in spider.outside | geo.outside)
    )


if __name__ == "__main__":
    main()
