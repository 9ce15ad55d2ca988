"""Personal data out of a request and back into its answer.

Each distinct value gets a placeholder, `<EMAIL_1>`, that is the same wherever the value stands in one request, so that
an answer keeps its sense. `Session` holds which placeholder stands for what, for one request, in memory, and shows it
nowhere. Only the exact placeholder is put back: a name without brackets or in small letters, such as a column
`phone_1`, may be the model's own word, and a placeholder that stays visible does no harm.

A text that has the like of a placeholder in it before keeps it: its name is not given out again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from tiercel.datasets.personal_data import (
    DEFAULT_KINDS,
    Recogniser,
    Span,
    find,
    load_recogniser,
    resolve,
    resolve_kinds,
)

__all__ = ["Mode", "Redactor", "Session", "StreamRestorer", "holds_placeholder"]

_NAME = re.compile(r"(?<![A-Z0-9_])[A-Z][A-Z0-9_]*_\d+")
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]*_\d+>")
# In JSON an angle bracket may be escaped, as some servers write it; two backslashes are one and escape nothing.
_IN_JSON = re.compile(r"\\\\|(?:<|\\u003[cC])(?P<name>[A-Z][A-Z0-9_]*_\d+)(?:>|\\u003[eE])")
_OPENING_IN_JSON = re.compile(r"\\\\|(?P<opening><|\\u003[cC]|\\(?:u0{0,2}|u003)?$)")
_MOST_ROUNDS = 8
"""Times that a text is searched anew: what was taken out may have stood between a word and a number."""
_WORD = re.compile(r"[^\W\u0530-\U0010ffff]+|[^\W\u0000-\u052f]+")
"""A word, or the part of one in a script without blanks: 电话13800138000 are two."""


def holds_placeholder(text: str) -> bool:
    """Whether something may have been taken out of a text: the like of a placeholder stands in it."""
    return _PLACEHOLDER.search(text) is not None


class Mode(StrEnum):
    """What becomes of the values that were taken out."""

    REVERSIBLE = "reversible"
    """They are kept for as long as the request lives, and put back into its answer."""
    ONE_WAY = "one-way"
    """They are forgotten: for what is stored."""


class Redactor:
    """What is taken out of texts.

    Args:
        kinds: names of kinds and groups (`personal_data.KINDS`, `GROUPS`); None for `DEFAULT_KINDS` and all that the
            recognisers find.
        recognisers: for what patterns can't find, such as names; objects, or "module:Class".
        mode: whether values can be put back.

    Raises:
        ConfigurationError: a kind is unknown or a recogniser can't be loaded.
    """

    def __init__(
        self,
        kinds: Iterable[str] | None = None,
        recognisers: Sequence[Recogniser | str] = (),
        mode: Mode = Mode.REVERSIBLE,
    ) -> None:
        self.recognisers = tuple(load_recogniser(r) if isinstance(r, str) else r for r in recognisers)
        if kinds is None:
            kinds = {*DEFAULT_KINDS}.union(*(r.kinds for r in self.recognisers))
        self.kinds = resolve_kinds(kinds, self.recognisers)
        self.mode = Mode(mode)

    def session(self) -> Session:
        """A session for one request."""
        return Session(self)


class Session:
    """The placeholders of one request. It shows kinds and counts; the values are in no text that it makes of itself.

    Attributes:
        counts: distinct values found, by kind.
        unread_parts: images, sound and files that went by unread.
    """

    __slots__ = (
        "_known",
        "_numbers",
        "_redactor",
        "_reserved",
        "_to_placeholder",
        "_to_value",
        "counts",
        "unread_parts",
    )

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._to_placeholder: dict[tuple[str, str], str] = {}
        self._to_value: dict[str, str] = {}
        self._reserved = set[str]()
        self._numbers = Counter[str]()  # the last number given out, of each kind
        self._known = _KnownValues()
        self.counts: Counter[str] = Counter()
        self.unread_parts = 0

    def __repr__(self) -> str:
        found = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.counts.items()))
        return f"<Session {found or 'nothing found'}, unread parts: {self.unread_parts}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a session of redaction holds personal data and is not pickled")

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Those that were given out, in order."""
        return tuple(self._to_value)

    def reserve(self, text: str) -> None:
        """Keep what looks like a placeholder in a text from being given out; for all texts before one is redacted."""
        if "_" in text:
            self._reserved.update(_NAME.findall(text))

    def learn(self, text: str, context: str = "") -> list[Span]:
        """Give placeholders to what is found in a text, so that it is known in all others, too; and say where it is."""
        self.reserve(text)
        found = self._spans(text, context, self._redactor.recognisers)
        for span in found:
            self._placeholder(span.kind, text[span.start : span.end])
        return found

    def redact(self, text: str, context: str = "", learnt: list[Span] | None = None) -> str:
        """The text with a placeholder for each value, and for each that another text of the session held.

        Args:
            text: any text; what looks like a placeholder stays.
            context: words that stand before the text where it comes from, such as the key of a field.
            learnt: what `learn` said of the same text and context, which then is not searched again.
        """
        found = self.learn(text, context) if learnt is None else learnt
        for _ in range(_MOST_ROUNDS):
            spans = resolve([*found, *_beside(self._known.find(text), text)])
            if not spans:
                break
            pieces, at = list[str](), 0
            for span in spans:
                pieces += text[at : span.start], self._placeholder(span.kind, text[span.start : span.end])
                at = span.end
            text = "".join(pieces) + text[at:]
            found = self._spans(text, context, ())
        return text

    def restore(self, text: str) -> str:
        """The text with the values in place of their placeholders."""
        if not self._to_value or "<" not in text:
            return text
        return _PLACEHOLDER.sub(lambda m: self._to_value.get(m.group(), m.group()), text)

    def restore_json(self, text: str) -> str:
        """JSON text with the values in place of their placeholders, written as JSON strings are."""
        if not self._to_value:
            return text

        def written(m: re.Match[str]) -> str:
            value = self._to_value.get(f"<{m['name']}>")
            return m.group() if value is None else _in_json(value)

        return _IN_JSON.sub(written, text)

    def forget(self) -> None:
        """Throw the values away: nothing can be put back from here on."""
        self._to_placeholder.clear()
        self._to_value.clear()
        self._known = _KnownValues()

    def __contains__(self, placeholder: str) -> bool:
        return placeholder in self._to_value

    def _spans(self, text: str, context: str, recognisers: Sequence[Recogniser]) -> list[Span]:
        """What is found in a text, none of it in a placeholder."""
        found = find(f"{context}: {text}" if context else text, self._redactor.kinds, recognisers)
        if context:
            before = len(context) + 2
            found = [
                Span(start=max(0, s.start - before), end=s.end - before, kind=s.kind, score=s.score)
                for s in found
                if s.end > before
            ]
        return _beside(found, text)

    def _placeholder(self, kind: str, value: str) -> str:
        placeholder = self._to_placeholder.get((kind, value))
        if placeholder is None:
            number = self._numbers[kind] + 1
            while (name := f"{kind.upper()}_{number}") in self._reserved:
                number += 1
            self._numbers[kind] = number
            self.counts[kind] += 1
            placeholder = f"<{name}>"
            self._to_placeholder[kind, value] = placeholder
            self._to_value[placeholder] = value
            self._known.add(kind, value)
        return placeholder


