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

__all__ = ["aliases_in", "limit_texts", "sql_grammar"]

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALIAS_WORDS = ("derived_field", "derived_table", "cte", "sub", "tmp")
"""Words that are aliases with a number behind them."""

RESERVED = words("""
    add all alter and as autoincrement between case cast check collate commit constraint create cross current_date
    current_time current_timestamp default deferrable delete distinct drop else escape except exists foreign from full
    group having if in index inner insert intersect into is isnull join left limit natural not nothing notnull null
    offset on or order outer primary raise references returning right select set table then to transaction union unique
    update using values when where window with
""")
"""Words that SQLite takes for a name only in quotes, and those that could be read as a name or as part of a join."""

_FUNCTIONS = {
    "avg sum total": "aggregated",
    "count": "counted",
    "max min": "compared",
    "group_concat": "collected",
    "random": "of-none",
    "abs ceil ceiling exp floor hex length ln log10 log2 lower quote sign sqrt trunc typeof unicode upper": "of-one",
    "json_array_length ltrim round rtrim trim": "of-one-or-two",
    "char concat date datetime format julianday printf time unixepoch": "of-one-or-more",
    "ifnull instr mod nullif pow power": "of-two",
    "substr substring": "of-two-or-three",
    "coalesce concat_ws json_extract strftime": "of-two-or-more",
    "iif replace": "of-three",
    "cume_dist dense_rank percent_rank rank row_number": "of-none over",
    "first_value last_value ntile": "of-one over",
    "lag lead": "of-one-or-more over",
    "nth_value": "of-two over",
}
"""Functions of SQLite and the rule of what follows their name."""
_TYPES = "bigint blob boolean date datetime double float int integer real smallint text time"
_SIZED_TYPES = "char decimal numeric varchar"


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
    return tuple(name for name in found if name not in f"{_TYPES} {_SIZED_TYPES}".split())


def limit_texts(grammar: str, texts: Sequence[str]) -> str:
    """The grammar, with no other texts in quotes than these, with or without the signs of LIKE around them.

    Args:
        grammar: of `sql_grammar`.
        texts: without quotes of their own; where there are none, no query compares anything with a text.
    """
    for rule, quote in (("text", "'"), ("text-double", '"')):
        ways = " | ".join(_literal(text.replace(quote, quote * 2)) for text in texts)
        # A rule can't be empty: without texts it asks for a character that no model writes.
        body = f'{_letter(quote)} "%"? ({ways}) "%"? {_letter(quote)}' if texts else r"[\x01]"
        grammar = re.sub(rf"^{rule} ::= .*$", lambda _, r=rule, b=body: f"{r} ::= {b}", grammar, flags=re.MULTILINE)
    return grammar


