"""Whether a text follows a grammar in GBNF, llama.cpp's format.

An engine holds a model to a grammar while it writes; this says afterwards, or for another engine's answer, whether a
text follows it. Understood is the part of GBNF that grammars for answers need: rules, texts in quotes, character
classes, `.`, groups, `|`, `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}`, comments. As in llama.cpp,
left recursion is refused.

Matching follows all parses at once. A parse is a stack of positions in the grammar, kept as a linked list whose nodes
are made once, so that what equal stacks lead to is worked out once.
"""

from __future__ import annotations

import re
from pathlib import Path

from tiercel.errors import ConfigurationError

__all__ = ["Grammar"]

_TOKEN = re.compile(
    r"""
      (?P<blank>(?:[ \t\r\n]|\#[^\n]*)+)
    | (?P<define>::=)
    | (?P<name>[A-Za-z0-9-]+)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<chars>\[(?:[^\]\\]|\\.)*\])
    | (?P<times>\{\d+(?:,\d*)?\}|[*+?])
    | (?P<sign>[()|.])
    """,
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Chars = tuple[bool, tuple[tuple[str, str], ...]]
"""Whether the ranges are excluded, and the ranges, ends included."""
Symbol = Chars | str
"""A class of characters, or the name of a rule."""
Rules = dict[str, list[tuple[Symbol, ...]]]


class Grammar:
    """A grammar whose first symbol is `root`.

    Args:
        source: text in GBNF.

    Raises:
        ConfigurationError: the text is no GBNF, a rule is missing, or a rule begins with itself.

    Attributes:
        rules: alternatives of each rule, groups and repetitions written out as rules of their own.
        most_parses: the largest number of parses that were open at once in a match so far.
    """

    def __init__(self, source: str) -> None:
        self.rules = _Reader(source).rules
        self.most_parses = 0
        _check(self.rules)
        self._nodes: dict[tuple[tuple[Symbol, ...], int, int], int] = {}
        self._frames: list[tuple[tuple[Symbol, ...], int, int]] = []
        self._ready: dict[int, tuple[int, ...]] = {}
        self._moves: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}

    @classmethod
    def of_file(cls, path: Path) -> Grammar:
        """The grammar in a file."""
        return cls(path.read_text(encoding="utf-8"))

    def accepts(self, text: str) -> bool:
        """Whether the whole text follows the grammar."""
        return self.reached(text) == len(text) and _END in self._state

    def reached(self, text: str) -> int:
        """How many characters can stand at the beginning of a text that follows the grammar."""
        if len(self._frames) > _MOST_NODES:
            self._forget()
        states = {node for rule in self.rules["root"] for node in self._open(self._node(rule, 0, _END))}
        self._state = tuple(sorted(states))
        for at, character in enumerate(text):
            state = self._move(self._state, character)
            if not state:
                return at
            self._state = state
            self.most_parses = max(self.most_parses, len(state))
        return len(text)

    def _forget(self) -> None:
        self._nodes.clear()
        self._frames.clear()
        self._ready.clear()
        self._moves.clear()

    def _move(self, state: tuple[int, ...], character: str) -> tuple[int, ...]:
        moves = self._moves.setdefault(state, {})
        if character not in moves:
            found: set[int] = set()
            for node in state:
                if node == _END:
                    continue
                symbols, at, parent = self._frames[node]
                wanted = symbols[at]
                if not isinstance(wanted, str) and _matches(wanted, character):
                    found.update(self._open(self._node(symbols, at + 1, parent)))
            moves[character] = tuple(sorted(found))
        return moves[character]

    def _node(self, symbols: tuple[Symbol, ...], at: int, parent: int) -> int:
        """The stack with this position on top; a finished alternative leaves the stack below it."""
        if at == len(symbols):
            return parent
        key = (symbols, at, parent)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = len(self._frames)
            self._frames.append(key)
        return node

    def _open(self, node: int) -> tuple[int, ...]:
        """The stacks with a class of characters on top that a stack leads to."""
        if node == _END:
            return (_END,)
        known = self._ready.get(node)
        if known is not None:
            return known
        symbols, at, parent = self._frames[node]
        symbol = symbols[at]
        if not isinstance(symbol, str):
            found: tuple[int, ...] = (node,)
        else:
            after = self._node(symbols, at + 1, parent)
            every = {n for rule in self.rules[symbol] for n in self._open(self._node(rule, 0, after))}
            found = tuple(sorted(every))
        self._ready[node] = found
        return found


_END = -1
_MOST_NODES = 500_000
"""What is kept between texts; a node takes about 300 bytes."""


def _matches(chars: Chars, character: str) -> bool:
    excluded, ranges = chars
    return excluded != any(low <= character <= high for low, high in ranges)


