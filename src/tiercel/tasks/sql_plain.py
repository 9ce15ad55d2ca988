"""The plainest writing of a query: no alias that is not needed, names in lower case, parentheses and blanks as usual.

A decoder that learns SQL from few rows learns the shape of queries sooner where each shape has one writing. Aliases
that are numbered through a query (`CITYalias0`, `CITYalias1`) are worst: the same subquery reads differently at each
depth. The plain text is kept only where its canonical form is that of the query (`sql_canonical`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tiercel.tasks.sql_canonical import canonical_sql, own_nodes, sources_of
from tiercel.tasks.sql_guard import load_sqlglot

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["plain_sql"]

_NUMBERED = re.compile(r"t\d+")


def plain_sql(sql: str, dialect: str = "sqlite") -> str:
    """The plainest text found that says the same as `sql`; `sql` itself where there is none or it does not parse.

    Args:
        sql: one query.
        dialect: sqlite or postgres.

    Raises:
        MissingExtraError: sqlglot is not installed.
    """
    sqlglot = load_sqlglot()
    try:
        wanted = canonical_sql(sql, dialect)
        tree = sqlglot.parse_one(sql.strip().rstrip("; \n"), dialect=dialect)
        _fold_case(tree)
        _drop_parentheses(tree)
        bare = tree.copy()
        # sqlglot's own errors are ValueErrors.
        for text in ([bare.sql(dialect=dialect)] if _drop_aliases(bare) else []) + [tree.sql(dialect=dialect)]:
            if canonical_sql(text, dialect) == wanted:
                return text
    except (ValueError, RecursionError):
        pass
    return sql


def _fold_case(tree: exp.Expr) -> None:
    from sqlglot import exp

    for name in tree.find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", str(name.this).lower())


def _drop_parentheses(tree: exp.Expr) -> None:
    """Take them from around a whole condition, and from around operands of AND that bind closer."""
    from sqlglot import exp

    for paren in list(tree.find_all(exp.Paren)):
        inner, around = paren.this, paren.parent
        needed = isinstance(inner, exp.Or) and isinstance(around, exp.And)
        if isinstance(around, exp.Where | exp.And) and not needed and not isinstance(inner, exp.Query):
            paren.replace(inner)


def _drop_aliases(tree: exp.Expr) -> bool:
    """Call tables by their names, columns of a lone source by nothing else; False where that can't be done.

    A query that looks out of itself (a correlated one) needs its aliases, and a name that is given with AS could hide
    a column of that name.
    """
    from sqlglot import exp

    if any(_NUMBERED.fullmatch(table.name) for table in tree.find_all(exp.Table)):
        return False
    left = {id(c) for c in tree.find_all(exp.Column) if c.table}
    for select in list(tree.find_all(exp.Select)):
        if any(join.args.get("using") or join.args.get("method") for join in select.args.get("joins") or []):
            return False
        sources = list(sources_of(select))
        columns = [n for n in own_nodes(select, sources) if isinstance(n, exp.Column) and n.table]
        names = _rename(sources)
        given = {r.alias for r in select.expressions if isinstance(r, exp.Alias)}
        for column in columns:
            if column.table not in names or (names[column.table] is None and column.name in given):
                return False
            name = names[column.table]
            column.set("table", exp.to_identifier(name) if name else None)
            left.discard(id(column))
    return not left


def _rename(sources: list[exp.Expr]) -> dict[str, str | None]:
    """Take their aliases from the sources of a select.

    Returns:
        What the columns of each are to bear, by its old name: its table's name, a numbered one where that is not its
        alone, or None where it is the only source.
    """
    from sqlglot import exp

    tables = [source.name if isinstance(source, exp.Table) else "" for source in sources]
    names: dict[str, str | None] = {}
    for number, (source, table) in enumerate(zip(sources, tables, strict=True), 1):
        old = source.alias_or_name
        if len(sources) == 1:
            names[old], alias = None, None
        elif table and tables.count(table) == 1:
            names[old], alias = table, None
        else:
            names[old] = f"t{number}"
            alias = exp.TableAlias(this=exp.to_identifier(f"t{number}"))
        source.set("alias", alias)
    return names