def _query_rules() -> dict[str, str]:
    """Queries and their clauses; each clause names those that may follow, so that one blank leads to all."""
    return {
        "root": 'blank? query (blank? ";")? blank?',
        "query": "with? select",
        "with": "<WITH> blank (<RECURSIVE> blank)? cte (comma cte)* blank",
        "cte": 'alias (blank? "(" blank? alias (comma alias)* blank? ")")? blank <AS> blank? '
        '"(" blank? query blank? ")"',
        "select": "<SELECT> blank ((<DISTINCT> | <ALL>) blank)? result (comma result)* (blank clause-from)?",
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
        "operand-unsigned": "word | number | text | blob | alias-letter of-alias? | name-quoted"
        ' | "(" blank? query blank? ")" | "(" blank? expressions blank? ")"',
        "of-alias": '"." (name-column | alias)',
        "of-case": "(blank expression)? (blank <WHEN> blank expression blank <THEN> blank outcome)+"
        " (blank <ELSE> blank outcome)? blank <END>",
        "outcome": "value more*",
        "of-cast": 'blank? "(" blank? expression blank <AS> blank type blank? ")"',
        "of-exists": 'blank? "(" blank? query blank? ")"',
        "type": 'types | sized-types ("(" [0-9]{1,4} ("," blank? [0-9]{1,4})? ")")?',
        "arguments": "argument (comma argument)*",
        "argument": "expression | text-double" if quoted_texts else "expression",
        "aggregated": "open (<DISTINCT> blank expression close filter? | expression close filter? over?)",
        "counted": 'open (<DISTINCT> blank expression close filter? | ("*" | expression) close filter? over?)',
        "compared": "open (<DISTINCT> blank expression close filter? | arguments close filter? over?)",
        "collected": "open (<DISTINCT> blank expression close filter?"
        " | expression (comma argument)? close filter? over?)",
        "of-none": "open close-at-once",
        "of-one": "open argument close",
        "of-one-or-two": "open argument (comma argument)? close",
        "of-one-or-more": "open arguments close",
        "of-two": "open argument comma argument close",
        "of-two-or-three": "open argument comma argument (comma argument)? close",
        "of-two-or-more": "open argument comma arguments close",
        "of-three": "open argument comma argument comma argument close",
        "open": 'blank? "(" blank?',
        "close": 'blank? ")"',
        "close-at-once": '")"',
        "filter": 'blank <FILTER> blank? "(" blank? <WHERE> blank expression blank? ")"',
        "over": 'blank <OVER> blank? "(" blank? (partition (blank ordering)? blank? | ordering blank?)? ")"',
        "partition": "<PARTITION> blank <BY> blank expressions",
        "ordering": "<ORDER> blank <BY> blank term (comma term)* (blank frame)?",
        "frame": "(<ROWS> | <RANGE> | <GROUPS>) blank"
        " (<BETWEEN> blank (start | until) blank <AND> blank (until | <UNBOUNDED> blank <FOLLOWING>) | start)",
        "start": "<UNBOUNDED> blank <PRECEDING> | [0-9]{1,4} blank <PRECEDING> | <CURRENT> blank <ROW>",
        "until": "<CURRENT> blank <ROW> | [0-9]{1,4} blank (<PRECEDING> | <FOLLOWING>)",
    }


def _name_rules(schema: Schema, columns: Sequence[str], aliases: Sequence[str]) -> dict[str, str]:
    tables = list(schema.tables)
    numbers = {table: f"columns-{i}" for i, table in enumerate(tables, 1)}
    stems = [t for t in tables if _BARE.fullmatch(t)] + list(_ALIAS_WORDS)
    given = [a for a in aliases if _BARE.fullmatch(a) and a.lower() not in RESERVED]
    ways = _Ways()
    for name, after in [("null", ""), ("true", ""), ("false", ""), ("case", "of-case"), ("cast", "of-cast")]:
        ways.add(name, after)
    for name in ("current_date", "current_time", "current_timestamp"):
        ways.add(name)
    ways.add("exists", "of-exists")
    for names, after in _FUNCTIONS.items():
        ways.add(names, after)
    for name in _bare(columns):
        ways.add(name)
    for table in _bare(tables):
        ways.add(table, f'"." {numbers[table]}')
    for stem in stems:
        ways.add(stem, "numbered of-alias?")
    for name in given:
        ways.add(name, "of-alias?")
    return {
        "word": ways.trie(),
        "name-quoted": f"{_quoted_references(numbers)} | {_quoted(columns)}",
        "name-table": _names(tables),
        "name-column": _names(columns),
        **{numbers[table]: _names(names) for table, names in schema.tables.items()},
        "alias": f"alias-letter | {_trie(stems)} numbered" + (f" | {_trie(given)}" if given else ""),
        "alias-letter": "[a-zA-Z] [0-9]{0,3}",
        "numbered": '([aA] [lL] [iI] [aA] [sS] | "_")? [0-9]{1,3}',
        "result-name": 'alias | [a-zA-Z] [a-zA-Z0-9]* "_" [a-zA-Z0-9_]* | text-double | text',
    }


