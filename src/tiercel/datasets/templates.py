"""What the requests of a workload have in common, and what is new in each.

A system prompt is usually one text with a few values put in (a date, a customer, a list). `Template` holds the constant
pieces; `match` gives the values. A student of the workload reads only what varies: those values and the conversation.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.datasets.alignment import aligned
from tiercel.types import Example, Message

__all__ = [
    "ANY_TOOLS",
    "RequestReader",
    "Template",
    "TemplateIndex",
    "WorkloadKey",
    "common_affixes",
    "signature_of",
    "system_text",
]

ANY_TOOLS = ("*",)
"""Tools of a workload whose requests offer ever other ones."""
SIMILAR = 0.7
"""Share of words that two system prompts must have in common to be one template with variables."""
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_MOST_EDITS = 1_000
"""Words by which two system prompts may differ and still be one template; the time to compare them grows with the
square of it."""
_KEPT_BAGS = 64
"""Prompts whose words are kept counted, so that a new one is soon told from those that it has little in common with."""


class Template(Struct, frozen=True, kw_only=True):
    """The constant pieces of a text; between each two of them stands a variable."""

    pieces: tuple[str, ...] = ("",)
    """One more than there are variables."""

    def match(self, text: str) -> tuple[str, ...] | None:
        """The values of the variables in `text`, or None when it does not follow the template."""
        if len(self.pieces) == 1:
            return () if text == self.pieces[0] else None
        # Each inner piece is taken where it first occurs, as a lazy pattern would, but in linear time.
        first, last = self.pieces[0], self.pieces[-1]
        end = len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last) or end < len(first):
            return None
        at, values = len(first), list[str]()
        for piece in self.pieces[1:-1]:
            found = text.find(piece, at, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(piece)
        return (*values, text[at:end])

    @property
    def shown(self) -> str:
        """The template for people: each variable as {…}."""
        return "{…}".join(self.pieces)

    def generalised(self, text: str) -> Template | None:
        """The template that this one and `text` share, or None when they have too little in common."""
        edits = _allowed_edits(_bag(self.pieces), _bag((text,)))
        if edits is None:
            return None
        mine = list[str | None](_TOKEN.findall(self.pieces[0]))
        for piece in self.pieces[1:]:
            mine += [None, *_TOKEN.findall(piece)]
        theirs = _TOKEN.findall(text)
        pairs = aligned(mine, theirs, edits)
        return Template(pieces=tuple(_pieces(pairs, mine, len(theirs)))) if pairs else None


@lru_cache(_KEPT_BAGS)
def _bag(pieces: tuple[str, ...]) -> Counter[str]:
    """How often each word occurs in the pieces."""
    return Counter(token for piece in pieces for token in _TOKEN.findall(piece) if not token.isspace())


def _allowed_edits(ours: Counter[str], others: Counter[str]) -> int | None:
    """Words by which two texts may differ and still be one template; None where they are known to differ by more."""
    fewest = SIMILAR * max(ours.total(), others.total())
    if not fewest or (ours & others).total() < fewest:
        return None
    return min(_MOST_EDITS, int(ours.total() + others.total() - 2 * fewest))


def _pieces(pairs: Iterable[tuple[int, int]], mine: Sequence[str | None], other_length: int) -> list[str]:
    """Constant pieces from the places of shared tokens; a variable stands wherever one side has something between."""
    pieces, a, b = [[""]], 0, 0
    for i, j in (*pairs, (len(mine), other_length)):
        if i > a or j > b:
            pieces.append([])
        if i < len(mine):
            pieces[-1].append(mine[i] or "")
        a, b = i + 1, j + 1
    return ["".join(piece) for piece in pieces]


def system_text(messages: Sequence[Message]) -> str:
    """The leading system and developer messages as one text; empty where there are none."""
    texts = list[str]()
    for message in messages:
        if message.role not in ("system", "developer"):
            break
        texts.append(message.text)
    return "\n\n".join(texts)


def signature_of(tools: list[dict[str, Any]] | None, response_format: dict[str, Any] | None) -> str:
    """A short text that is equal for requests with the same tools (in any order) and the same response format."""
    names = sorted(str((t.get("function") or t.get("custom") or t).get("name", "?")) for t in tools or ())
    plain = not response_format or response_format == {"type": "text"}
    shape = b"" if plain else msgspec.json.encode(response_format, order="deterministic")
    shape_hash = hashlib.blake2b(shape, digest_size=6).hexdigest() if shape else ""
    return ",".join(names) + "|" + shape_hash


class WorkloadKey(Struct, frozen=True, kw_only=True):
    """What makes traces one workload: the template of the system prompt, the tools, the response format."""

    template: Template
    tools: tuple[str, ...] = ()
    """Names of the tools that are offered, sorted."""
    response_format: str = ""
    """Hash of the response format; empty where there is none."""

    @property
    def signature(self) -> str:
        """What `signature_of` says of a request of this workload."""
        return ",".join(self.tools) + "|" + self.response_format

    def covers(self, example: Example) -> bool:
        """Whether a request belongs to the workload."""
        tools, _, shape = signature_of(example.tools, example.response_format).rpartition("|")
        if shape != self.response_format or self.tools not in (ANY_TOOLS, tuple(n for n in tools.split(",") if n)):
            return False
        return self.template.match(system_text(example.messages)) is not None

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that name the workload wherever it is met."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=6).hexdigest()


class RequestReader(Struct, frozen=True, kw_only=True):
    """Reads from a request of one workload what varies from request to request."""

    key: WorkloadKey
    prefix: str = ""
    """Text with which the users' messages begin, set aside where it stands."""
    suffix: str = ""

    def read(self, messages: Sequence[Message]) -> str | None:
        """What a student reads: values of the template's variables, then the conversation.

        None when the request does not belong to the workload, or holds an image or other parts that are not text.
        """
        if any(isinstance(m.content, list) and not all("text" in part for part in m.content) for m in messages):
            return None
        values = self.key.template.match(system_text(messages))
        if values is None:
            return None
        rest = list(messages)
        while rest and rest[0].role in ("system", "developer"):
            rest.pop(0)
        if len(rest) == 1 and rest[0].role == "user":
            texts = [self.bare(rest[0].text)]
        else:
            texts = [f"{m.role}: {self.bare(m.text) if m.role == 'user' else _said(m)}" for m in rest]
        return "\n".join([*(v for v in values if v.strip()), *texts])

    def bare(self, text: str) -> str:
        """A user's message without what all of the workload begin and end with."""
        if self.prefix and text.startswith(self.prefix):
            text = text[len(self.prefix) :]
        if self.suffix and text.endswith(self.suffix):
            text = text[: -len(self.suffix)]
        return text

    def dressed(self, bare: str, like: str) -> str:
        """`bare` within the beginning and end that the user's message `like` has."""
        begin = self.prefix if self.prefix and like.startswith(self.prefix) else ""
        end = self.suffix if self.suffix and like.endswith(self.suffix) else ""
        return begin + bare + end


