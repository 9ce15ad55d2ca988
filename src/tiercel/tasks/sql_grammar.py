r"""A grammar, in llama.cpp's GBNF, of the SELECT queries over one schema.

A model that is held to it can't name a table or column that is not there, and can't write anything but a query. What a
name stands for is no matter of a context-free grammar, so aliases are told from names by their form: a letter with or
without digits (`T1`, `s`), a table's name with digits, `alias0` or the like behind it (`CITYalias0`, `city_2`), and the
words that the caller gives. `AS` may also give a result any name with an underscore or in quotes; such a name can't be
used afterwards.

The grammar is made for an engine that follows all parses at once: names are tries (one parse open however many columns
begin alike), clauses follow each other without repeating what comes next, and expressions have no levels of precedence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tiercel.errors import DataError
from tiercel.tasks.sql_functions import words
from tiercel.tasks.sql_schema import Schema

__all__ = ["aliases_in", "sql_grammar"]

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALIAS_WORDS = ("derived_field", "derived_table", "cte", "sub", "tmp")
"""Words that are aliases with a number behind them."""

RESERVED = words("""
    add all alter and as autoincrement between case check collate commit constraint create default deferrable delete
    distinct drop else escape except exists foreign from full group having if in index inner insert intersect into is
    isnull join left limit natural not nothing notnull null offset on or order outer primary references right select set
    table then to transaction union unique update using values when where window with
""")
"""Words that SQLite takes for a name only in quotes."""

_AGGREGATES = "avg count group_concat max min sum total"
_SCALARS = """
    abs ceil ceiling char char_length coalesce concat concat_ws cume_dist date datetime dense_rank exp first_value floor
    format hex ifnull iif instr json_array_length json_extract julianday lag last_value lead length like ln log log10
    log2 lower ltrim mod nth_value ntile nullif percent_rank pi pow power printf quote random rank replace round
    row_number rtrim sign sqrt strftime string_agg substr substring time trim trunc typeof unicode unixepoch upper