class _Reader:
    """Reads GBNF into rules."""

    def __init__(self, source: str) -> None:
        self.rules: Rules = {}
        self.tokens = list(_tokens(source))
        self.at = 0
        while self.at < len(self.tokens):
            name = self._take("name")
            self._take("define")
            self.rules[name] = self._alternatives(name)

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ("end", "")

    def _take(self, kind: str) -> str:
        found, text = self._peek()
        if found != kind:
            raise ConfigurationError(f"the grammar has {text or 'its end'!r} where a {kind} is needed: mend it there")
        self.at += 1
        return text

    def _alternatives(self, name: str) -> list[tuple[Symbol, ...]]:
        found = [self._sequence(name)]
        while self._peek() == ("sign", "|"):
            self.at += 1
            found.append(self._sequence(name))
        return found

    def _sequence(self, name: str) -> tuple[Symbol, ...]:
        symbols: list[Symbol] = []
        while True:
            kind, text = self._peek()
            if kind in ("end", "define") or (kind == "sign" and text in "|)"):
                return tuple(symbols)
            if kind == "name" and self._peek(1)[0] == "define":
                return tuple(symbols)
            self.at += 1
            item = self._item(kind, text, name)
            if self._peek()[0] == "times":
                item = self._repeated(item, self._take("times"), name)
            symbols.extend(item)

    def _item(self, kind: str, text: str, name: str) -> tuple[Symbol, ...]:
        if kind == "name":
            return (text,)
        if kind == "text":
            return tuple((False, ((c, c),)) for c in _characters(text[1:-1]))
        if kind == "chars":
            return (_char_class(text[1:-1]),)
        if text == ".":
            return ((True, ()),)
        if text != "(":
            raise ConfigurationError(f"the grammar's rule {name} has {text!r} where nothing can be repeated: mend it")
        group = self._alternatives(name)
        if self._peek() != ("sign", ")"):
            raise ConfigurationError(f"the grammar's rule {name} opens a group that it does not close: add a )")
        self.at += 1
        return (self._rule(name, group),)

    def _rule(self, name: str, alternatives: list[tuple[Symbol, ...]]) -> str:
        made = f"{name.partition('/')[0]}/{len(self.rules) + self.at}"
        while made in self.rules:
            made += "'"
        self.rules[made] = alternatives
        return made

    def _repeated(self, item: tuple[Symbol, ...], times: str, name: str) -> tuple[Symbol, ...]:
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(times) or _bounds(times)
        rest: tuple[Symbol, ...] = ()
        if high is None:
            loop = self._rule(name, [])
            self.rules[loop] = [(*item, loop), ()]
            rest = (loop,)
        else:
            for _ in range(high - low):
                rest = (self._rule(name, [(*item, *rest), ()]),)
        return item * low + rest


def _bounds(times: str) -> tuple[int, int | None]:
    low, comma, high = times[1:-1].partition(",")
    return int(low), (int(high) if high else None) if comma else int(low)


def _tokens(source: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            line = source.count("\n", 0, at) + 1
            raise ConfigurationError(f"the grammar can't be read in line {line} at {source[at : at + 20]!r}: mend it")
        if match.lastgroup != "blank":
            found.append((str(match.lastgroup), match[0]))
        at = match.end()
    return found


def _characters(text: str) -> list[str]:
    found: list[str] = []
    for two, four, eight, escaped, plain in _CHARACTER.findall(text):
        code = two or four or eight
        found.append(chr(int(code, 16)) if code else _ESCAPES.get(escaped, escaped) or plain)
    return found


def _char_class(text: str) -> Chars:
    excluded = text.startswith("^")
    pieces = [m[0] for m in _CHARACTER.finditer(text[1:] if excluded else text)]
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(pieces):
        low = _characters(pieces[at])[0]
        if at + 2 < len(pieces) and pieces[at + 1] == "-":
            ranges.append((low, _characters(pieces[at + 2])[0]))
            at += 3
        else:
            ranges.append((low, low))
            at += 1
    return excluded, tuple(ranges)


def _check(rules: Rules) -> None:
    """Every rule that is named exists, and none begins with itself."""
    if "root" not in rules:
        raise ConfigurationError("the grammar has no rule root: name its first rule root")
    for name, alternatives in rules.items():
        missing = {s for rule in alternatives for s in rule if isinstance(s, str) and s not in rules}
        if missing:
            raise ConfigurationError(f"the grammar's rule {name} names {min(missing)}, which is not there: add it")
    empty: set[str] = set()
    while True:
        more = {n for n, rules_ in rules.items() if any(all(s in empty for s in rule) for rule in rules_)} - empty
        if not more:
            break
        empty |= more
    _check_left_recursion(rules, empty)


def _check_left_recursion(rules: Rules, empty: set[str]) -> None:
    begins: dict[str, set[str]] = {name: set() for name in rules}
    for name, alternatives in rules.items():
        for rule in alternatives:
            for symbol in rule:
                if isinstance(symbol, str):
                    begins[name].add(symbol)
                if symbol not in empty:
                    break
    done: set[str] = set()
    for start in rules:
        # Depth first with an explicit path: grammars from tries nest deeper than Python's stack.
        path: list[tuple[str, list[str]]] = [] if start in done else [(start, sorted(begins[start]))]
        on_path = {start}
        while path:
            name, following = path[-1]
            if not following:
                path.pop()
                on_path.discard(name)
                done.add(name)
                continue
            symbol = following.pop()
            if symbol in on_path:
                raise ConfigurationError(f"the grammar's rule {symbol} begins with itself: write it as a repetition")
            if symbol not in done:
                on_path.add(symbol)
                path.append((symbol, sorted(begins[symbol])))
