"""One text for queries that say the same thing in other words.

Set aside are: the case of names, blanks, comments and parentheses, the names of aliases, names of result columns, a
table's name before a column where only one table is read, the order of conditions, of the operands of = and of the
values of IN, positions and aliases in ORDER BY, and whether inner joins say their condition in ON or in WHERE. Each of
these steps keeps the result of a query that runs; two queries with different texts may still mean the same. In SQLite a
text in double quotes that is no column is a string; without the schema it is taken for a column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from tiercel.tasks.sql_guard import load_sqlglot

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["canonical_sql", "own_nodes", "sources_of"]

_COMMUTE = ("And", "Or", "EQ", "NEQ", "NullSafeEQ", "NullSafeNEQ", "Add", "Mul", "BitwiseAnd", "BitwiseOr")
_MIRRORED = {"GT": "LT", "GTE": "LTE"}
_SILENT = frozenset({"big_int", "quoted"})
"""Arguments of the parser's nodes that say how something was written, not what it means."""


def canonical_sql(sql: str, dialect: str = "sqlite") -> str:
    """The canonical text of one query; it is no SQL.

    Args:
        sql: one query.
        dialect: sqlite or postgres; names in double quotes keep their case in PostgreSQL only.

    Raises:
        ValueError: the text does not parse as one query.
        MissingExtraError: sqlglot is not installed.
    """
    sqlglot = load_sqlglot()
    try:
        tree = sqlglot.parse_one(sql.strip().rstrip("; \n"), dialect=dialect)
        if not isinstance(tree, sqlglot.exp.Query):
            raise ValueError(f"no query but {type(tree).__name__}")
        _fold_case(tree, dialect)
        _resolve_results(tree)
        _Renaming().query(tree, {}, {})
        return _text(tree)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _fold_case(tree: exp.Expr, dialect: str) -> None:
    from sqlglot import exp

    for name in tree.find_all(exp.Identifier):
        if dialect == "sqlite" or not name.args.get("quoted"):
            name.set("this", str(name.this).lower())


def _resolve_results(tree: exp.Expr) -> None:
    """In ORDER BY and GROUP BY, put the expression for its position or alias; then drop the outermost aliases."""
    from sqlglot import exp

    for select in tree.find_all(exp.Select):
        results = list(select.expressions)
        if any(isinstance(r, exp.Star) or r.is_star for r in results):
            continue
        named = {r.alias: r.this for r in results if isinstance(r, exp.Alias)}
        for clause in ("order", "group"):
            for term in list(select.args[clause].expressions) if select.args.get(clause) else []:
                key = term.this if isinstance(term, exp.Ordered) else term
                if isinstance(key, exp.Literal) and key.is_int and 1 <= int(key.name) <= len(results):
                    key.replace(results[int(key.name) - 1].unalias().copy())
                elif clause == "order" and isinstance(key, exp.Column) and not key.table and key.name in named:
                    key.replace(named[key.name].copy())
    top = tree.unnest() if isinstance(tree, exp.Subquery) else tree
    if isinstance(top, exp.Select):
        top.set("expressions", [r.unalias() for r in top.expressions])


Names = dict[str, str]