"""
_TYPES = (
    "blob bigint boolean char date datetime decimal double float int integer numeric real smallint text time varchar"
)


def sql_grammar(schema: Schema, *, aliases: Sequence[str] = (), quoted_texts: bool = True) -> str:
    """The grammar of SELECT queries of SQLite over a schema.

    Args:
        schema: tables and columns that may be named, in any case, bare or quoted.
        aliases: more words that may name a table or a result where they are used; `aliases_in` finds those of a
            workload's reference answers.
        quoted_texts: whether "text" may stand for 'text' on the right of a comparison, as SQLite takes it.

    Returns:
        Text in GBNF; its first rule is `root`.

    Raises:
        DataError: the schema has no tables, or a name can't be written in a grammar.
    """
    if not schema.tables:
        raise DataError("the schema has no tables: there is nothing to ask for")
    columns = sorted({column for names in schema.tables.values() for column in names})
    rules = {
        **_query_rules(),
        **_expression_rules(quoted_texts),
        **_name_rules(schema, columns, aliases),
        **_word_rules(),
    }
    return "\n".join(f"{name} ::= {_spaced(body)}" for name, body in rules.items()) + "\n"


def aliases_in(queries: Iterable[str]) -> tuple[str, ...]:
    """Names that queries give with AS, each once, for `sql_grammar`; those of the usual forms are left out."""
    found: dict[str, None] = {}
    for query in queries:
        for name in re.findall(r"\bAS\s+([A-Za-z_]\w*)", query, re.IGNORECASE):
            if not re.fullmatch(r"[A-Za-z]\d*|\w*?(?:alias)?\d+", name) and name.lower() not in RESERVED:
                found.setdefault(name.lower())
    return tuple(name for name in found if name.upper() not in _TYPES.upper().split())


def _query_rules() -> dict[str, str]:
    """Queries and their clauses; each clause names those that may follow, so that one blank leads to all."""
    return {
        "root": 'blank? query (blank? ";")? blank?',
        "query": "with? select",
        "with": "<WITH> blank (<RECURSIVE> blank)? cte (comma cte)* blank",
        "cte": 'alias (blank? "(" blank? alias (comma alias)* blank? ")")? blank <AS> blank? '
        '(<NOT>? blank? <MATERIALIZED> blank?)? "(" blank? query blank? ")"',
        "select": "<SELECT> blank ((<DISTINCT> | <ALL>) blank)? result (comma result)* (blank clause-from)?"
        " | <VALUES> blank? row (comma row)* (blank clause-set)?",
        "row": '"(" blank? value (comma value)* blank? ")"',
        "result": '"*" | name-table "." "*" | alias "." "*" | expression (blank (<AS> blank result-name | alias))?',
        "clause-from": "<FROM> blank sources (blank clause-where)? | clause-where",
        "clause-where": "<WHERE> blank expression (blank clause-group)? | clause-group",
        "clause-group": "<GROUP> blank <BY> blank expressions (blank clause-having)? | clause-having",
        "clause-having": "<HAVING> blank expression (blank clause-set)? | clause-set",
        "clause-set": "(<UNION> (blank <ALL>)? | <INTERSECT> | <EXCEPT>) blank select | clause-order",
        "clause-order": "<ORDER> blank <BY> blank term (comma term)* (blank clause-limit)? | clause-limit",
        "clause-limit": "<LIMIT> blank value ((blank <OFFSET> blank | comma) value)?",
        "term": "expression (blank (<ASC> | <DESC>))? (blank <NULLS> blank (<FIRST> | <LAST>))?",
        "sources": "source (comma source | blank join)*",
        "source": '(name-table | alias) named? | "(" blank? (query | sources) blank? ")" named?',
        "named": "blank (<AS> blank)? alias",
        "join": "(<NATURAL> blank)? (((<LEFT> | <RIGHT> | <FULL>) (blank <OUTER>)? | <INNER> | <CROSS>) blank)?"
        " <JOIN> blank source (blank (<ON> blank expression | <USING> blank? list-columns))?",
        "list-columns": '"(" blank? name-column (comma name-column)* blank? ")"',
    }


def _expression_rules(quoted_texts: bool) -> dict[str, str]:
    """Expressions: operands with operators between them."""
    right = "operand | text-double" if quoted_texts else "operand"
    return {
        "expressions": "expression (comma expression)*",
        "expression": "(<NOT> blank)* operand more*",
        "more": 'blank? sign blank? value | blank? minus (blank value | operand-unsigned) | blank? "||" blank? operand'
        " | blank word-operator",
        # A minus before a minus would begin a comment.
        "minus": '"-"',
        "sign": '"=" "="? | "!=" | "<" [=<>]? | ">" [=>]? | "+" | "*" | "/" | "%" | "&" | "|" | "->" ">"?',
        "word-operator": "(<AND> | <OR>) blank (<NOT> blank)* operand"
        " | <IS> blank (<NOT> blank)? (<DISTINCT> blank <FROM> blank)? value"
        " | <ISNULL> | <NOTNULL> | <COLLATE> blank (<NOCASE> | <BINARY> | <RTRIM>) | <NOT> blank (<NULL> | membership)"
        " | membership",
        "membership": "(<LIKE> | <GLOB> | <REGEXP> | <MATCH>) blank value (blank <ESCAPE> blank text)?"
        ' | <IN> blank? "(" blank? (query | values)? blank? ")"'
        " | <BETWEEN> blank sum blank <AND> blank sum",
        "sum": "value (blank? ([+*/%] | minus blank) blank? operand)*",
        "values": "value (comma value)*",
        "value": right,
        "operand": '[+-]? operand-unsigned | "~" operand-unsigned',
        "operand-unsigned": "number | text | blob | constant | case | cast | call | reference"
        ' | (<EXISTS> blank?)? "(" blank? query blank? ")" | "(" blank? expressions blank? ")"',
        "constant": "<NULL> | <TRUE> | <FALSE> | <CURRENT_> ([dD] [aA] [tT] [eE] | [tT] [iI] [mM] [eE] stamp?)",
        "stamp": "<STAMP>",
        "case": "<CASE> (blank expression)? (blank <WHEN> blank expression blank <THEN> blank outcome)+"
        " (blank <ELSE> blank outcome)? blank <END>",
        "outcome": "value more*",
        "cast": '<CAST> blank? "(" blank? expression blank <AS> blank type blank? ")"',
        "type": 'types ("(" [0-9]{1,4} ("," blank? [0-9]{1,4})? ")")?',
        "call": 'aggregates blank? "(" blank? (("*" | (<DISTINCT> blank)? arguments) blank?)? ")" filter? over?'
        ' | scalars blank? "(" blank? (arguments blank?)? ")" over?',
        "arguments": "argument (comma argument)*",
        "argument": "expression | text-double" if quoted_texts else "expression",
        "filter": 'blank <FILTER> blank? "(" blank? <WHERE> blank expression blank? ")"',
        "over": 'blank <OVER> blank? "(" blank? (partition (blank ordering)? blank? | ordering blank?)? ")"',
        "partition": "<PARTITION> blank <BY> blank expressions",
        "ordering": "<ORDER> blank <BY> blank term (comma term)* (blank frame)?",
        "frame": "(<ROWS> | <RANGE> | <GROUPS>) blank (<BETWEEN> blank edge blank <AND> blank edge | edge)",
        "edge": "<CURRENT> blank <ROW> | (<UNBOUNDED> | number) blank (<PRECEDING> | <FOLLOWING>)",
    }


def _name_rules(schema: Schema, columns: Sequence[str], aliases: Sequence[str]) -> dict[str, str]:
    tables = list(schema.tables)
    numbers = {table: f"columns-{i}" for i, table in enumerate(tables, 1)}
    rules = {
        "reference": f'{_qualified(numbers)} | alias ("." (name-column | alias))? | name-column',
        "name-table": _names(tables),
        "name-column": _names(columns),
        **{numbers[table]: f"{_names(names)} | alias" for table, names in schema.tables.items()},
    }
    stems = [t for t in tables if _BARE.fullmatch(t)] + list(_ALIAS_WORDS)
    given = [a for a in aliases if _BARE.fullmatch(a)]
    rules["alias"] = f"[a-zA-Z] [0-9]{{0,3}} | {_trie(stems)} numbered" + (f" | {_trie(given)}" if given else "")
    rules["numbered"] = '([aA] [lL] [iI] [aA] [sS] | "_")? [0-9]{1,3}'
    rules["result-name"] = 'alias | [a-zA-Z] [a-zA-Z0-9]* "_" [a-zA-Z0-9_]* | text-double | text'
    return rules


def _word_rules() -> dict[str, str]:
    return {
        "aggregates": _trie(_AGGREGATES.split()),
        "scalars": _trie(_SCALARS.split()),
        "types": _trie(_TYPES.split()),
        "number": '[0-9]{1,18} ("." [0-9]{0,18})? exponent? | "." [0-9]{1,18} exponent?',
        "exponent": "[eE] [+-]? [0-9]{1,3}",
        "text": '"\'" ([^\'\\x00-\\x1F\\x7F] | "\'\'")* "\'"',
        "text-double": '"\\"" ([^"\\x00-\\x1F\\x7F] | "\\"\\"")* "\\""',
        "blob": '[xX] "\'" ([0-9a-fA-F] [0-9a-fA-F])* "\'"',
        "comma": 'blank? "," blank?',
        "blank": "[ \\t\\r\\n]{1,16}",
    }


def _spaced(body: str) -> str:
    """Write <WORD> as letters in either case."""
    return re.sub(r"<([A-Z_]+)>", lambda m: " ".join(map(_letter, m[1])), body)


def _letter(character: str) -> str:
    if character.isascii() and character.isalpha():
        return f"[{character.lower()}{character.upper()}]"
    return '"' + {'"': '\\"', "\\": "\\\\"}.get(character, character) + '"'


def _names(names: Sequence[str]) -> str:
    """Names as they may be written: bare where SQLite takes them bare, and in each kind of quotes."""
    unprintable = [n for n in names if not n or not n.isprintable()]
    if unprintable:
        raise DataError(f"the schema has the name {unprintable[0]!r}: rename it to what can be written in a query")
    bare = [n for n in names if _BARE.fullmatch(n) and n.lower() not in RESERVED]
    ways = [_trie(bare)] if bare else []
    for opening, closing in ('""', "``", "[]"):
        fit = [n.replace('"', '""') if opening == '"' else n for n in names if opening == '"' or closing not in n]
        if fit:
            ways.append(f"{_letter(opening)} {_trie(fit)} {_letter(closing)}")
    return " | ".join(ways)


def _qualified(numbers: dict[str, str]) -> str:
    """A table's name, a dot and one of its columns."""
    bare = {t: f'"." {rule}' for t, rule in numbers.items() if _BARE.fullmatch(t) and t.lower() not in RESERVED}
    ways = [_trie(bare)] if bare else []
    for opening, closing in ('""', "``", "[]"):
        fit = {
            t.replace('"', '""') if opening == '"' else t: f'{_letter(closing)} "." {rule}'
            for t, rule in numbers.items()
            if opening == '"' or closing not in t
        }
        if fit:
            ways.append(f"{_letter(opening)} {_trie(fit)}")
    return " | ".join(ways)


def _trie(names: Sequence[str] | dict[str, str]) -> str:
    """Names in either case as one expression, what begins alike written once; values stand behind their names."""
    ends = {name.lower(): names[name] if isinstance(names, dict) else "" for name in names}
    return _branches(sorted(ends), ends, 0)


def _branches(names: list[str], ends: dict[str, str], depth: int) -> str:
    ways: list[str] = []
    by_letter: dict[str, list[str]] = {}
    for name in names:
        if len(name) > depth:
            by_letter.setdefault(name[depth], []).append(name)
    for letter, group in by_letter.items():
        ways.append(f"{_letter(letter)} {_branches(group, ends, depth + 1)}".rstrip())
    done = [name for name in names if len(name) == depth]
    if not done:
        return ways[0] if len(ways) == 1 else "(" + " | ".join(ways) + ")"
    rest = ends[done[0]]
    if not ways:
        return rest
    if rest:
        return "(" + " | ".join([rest, *ways]) + ")"
    return "(" + " | ".join(ways) + ")?"