def _in_json(value: str) -> str:
    return msgspec.json.encode(value)[1:-1].decode()


def _beside(spans: list[Span], text: str) -> list[Span]:
    """The spans, less what of them is a placeholder; a piece without a letter or digit is nothing to hide."""
    if not spans or "<" not in text:
        return spans
    taken = [m.span() for m in _PLACEHOLDER.finditer(text)]
    if not taken:
        return spans
    pieces, i = list[Span](), 0
    for span in sorted(spans):
        while i < len(taken) and taken[i][1] <= span.start:
            i += 1
        at, j = span.start, i
        while j < len(taken) and taken[j][0] < span.end:
            if at < taken[j][0]:
                pieces.append(msgspec.structs.replace(span, start=at, end=taken[j][0]))
            at, j = max(at, taken[j][1]), j + 1
        if at < span.end:
            pieces.append(msgspec.structs.replace(span, start=at))
    return [p for p in pieces if any(c.isalnum() for c in text[p.start : p.end])]


class _KnownValues:
    """Values of a session, to be found again where nothing near says what they are.

    Values are kept by their first word and their length, so that a text is read once whatever their number.
    """

    def __init__(self) -> None:
        self._by_word: dict[str, dict[tuple[int, int], dict[str, str]]] = {}

    def add(self, kind: str, value: str) -> None:
        if first := _WORD.search(value):
            places = self._by_word.setdefault(first.group(), {})
            places.setdefault((first.start(), len(value)), {}).setdefault(value, kind)

    def find(self, text: str) -> list[Span]:
        """Where the values stand, as whole words; they may overlap."""
        found = list[Span]()
        if not self._by_word:
            return found
        for word in _WORD.finditer(text):
            for (before, length), values in self._by_word.get(word.group(), {}).items():
                start = word.start() - before
                end = start + length
                if start < 0 or (kind := values.get(text[start:end])) is None:
                    continue
                if not (_joins(text, start) or _joins(text, end)):
                    found.append(Span(start=start, end=end, kind=kind))
        return found


def _joins(text: str, at: int) -> bool:
    """Whether the characters on both sides of a place belong to one word."""
    return 0 < at < len(text) and (m := _WORD.match(text, at - 1)) is not None and m.end() > at


_OPEN, _CLOSE = ("<", "\\u003c", "\\u003C"), (">", "\\u003e", "\\u003E")


class StreamRestorer:
    """Puts values back into a text that comes in pieces.

    No more is held back than what may be the beginning of a placeholder that was given out.

    Args:
        session: of the request that the stream answers.
        json: whether the text is that of JSON, as the arguments of a tool call are.
    """

    __slots__ = ("_beginnings", "_held", "_json", "_longest", "_session")

    def __init__(self, session: Session, *, json: bool = False) -> None:
        self._session = session
        self._json = json
        self._held = ""
        forms = list(session.placeholders)
        if json:
            forms = [form.replace("<", o).replace(">", c) for form in forms for o in _OPEN for c in _CLOSE]
        self._beginnings = {form[:i] for form in forms for i in range(1, len(form))}
        self._longest = max(map(len, forms), default=0)

    def __repr__(self) -> str:
        return f"<StreamRestorer, {len(self._held)} characters held>"

    def feed(self, delta: str) -> str:
        """What can be passed on now that `delta` came."""
        text = self._held + delta
        if not self._beginnings:
            return text
        cut = self._cut(text)
        self._held = text[cut:]
        return self._session.restore_json(text[:cut]) if self._json else self._session.restore(text[:cut])

    def close(self) -> str:
        """What is still held, at the end of the stream: the beginning of a placeholder that never ended."""
        held, self._held = self._held, ""
        return held

    def _cut(self, text: str) -> int:
        """Where the beginning of a placeholder starts that the text ends with; its length where there is none."""
        if not self._json:
            # A placeholder has one opening bracket, its first character.
            last = text.rfind("<")
            return last if last >= 0 and text[last:] in self._beginnings else len(text)
        for m in _OPENING_IN_JSON.finditer(text):
            start = m.start()
            if m["opening"] and len(text) - start <= self._longest and text[start:] in self._beginnings:
                return start
        return len(text)