class _Renaming:
    """Gives every source of rows a new name, in the order in which they stand."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def query(self, node: exp.Expr, outer: Names, tables: Names) -> None:
        """Rename within a query; `outer` are the sources around it, `tables` the names that WITH gave."""
        from sqlglot import exp

        tables = dict(tables)
        for cte in node.args["with_"].expressions if node.args.get("with_") else []:
            name = f"with{next(self.numbers)}"
            recursive = {**tables, cte.alias: name}
            self.query(cte.this, outer, recursive)
            tables[cte.alias] = name
            cte.args["alias"].set("this", exp.to_identifier(name))
        if isinstance(node, exp.Select):
            self._select(node, outer, tables)
        else:
            for inner in node.iter_expressions():
                if not isinstance(inner, exp.With):
                    self._inside(inner, outer, tables)

    def _inside(self, node: exp.Expr, names: Names, tables: Names) -> None:
        from sqlglot import exp

        if isinstance(node, exp.Query) and not isinstance(node, exp.Subquery):
            self.query(node, names, tables)
            return
        for inner in list(node.iter_expressions()):
            self._inside(inner, names, tables)

    def _select(self, node: exp.Select, outer: Names, tables: Names) -> None:
        from sqlglot import exp

        sources = list(sources_of(node))
        names, own = dict(outer), list[str]()
        for source in sources:
            self._inside(source, outer, tables)
            new = f"t{next(self.numbers)}"
            names[source.alias_or_name] = new
            own.append(new)
            if isinstance(source, exp.Table) and not source.db and source.name in tables:
                source.set("this", exp.to_identifier(tables[source.name]))
            columns = source.args["alias"].columns if source.args.get("alias") else []
            source.set("alias", exp.TableAlias(this=exp.to_identifier(new), columns=columns))
        aliases = {r.alias for r in node.expressions if isinstance(r, exp.Alias)}
        for column in _own_columns(node, sources):
            if column.table:
                column.set("table", exp.to_identifier(names.get(column.table, column.table)))
                column.set("db", None)
            elif len(own) == 1 and not isinstance(column.this, exp.Star) and column.name not in aliases:
                column.set("table", exp.to_identifier(own[0]))
        for query in _own_queries(node, sources):
            self.query(query, names, tables)


def sources_of(select: exp.Select) -> Iterator[exp.Expr]:
    """What a select reads from: tables, subqueries, functions, in their order."""
    start = select.args.get("from_")
    if start is not None:
        yield start.this
    for join in select.args.get("joins") or []:
        yield join.this


def _own_columns(select: exp.Select, sources: list[exp.Expr]) -> list[exp.Column]:
    from sqlglot import exp

    return [n for n in own_nodes(select, sources) if isinstance(n, exp.Column)]


def _own_queries(select: exp.Select, sources: list[exp.Expr]) -> list[exp.Expr]:
    """Queries that stand directly in the expressions of a select."""
    from sqlglot import exp

    found = [n for n in own_nodes(select, sources) if isinstance(n, exp.Query) and not isinstance(n, exp.Subquery)]
    return [n for n in found if n is not select]


def own_nodes(select: exp.Select, sources: list[exp.Expr]) -> Iterator[exp.Expr]:
    """The nodes of a select that are not inside its sources, its WITH, or a query in its expressions."""
    from sqlglot import exp

    closed = {id(s) for s in sources} | {id(select.args.get("with_"))}

    def stop(node: exp.Expr) -> bool:
        query = isinstance(node, exp.Query) and not isinstance(node, exp.Subquery)
        return id(node) in closed or (query and node is not select)

    for node in select.walk(prune=stop):
        if id(node) not in closed:
            yield node


def _text(value: Any) -> str:
    """An unambiguous text of a node, in the form (kind part part)."""
    from sqlglot import exp

    if isinstance(value, list):
        return "[" + " ".join(map(_text, value)) + "]"
    if not isinstance(value, exp.Expr):
        return json.dumps(value if isinstance(value, str | int | float | bool | None) else str(value))
    if isinstance(value, exp.Paren):
        return _text(value.this)
    if isinstance(value, exp.Select):
        value = _joined(value)
    kind = type(value).__name__
    if kind in _COMMUTE:
        parts = sorted(map(_text, _operands(value)))
        return f"({kind} {' '.join(dict.fromkeys(parts) if kind in ('And', 'Or') else parts)})"
    if kind in _MIRRORED:
        return f"({_MIRRORED[kind]} {_text(value.expression)} {_text(value.this)})"
    if kind in _MIRRORED.values():
        return f"({kind} {_text(value.this)} {_text(value.expression)})"
    parts = [f"{name}={_part(kind, name, part)}" for name, part in sorted(value.args.items()) if _says(name, part)]
    return f"({kind} {' '.join(parts)})"


def _says(name: str, part: Any) -> bool:
    return name not in _SILENT and part is not None and part is not False and part != []


def _part(kind: str, name: str, part: Any) -> str:
    from sqlglot import exp

    if name == "expressions" and kind in ("In", "Group"):
        return " ".join(sorted({_text(p) for p in part}))
    if kind == "Count" and name == "this" and isinstance(part, exp.Literal):
        return _text(exp.Star())
    return _text(part)


def _operands(node: exp.Expr) -> Iterator[exp.Expr]:
    """Operands of a chain of AND or OR; the two of another operator."""
    from sqlglot import exp

    for side in (node.this, node.expression):
        inner = side.unnest()
        if type(inner) is type(node) and isinstance(node, exp.And | exp.Or):
            yield from _operands(inner)
        else:
            yield side


def _joined(select: exp.Select) -> exp.Select:
    """The select with the conditions of inner joins in WHERE."""
    from sqlglot import exp

    joins = select.args.get("joins") or []
    for join in joins:
        if join.args.get("kind") in ("INNER", "CROSS", "OUTER"):
            join.set("kind", None)
    if not joins or any(set(_told(join)) - {"this", "on"} for join in joins):
        return select
    conditions = [join.args["on"] for join in joins if join.args.get("on")]
    if not conditions:
        return select
    select = select.copy()
    for join in select.args["joins"]:
        join.set("on", None)
    where = [select.args["where"].this] if select.args.get("where") else []
    select.set("where", exp.Where(this=exp.and_(*conditions, *where)))
    return select


def _told(node: exp.Expr) -> list[str]:
    return [name for name, part in node.args.items() if _says(name, part)]
