"""How structured answers are made of their requests: which fields copy words, which choose from a few values.

An `AnswerForm` is learned from requests and their JSON answers (or function calls). `compile` turns an answer into what
a tagger learns: spans of the request for the fields that copy, a class for the fields that choose. `render` puts the
answer together again. What `render` does not give back exactly is not extractive, and the tagger does not claim it.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from msgspec import Struct

from tiercel.students.normalisers import NORMALISERS, NOTHING, normalise
from tiercel.types import Answer, FunctionCall, ToolCall

__all__ = ["AnswerForm", "Compiled", "Field", "Layout", "Span", "learn_form"]

Path = tuple[str, ...]
Words = Sequence[tuple[int, int]]
"""Where each word of a request begins and ends, in characters."""

MOST_VALUES = 300
"""Values that a field may choose from."""
LONGEST_NORMALISED = 6
"""Words of a span whose value is not simply its text."""


class Field(Struct, frozen=True, kw_only=True):
    """A leaf of the answers."""

    path: Path
    values: tuple[str, ...] = ()
    """JSON texts that it chooses from where it does not copy; value i has class i + 1, class 0 is none of them."""
    normalisers: tuple[str, ...] = ()
    """Names in the order in which they are tried on a span; empty for a field that never copies."""
    listed: bool = False
    """Whether the value is a list of what the spans say."""
    most: int | None = None
    """Values at the most of a field that is no list: `name`, `name_2` ...; None where that is not known."""
    rank: float = 0.0
    """Mean place among the fields of an answer."""


class Layout(Struct, frozen=True, kw_only=True):
    """How the frontier writes JSON."""

    between: str = ", "
    after_key: str = ": "
    indent: int | None = None
    ascii: bool = True


class Span(Struct, frozen=True):
    """Words of a request that fill a field."""

    field: int
    first: int
    """First word."""
    last: int
    """Last word."""


class Compiled(Struct, frozen=True):
    """An answer as a tagger learns it."""

    spans: tuple[Span, ...]
    classes: tuple[int, ...]
    """One for each field; 0 for a field that has no value, or copies."""


class AnswerForm(Struct, frozen=True, kw_only=True, dict=True):
    """What the answers of a workload have in common."""

    calls: bool
    """Function calls instead of JSON text."""
    fields: tuple[Field, ...]
    objects: tuple[Path, ...] = ()
    """Objects that are there even when they are empty."""
    by_text: tuple[Path, ...] = ()
    """Objects whose keys follow the order of the words in the request."""
    layout: Layout = Layout()

    def compile(self, text: str, answer: Answer, words: Words) -> Compiled | None:
        """Spans and classes that give `answer` back exactly; None when none do."""
        tree = _tree(answer, self.calls)
        if tree is None:
            return None
        numbers = {field.path: i for i, field in enumerate(self.fields)}
        spans, classes, seeker = list[Span](), [0] * len(self.fields), _Seeker(text, words)
        for path, items, _ in _grouped(tree, set(numbers)):
            number = numbers.get(path)
            if number is None:
                return None
            field = self.fields[number]
            found = [seeker.find(item, field.normalisers) for item in items] if field.normalisers and items else [None]
            if all(f is not None for f in found):
                spans += [Span(number, f[0], f[1]) for f in found if f is not None]
                continue
            value = _json(items if _is_list(tree, path) else items[0])
            if value not in field.values:
                return None
            classes[number] = field.values.index(value) + 1
        compiled = Compiled(tuple(spans), tuple(classes))
        return compiled if _tree(self.render(text, compiled, words), self.calls) == tree else None

    def render(self, text: str, compiled: Compiled, words: Words) -> Answer:
        """The answer that spans and classes stand for."""
        leaves = list[tuple[tuple[float, ...], Path, Any]]()
        copied = defaultdict[int, list[tuple[int, Any]]](list)
        for span in sorted(compiled.spans, key=lambda s: s.first):
            copied[span.field].append((span.first, self._value(text, span, words)))
        ranks = self._ranks
        for number, field in enumerate(self.fields):
            place = ranks[field.path]
            if compiled.classes[number]:
                leaves.append((place, field.path, json.loads(field.values[compiled.classes[number] - 1])))
                continue
            items = copied.get(number, [])
            if field.listed and items:
                leaves.append((place, field.path, [value for _, value in items]))
                continue
            # A second span of a field that never had two would make a key that the frontier never wrote.
            for i, (first, value) in enumerate(items[: field.most]):
                path = field.path if i == 0 else (*field.path[:-1], f"{field.path[-1]}_{i + 1}")
                moved = (*place[:-1], 1e6 + first) if field.path[:-1] in self.by_text else place
                leaves.append((moved, path, value))
        tree: dict[str, Any] = {}
        for path in self.objects:
            _put(tree, path, None)
        for _, path, value in sorted(leaves, key=lambda leaf: leaf[0]):
            _put(tree, path, (value,))
        return self._answer(_in_order(tree, self.key_ranks))

    def _value(self, text: str, span: Span, words: Words) -> Any:
        said = text[words[span.first][0] : words[span.last][1]]
        for name in self.fields[span.field].normalisers:
            value = normalise(name, said)
            if value is not NOTHING:
                return value
        return said

    @cached_property
    def _ranks(self) -> dict[Path, tuple[float, ...]]:
        keys = self.key_ranks
        return {f.path: tuple(keys[f.path[: i + 1]] for i in range(len(f.path))) for f in self.fields}

    @cached_property
    def key_ranks(self) -> dict[Path, float]:
        """Place of each key, and of each object: that of its first field."""
        ranks: dict[Path, float] = {}
        for field in self.fields:
            for i in range(len(field.path)):
                prefix = field.path[: i + 1]
                ranks[prefix] = min(ranks.get(prefix, field.rank), field.rank)
        return ranks

    def _answer(self, tree: Any) -> Answer:
        if self.calls:
            arguments = self._text(tree.get("arguments", {}))
            return Answer(tool_calls=(ToolCall(function=FunctionCall(name=str(tree["name"]), arguments=arguments)),))
        return Answer(content=self._text(tree))

    def _text(self, tree: Any) -> str:
        layout = self.layout
        separators = (layout.between, layout.after_key)
        return json.dumps(tree, indent=layout.indent, separators=separators, ensure_ascii=layout.ascii)


class _Seeker:
    """Finds where in a request the values of an answer stand, each at a place of its own."""

    def __init__(self, text: str, words: Words) -> None:
        self.text, self.words = text, words
        self.low = text.lower() if len(text.lower()) == len(text) else text
        self.starts = {start: i for i, (start, _) in enumerate(words)}
        self.ends = {end: i for i, (_, end) in enumerate(words)}
        self.used: set[int] = set()
        self.at = -1

    def find(self, value: Any, normalisers: Sequence[str]) -> tuple[int, int] | None:
        """First and last word of the place that a value was read from: after the last one found, else the first."""
        places = list(self._places(value, normalisers))
        free = [(a, b) for a, b in places if self.used.isdisjoint(range(a, b + 1))]
        if not free:
            return None
        chosen = next((p for p in free if p[0] > self.at), free[0])
        self.used.update(range(chosen[0], chosen[1] + 1))
        self.at = chosen[1]
        return chosen

    def holds(self, value: Any, normaliser: str) -> bool:
        """Whether some words of the request give `value` by one normaliser."""
        return next(self._places(value, (normaliser,)), None) is not None

    def _places(self, value: Any, normalisers: Sequence[str]) -> Iterator[tuple[int, int]]:
        if isinstance(value, str) and value:
            low = value.lower()
            for needle in dict.fromkeys((low, low.replace("_", " "))):
                at = self.low.find(needle)
                while at >= 0:
                    first, last = self.starts.get(at), self.ends.get(at + len(needle))
                    if first is not None and last is not None and self._gives(first, last, value, normalisers):
                        yield first, last
                    at = self.low.find(needle, at + 1)
        if not _might_be_normalised(value):
            return
        for first in range(len(self.words)):
            for last in range(first, min(len(self.words), first + LONGEST_NORMALISED)):
                if self._gives(first, last, value, normalisers):
                    yield first, last

    def _gives(self, first: int, last: int, value: Any, normalisers: Sequence[str]) -> bool:
        said = self.text[self.words[first][0] : self.words[last][1]]
        for name in normalisers:
            made = normalise(name, said)
            if made is not NOTHING:
                return type(made) is type(value) and made == value
        return False


def _might_be_normalised(value: Any) -> bool:
    """Whether a value that is not in the request word by word may still come from its words."""
    return not isinstance(value, str) or (value[:1].isdigit() and len(value) <= 12)


def learn_form(texts: Sequence[str], answers: Sequence[Answer], words: Sequence[Words], *, calls: bool) -> AnswerForm:
    """The form of a workload's answers.

    Args:
        texts: n requests.
        answers: to them; those that hold no object are passed over.
        words: of each request.
        calls: whether the answers are function calls.
    """
    trees = [(i, t) for i, t in ((i, _tree(a, calls)) for i, a in enumerate(answers)) if t is not None]
    plain = {path for _, tree in trees for path, _ in _leaves(tree)}
    normalisers = _normalisers(trees, plain, texts, words)
    present, missed, ranks = Counter[Path](), defaultdict[Path, Counter[str]](Counter), defaultdict[Path, float](float)
    listed, empty, most = Counter[Path](), Counter[Path](), Counter[Path]()
    for i, tree in trees:
        seeker = _Seeker(texts[i], words[i])
        for rank, (path, items, is_list) in enumerate(_grouped(tree, plain)):
            present[path] += 1
            ranks[path] += rank
            listed[path] += is_list
            most[path] = max(most[path], 1 if is_list else len(items))
            names = normalisers.get(path, ())
            if not (names and items and all(seeker.find(item, names) is not None for item in items)):
                missed[path][_json(items if is_list else items[0])] += 1
        empty.update(path for path, value in _objects(tree) if path and value is not None)
    fields = list[Field]()
    for path in sorted(present, key=lambda p: (ranks[p] / present[p], p)):
        copies = normalisers.get(path, ())
        values = tuple(v for v, count in missed[path].most_common(MOST_VALUES) if count > 1 or len(missed[path]) == 1)
        if copies or values:
            rank = ranks[path] / present[path]
            is_list = listed[path] > present[path] / 2
            field = Field(path=path, values=values, normalisers=copies, listed=is_list, most=most[path], rank=rank)
            fields.append(field)
    objects = tuple(sorted(path for path, count in empty.items() if count > 0.99 * len(trees)))
    form = AnswerForm(calls=calls, fields=tuple(fields), objects=objects, layout=_layout(answers))
    return AnswerForm(
        calls=calls,
        fields=form.fields,
        objects=objects,
        layout=form.layout,
        by_text=_by_text(form, trees, texts, words),
    )


def _normalisers(
    trees: Sequence[tuple[int, Any]], plain: set[Path], texts: Sequence[str], words: Sequence[Words]
) -> dict[Path, tuple[str, ...]]:
    """For each path that copies in a fair share of its answers: the normalisers that explain them, best first."""
    tried, explained = Counter[Path](), defaultdict[Path, Counter[str]](Counter)
    seen = defaultdict[Path, list[tuple[Any, set[str]]]](list)
    for i, tree in trees[:: max(1, len(trees) // 3_000)]:
        seeker = _Seeker(texts[i], words[i])
        for path, items, _ in _grouped(tree, plain):
            tried[path] += 1
            for item in items[:1]:
                able = {name for name in NORMALISERS if seeker.holds(item, name)}
                explained[path].update(able)
                seen[path].append((item, able))
    chosen: dict[Path, tuple[str, ...]] = {}
    for path, counts in explained.items():
        order = sorted(counts, key=lambda name: (-counts[name], list(NORMALISERS).index(name)))
        if not order or counts[order[0]] < max(2, 0.3 * tried[path]):
            continue
        # A partial normaliser goes before a total one where it mends more values than it would spoil.
        best = order[0]
        mended = Counter(name for _, able in seen[path] if best not in able for name in able & _PARTIAL)
        spoiled = Counter(name for item, able in seen[path] if best in able for name in _spoiling(item) - able)
        before = [name for name, count in mended.most_common() if count > spoiled[name]]
        chosen[path] = (*before, best)
    return chosen


def _spoiling(item: Any) -> set[str]:
    """Partial normalisers that would make something else of the text of `item`."""
    if not isinstance(item, str):
        return set()
    return {name for name in _PARTIAL if normalise(name, item) not in (NOTHING, item)}


_PARTIAL = frozenset({"number", "number_text", "share", "iso_date", "clock", "truth"})


def _by_text(
    form: AnswerForm, trees: Sequence[tuple[int, Any]], texts: Sequence[str], words: Sequence[Words]
) -> tuple[Path, ...]:
    """Objects in which keys stand in the order of their words more often than in their own mean order."""
    votes = Counter[Path]()
    fixed = form.key_ranks
    normalisers = {f.path: f.normalisers for f in form.fields}
    for i, tree in trees[:: max(1, len(trees) // 1_000)]:
        seeker = _Seeker(texts[i], words[i])
        starts = defaultdict[Path, list[tuple[int, float]]](list)
        for path, items, _ in _grouped(tree, set(normalisers)):
            names = normalisers.get(path, ())
            found = seeker.find(items[0], names) if names and items else None
            if found is not None:
                starts[path[:-1]].append((found[0], fixed.get(path, 0.0)))
        for parent, places in starts.items():
            by_text = all(a[0] <= b[0] for a, b in pairwise(places))
            by_rank = all(a[1] <= b[1] for a, b in pairwise(places))
            votes[parent] += by_text - by_rank
    return tuple(sorted(parent for parent, count in votes.items() if count > 0))


def _layout(answers: Sequence[Answer]) -> Layout:
    """The layout that writes most of the answers as the frontier wrote them."""
    texts = [t for a in answers[:400] for t in ([c.function.arguments for c in a.tool_calls] or [a.text])]
    best, most = Layout(), -1
    for indent, between, after in ((None, ", ", ": "), (None, ",", ":"), (2, ",", ": "), (4, ",", ": ")):
        for ascii_only in (True, False):
            layout = Layout(between=between, after_key=after, indent=indent, ascii=ascii_only)
            count = 0
            for text in texts:
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                made = json.dumps(value, indent=indent, separators=(between, after), ensure_ascii=ascii_only)
                count += made == text
            if count > most:
                best, most = layout, count
    return best


def _tree(answer: Answer, calls: bool) -> dict[str, Any] | None:
    """The object that an answer holds; None when it holds none, or several calls."""
    try:
        if calls:
            if len(answer.tool_calls) != 1:
                return None
            call = answer.tool_calls[0].function
            tree = {"name": call.name, "arguments": json.loads(call.arguments or "{}")}
            return tree if isinstance(tree["arguments"], dict) else None
        fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", answer.text, re.DOTALL)
        tree = json.loads(fenced[1] if fenced else answer.text)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) and tree else None


def _leaves(tree: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        elif value != {}:
            yield (*above, key), value


def _objects(tree: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield above, tree
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _objects(value, (*above, key))


def _grouped(tree: dict[str, Any], known: Iterable[Path]) -> Iterator[tuple[Path, list[Any], bool]]:
    """Path, values and whether they stand in a list; `name_2`, `name_3` are further values of `name`."""
    found: dict[Path, list[Any]] = {}
    lists = set[Path]()
    known = known if isinstance(known, set) else set(known)
    for path, value in _leaves(tree):
        base = re.fullmatch(r"(.+)_(\d+)", path[-1])
        first = (*path[:-1], base[1]) if base else path
        if base and int(base[2]) == len(found.get(first, [])) + 1 and first in found and first not in lists:
            found[first].append(value)
        elif isinstance(value, list) and all(not isinstance(v, (list, dict)) for v in value):
            lists.add(path)
            found[path] = list(value)
        else:
            found[path] = [value]
    for path, items in found.items():
        yield path, items, path in lists


def _is_list(tree: Any, path: Path) -> bool:
    for key in path:
        tree = tree[key]
    return isinstance(tree, list)


def _put(tree: dict[str, Any], path: Path, value: tuple[Any] | None) -> None:
    """Set the value at `path`; None only makes the objects on the way."""
    for key in path[: -1 if value else None]:
        tree = tree.setdefault(key, {})
    if value:
        tree[path[-1]] = value[0]


def _in_order(tree: dict[str, Any], ranks: dict[Path, float], above: Path = ()) -> dict[str, Any]:
    """The same object with its own objects in their usual places; leaves keep the order in which they were put."""
    nested = {k for k, v in tree.items() if isinstance(v, dict)}
    last = float(len(ranks))
    order = sorted(tree, key=lambda k: ranks.get((*above, k), last)) if nested and not above else list(tree)
    return {k: _in_order(tree[k], ranks, (*above, k)) if k in nested else tree[k] for k in order}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
