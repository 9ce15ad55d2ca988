"""The gate before a database: a query that only reads passes, everything else is refused.

The check works from what is allowed, in three steps. The text is cut into lexemes by the database's own rules, and
comments and the contents of literals are blanked out, so that nothing can hide from the parser in a place where two
lexers differ. Every name before a parenthesis must be known to compute only. What sqlglot parses from the rest must be
one query made of kinds of nodes that are listed here. A parser is no sandbox: `sql_execution` runs what passes in a
session that can't write either, and a database role that may only read belongs below both.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tiercel.errors import ConfigurationError, MissingExtraError, RefusedQueryError
from tiercel.tasks.sql_functions import FUNCTIONS, GRAMMAR_WORDS, NO_PARENTHESES, words

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["DIALECTS", "check_read_only", "is_read_only", "load_sqlglot"]

DIALECTS = ("sqlite", "postgres")
LONGEST = 100_000
"""Characters of a query."""
DEEPEST = 100
"""Nested parentheses."""

_QUERIES = frozenset({"Select", "Union", "Except", "Intersect", "Values", "Subquery"})
_NODES = _QUERIES | words(
    """
    Add Adjacent Alias Aliases All And Any AtTimeZone Between BitString BitwiseAnd BitwiseLeftShift BitwiseNot BitwiseOr
    BitwiseRightShift BitwiseXor Boolean Bracket CTE Collate Column ColumnDef Cube DPipe DataType DataTypeParam Distance
    Distinct Div Dot EQ Escape Fetch Filter From GT GTE Glob Group GroupingSets Having HexString ILike Identifier
    IgnoreNulls In IntDiv Interval IntervalSpan Is JSON JSONKeyValue JSONPath JSONPathFilter JSONPathKey
    JSONPathRecursive JSONPathRoot JSONPathScript JSONPathSelector JSONPathSlice JSONPathSubscript JSONPathUnion
    JSONPathWildcard Join Kwarg LT LTE Lateral Like Limit LimitOptions Literal Match Mod Mul NEQ National Neg Not Null
    NullSafeEQ NullSafeNEQ Offset Or Order Ordered Overlaps Paren PropertyEQ RespectNulls Rollup SimilarTo Slice Star
    Sub Table TableAlias TableColumn TableSample Tuple Unnest Var Variadic Where Window WindowSpec With WithinGroup
    """
)
"""Kinds of nodes that a query may be made of, beside functions."""

_LEXEMES = {
    "sqlite": r"""
        (?P<space>[ \t\n\f\r]+)
      | (?P<comment>--[^\n]*|/\*(?s:.*?)(?:\*/|\Z))
      | (?P<blob>[xX]'[0-9a-fA-F]*')
      | (?P<string>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
      | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d][\w$]*)
      | (?P<sign>[-+*/%=<>!(),.;&|~])
    """,
    "postgres": r"""
        (?P<space>[ \t\n\f\r\v]+)
      | (?P<comment>--[^\n\r]*)
      | (?P<nested>/\*)
      | (?P<foreign>[uU]&['"])
      | (?P<blob>[xXbB]'[0-9a-fA-F]*')
      | (?P<string>[eE]'(?:[^'\\]|''|\\(?s:.))*'|[nN]?'(?:[^']|'')*'|\$(?P<tag>(?:[^\W\d]\w*)?)\$(?s:.*?)\$(?P=tag)\$)
      | (?P<quoted>"(?:[^"]|"")+")
      | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d][\w$]*)
      | (?P<sign>[-+*/%=<>!(),.;&|~^@\#?:[\]])
    """,
}
_SCANNERS = {dialect: re.compile(pattern, re.VERBOSE) for dialect, pattern in _LEXEMES.items()}
_UNPRINTABLE = re.compile(r"[^ -~]|['\"\\`]")

# Tables of SQLite that are no tables of the user's: they read files, raw pages or settings.
_STRANGE_TABLES = re.compile(
    r"pragma_.*|fsdir|zipfile|csv|lsdir|readfile|sqlite_dbpage|sqlite_dbdata|sqlite_dbptr|dbstat|sqlite_stmt|bytecode"
    r"|tables_used|completion|memstat|stmt|unionvtab|swarmvtab|tclvar|wholenumber",
)


def check_read_only(sql: str, dialect: str = "sqlite", *, functions: Collection[str] = ()) -> None:
    """Let a query pass that only reads, and raise on everything else.

    Args:
        sql: one query; a closing semicolon and comments may stand.
        dialect: a name of `DIALECTS`.
        functions: more functions that may be called, in lower case; say only names that compute and change nothing.

    Raises:
        RefusedQueryError: the text writes, calls what it should not, holds several statements, or does not parse.
        MissingExtraError: sqlglot is not installed.
        ConfigurationError: the dialect is unknown.
    """
    if dialect not in _SCANNERS:
        raise ConfigurationError(f"SQL dialect {dialect!r} is unknown: use one of {', '.join(DIALECTS)}")
    lexemes = _bare(sql, dialect)
    if not lexemes:
        raise _refused("is empty")
    allowed = FUNCTIONS[dialect] | frozenset(name.lower() for name in functions)
    tree = _parse("".join(text for _, text in lexemes), dialect)
    if type(tree).__name__ not in _QUERIES:
        raise _refused(f"is no query but a statement of another kind ({type(tree).__name__})")
    for node in tree.walk():
        _check_node(node, dialect, allowed)
    _check_calls(lexemes, allowed, _column_lists(tree))
    if dialect == "postgres":
        _check_attributes(tree)


def is_read_only(sql: str, dialect: str = "sqlite", *, functions: Collection[str] = ()) -> bool:
    """Whether `check_read_only` lets the query pass."""
    try:
        check_read_only(sql, dialect, functions=functions)
    except RefusedQueryError:
        return False
    return True


def load_sqlglot() -> ModuleType:
    """The package sqlglot, kept from logging what it can't parse: that is said in an error.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import sqlglot
    except ImportError as error:
        raise MissingExtraError("sqlglot", "sql") from error
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    return sqlglot


def _refused(why: str) -> RefusedQueryError:
    return RefusedQueryError(f"the SQL {why}; only one query that reads is let through")


def _bare(sql: str, dialect: str) -> list[tuple[str, str]]:
    """Kinds and texts of the lexemes, as the database cuts them; comments are blanks, literals hold plain text."""
    if len(sql) > LONGEST:
        raise _refused(f"has {len(sql)} characters, more than {LONGEST}")
    if "\0" in sql:  # where a database written in C stops reading
        raise _refused("has a character that no query needs: a NUL")
    found: list[tuple[str, str]] = []
    scan, at, depth = _SCANNERS[dialect], 0, 0
    while at < len(sql):
        match = scan.match(sql, at)
        if match is None:
            raise _refused(f"has a character that no query needs, at position {at}: {sql[at]!r}")
        kind, text, at = str(match.lastgroup), match[0], match.end()
        if kind == "tag":
            kind = "string"
        if kind == "foreign":
            raise _refused("has a text with Unicode escapes (U&)")
        if kind == "nested":
            at = _comment_end(sql, at)
            kind = "comment"
        if kind == "number" and at < len(sql) and (sql[at].isalnum() or sql[at] in "_$"):
            raise _refused(f"has a number that runs into a word, at position {at}")
        depth += (text == "(") - (text == ")")
        if depth > DEEPEST:
            raise _refused(f"nests more than {DEEPEST} parentheses")
        found.append((kind, _blanked(kind, text)))
    return _without_end(found)


def _comment_end(sql: str, at: int) -> int:
    """Where a comment of PostgreSQL ends, which may hold others; `at` is behind its opening."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", sql[at:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return at + mark.end()
    raise _refused("has a comment without an end")


def _blanked(kind: str, text: str) -> str:
    if kind in ("space", "comment"):
        return " "
    if kind == "string":
        content = text.strip("$") if text[0] == "$" else text[text.index("'") + 1 : -1]
        return "'" + _UNPRINTABLE.sub("_", content) + "'"
    if kind == "quoted":
        return '"' + _UNPRINTABLE.sub("_", text[1:-1]) + '"'
    return text


def _without_end(lexemes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The lexemes without closing semicolons and blanks; refuses a semicolon before more text."""
    while lexemes and lexemes[-1][1] in (" ", ";"):
        lexemes.pop()
    if any(kind == "sign" and text == ";" for kind, text in lexemes):
        raise _refused("holds several statements")
    return lexemes


def _parse(text: str, dialect: str) -> exp.Expr:
    sqlglot = load_sqlglot()
    try:
        trees = sqlglot.parse(text, dialect=dialect)
    except sqlglot.errors.SqlglotError as error:
        raise _refused(f"does not parse as {dialect} ({str(error).splitlines()[0]})") from error
    except (RecursionError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        # What a parser trips over is no query that anyone should run.
        raise _refused(f"does not parse as {dialect} ({type(error).__name__})") from error
    if len(trees) != 1 or trees[0] is None:
        raise _refused("holds no statement" if not trees or trees[0] is None else "holds several statements")
    return trees[0]


def _check_node(node: exp.Expr, dialect: str, allowed: frozenset[str]) -> None:
    from sqlglot import exp

    kind = type(node).__name__
    if isinstance(node, exp.Anonymous):
        if str(node.name).lower() not in allowed:
            raise _refused(f"calls {node.name}, which is not among the functions that only compute")
    elif kind not in _NODES and not isinstance(node, exp.Func):
        raise _refused(f"does more than read ({kind})")
    if isinstance(node, exp.Table) and dialect == "sqlite" and _STRANGE_TABLES.fullmatch(node.name.lower()):
        raise _refused(f"reads {node.name}, which is no table of the database")
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Func) and node.db.lower() not in ("", "pg_catalog"):
        raise _refused(f"calls {node.db}.{_called(node.this)}, which is not among the functions that only compute")
    if isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks")):
        raise _refused("writes its result into a table or locks rows")
    if isinstance(node, exp.Dot):
        _check_dot(node, dialect)


def _check_dot(node: exp.Expr, dialect: str) -> None:
    """A dotted name must be a function of the built-in schema: (value).name calls a function in PostgreSQL."""
    from sqlglot import exp

    left, right = node.this, node.expression
    if isinstance(right, exp.Star):
        return
    if isinstance(right, exp.Func) and isinstance(left, exp.Identifier) and left.name.lower() == "pg_catalog":
        return
    raise _refused(f"has a dotted name that could call a function: {node.sql(dialect=dialect)}")


def _column_lists(tree: exp.Expr) -> Counter[str]:
    """Names that stand before a list of columns, as in `WITH name(a, b)`, and how often each does."""
    from sqlglot import exp

    return Counter(a.name.lower() for a in tree.find_all(exp.TableAlias) if a.columns)


def _check_calls(lexemes: list[tuple[str, str]], allowed: frozenset[str], lists: Counter[str]) -> None:
    """Every name before a parenthesis, as it was written: the parser may have taken it for something else."""
    solid = [lexeme for lexeme in lexemes if lexeme[1] != " "]
    for (kind, text), (_, following) in pairwise(solid):
        if following != "(" or kind not in ("word", "quoted"):
            continue
        name = text.strip('"').lower()
        if name in allowed or (kind == "word" and name in GRAMMAR_WORDS):
            continue
        lists[name] -= 1
        if lists[name] < 0:
            raise _refused(f"calls {name}, which is not among the functions that only compute")


def _check_attributes(tree: exp.Expr) -> None:
    """Refuse `x.name` where x is a function in FROM: PostgreSQL reads it as name(x), whatever name is."""
    from sqlglot import exp

    values: dict[str, set[str]] = {}
    for source in tree.find_all(exp.Table, exp.Unnest, exp.Lateral):
        inner: Any = source.this
        if isinstance(inner, exp.Subquery) or (isinstance(source, exp.Table) and _is_table(inner)):
            continue
        alias = source.args.get("alias")
        columns = {c.name.lower() for c in alias.columns} if alias else set[str]()
        for name in {source.alias.lower(), _called(inner)} - {""}:
            values.setdefault(name, set()).update(columns | {name})
    for column in tree.find_all(exp.Column):
        known = values.get(column.table.lower())
        if known is not None and not isinstance(column.this, exp.Star) and column.name.lower() not in known | _OUTPUTS:
            raise _refused(f"has a dotted name that could call a function: {column.sql()}")


_OUTPUTS = frozenset({"key", "value", "ordinality"})
"""Columns that functions of PostgreSQL give; no function has such a name."""


def _is_table(node: Any) -> bool:
    from sqlglot import exp

    return isinstance(node, exp.Identifier) and (
        bool(node.args.get("quoted")) or node.name.lower() not in NO_PARENTHESES
    )


def _called(node: Any) -> str:
    """The name under which a function in FROM can be referred to when it has no alias."""
    from sqlglot import exp

    if isinstance(node, exp.Dot):
        return _called(node.expression)
    if isinstance(node, exp.Anonymous | exp.Identifier):
        return str(node.name).lower()
    return node.sql_name().lower() if isinstance(node, exp.Func) else ""