def _word_rules() -> dict[str, str]:
    return {
        "types": _trie(_TYPES.split()),
        "sized-types": _trie(_SIZED_TYPES.split()),
        "number": '[0-9]{1,18} ("." [0-9]{0,18})? exponent? | "." [0-9]{1,18} exponent?',
        "exponent": "[eE] [+-]? [0-9]{1,3}",
        "text": '"\'" ([^\'\\x00-\\x1F\\x7F] | "\'\'")* "\'"',
        "text-double": '"\\"" ([^"\\x00-\\x1F\\x7F] | "\\"\\"")* "\\""',
        "blob": '[xX] "\'" ([0-9a-fA-F] [0-9a-fA-F])* "\'"',
        "comma": 'blank? "," blank?',
        "blank": "[ \\t\\n]{1,16}",
    }


def _spaced(body: str) -> str:
    """Write <WORD> as letters in either case."""
    return re.sub(r"<([A-Z_]+)>", lambda m: " ".join(map(_letter, m[1])), body)


def _letter(character: str) -> str:
    if character.isascii() and character.isalpha():
        return f"[{character.lower()}{character.upper()}]"
    return '"' + {'"': '\\"', "\\": "\\\\"}.get(character, character) + '"'


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bare(names: Iterable[str]) -> list[str]:
    """Those that SQLite takes without quotes."""
    return [n for n in names if _BARE.fullmatch(n) and n.lower() not in RESERVED]


def _names(names: Sequence[str]) -> str:
    """Names as they may be written: bare where that is possible, and in each kind of quotes."""
    bare = _bare(names)
    return (f"{_trie(bare)} | " if bare else "") + _quoted(names)


def _quoted(names: Iterable[str]) -> str:
    return " | ".join(_in_quotes(dict.fromkeys(names, "")))


def _quoted_references(numbers: dict[str, str]) -> str:
    """A quoted table, a dot and one of its columns."""
    return " | ".join(_in_quotes({table: f'"." {rule}' for table, rule in numbers.items()}))


def _in_quotes(names: dict[str, str]) -> list[str]:
    """Tries of quoted names, one for each kind of quotes; values stand behind the closing quote."""
    bad = [n for n in names if not n or not n.isprintable()]
    if bad:
        raise DataError(f"the schema has the name {bad[0]!r}: rename it to what can be written in a query")
    found: list[str] = []
    for opening, closing in ('""', "``", "[]"):
        ways = _Ways()
        for name, after in names.items():
            if closing == '"':
                ways.add(name.replace('"', '""'), f"{_letter(closing)} {after}", whole=True)
            elif closing not in name:
                ways.add(name, f"{_letter(closing)} {after}", whole=True)
        if ways.after:
            found.append(f"{_letter(opening)} {ways.trie()}")
    return found


def _trie(names: Iterable[str]) -> str:
    """Names in either case as one expression, what begins alike written once."""
    ways = _Ways()
    for name in names:
        ways.add(name)
    return ways.trie()


class _Ways:
    """Words, and what may follow each of them, as one expression."""

    def __init__(self) -> None:
        self.after: dict[str, list[str]] = {}

    def add(self, names: str, after: str = "", *, whole: bool = False) -> None:
        """Let `after` follow a word, or each of several words; with `whole` blanks belong to the word."""
        for name in [names] if whole else names.split():
            following = self.after.setdefault(name.lower(), [])
            if after not in following:
                following.append(after)

    def trie(self) -> str:
        """The expression; what begins alike is written once."""
        return self._branches(sorted(self.after), 0)

    def _branches(self, names: list[str], depth: int) -> str:
        groups: dict[str, list[str]] = {}
        ends: list[str] = []
        for name in names:
            if len(name) == depth:
                ends = self.after[name]
            else:
                groups.setdefault(name[depth], []).append(name)
        ways = [end for end in ends if end]
        ways += [f"{_letter(letter)} {self._branches(group, depth + 1)}".rstrip() for letter, group in groups.items()]
        text = ways[0] if len(ways) == 1 and "" not in ends else f"({' | '.join(ways)})" if ways else ""
        return f"{text}?" if ways and "" in ends else text