def _said(message: Message) -> str:
    """Text of an earlier turn, with the tools that it called."""
    calls = [f"{c.function.name} {c.function.arguments}" for c in message.tool_calls or ()]
    return "\n".join([*([message.text] if message.text else []), *calls])


class TemplateIndex:
    """Assigns requests to workloads as they come; templates widen when a new prompt differs in some values only.

    Requests with the same tools and response format are compared with each other; those that call one of very many
    tool sets (a new one each request) are one workload, "any tools".
    """

    def __init__(self, most_tool_sets: int = 200) -> None:
        self._by_signature: dict[str, list[int]] = {}
        self._templates: list[Template] = []
        self._signatures: list[str] = []
        self._known: dict[tuple[str, str], int] = {}
        self._most_tool_sets = most_tool_sets

    def add(self, example: Example) -> int:
        """The number of the workload that `example` belongs to; numbers count up from 0."""
        signature = signature_of(example.tools, example.response_format)
        if signature not in self._by_signature and len(self._by_signature) >= self._most_tool_sets:
            signature = ANY_TOOLS[0] + "|" + signature.rpartition("|")[2]
        text = system_text(example.messages)
        key = (signature, text if len(text) < 200 else hashlib.blake2b(text.encode("utf-8", "replace")).hexdigest())
        number = self._known.get(key)
        if number is None:
            number = self._find(signature, text)
            if len(self._known) < 200_000:
                self._known[key] = number
        return number

    def _find(self, signature: str, text: str) -> int:
        numbers = self._by_signature.setdefault(signature, [])
        for number in numbers:
            if self._templates[number].match(text) is not None:
                return number
        if text:
            for number in numbers:
                wider = self._templates[number].generalised(text)
                if wider is not None and wider.match(text) is not None:
                    self._templates[number] = wider
                    return number
        self._templates.append(Template(pieces=(text,)))
        self._signatures.append(signature)
        numbers.append(len(self._templates) - 1)
        return numbers[-1]

    @property
    def keys(self) -> list[WorkloadKey]:
        """The workloads by number."""
        result: list[WorkloadKey] = []
        for template, signature in zip(self._templates, self._signatures, strict=True):
            names, _, shape = signature.rpartition("|")
            tools = tuple(n for n in names.split(",") if n)
            result.append(WorkloadKey(template=template, tools=tools, response_format=shape))
        return result


def common_affixes(texts: Sequence[str], least: int = 12) -> tuple[str, str]:
    """The beginning and the end that at least 96 % of `texts` share, each cut back to a blank.

    Args:
        texts: what users sent.
        least: characters below which a shared affix means nothing and is returned empty.
    """
    if len(texts) < 20:
        return "", ""

    def shared(ordered: list[str]) -> str:
        margin = len(ordered) // 50
        first, last = ordered[margin], ordered[-1 - margin]
        length = 0
        for a, b in zip(first, last, strict=False):
            if a != b:
                break
            length += 1
        return first[:length]

    prefix = shared(sorted(texts))
    prefix = prefix[: max(prefix.rfind(" "), prefix.rfind("\n")) + 1]
    suffix = shared(sorted(t[::-1] for t in texts))[::-1]
    starts = [i for i in (suffix.find(" "), suffix.find("\n")) if i >= 0]
    suffix = suffix[min(starts) :] if starts else ""
    return prefix if len(prefix) >= least else "", suffix if len(suffix) >= least else ""
