"""What the requests of a workload have in common, and what is new in each.

A system prompt is usually one text with a few values put in (a date, a customer, a list). `Template` holds the constant
pieces; `match` gives the values. A student of the workload reads only what varies: those values and the conversation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

import msgspec
from msgspec import Struct

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
"""Tools of a workload whose requests offer ever new ones."""
SIMILAR = 0.7
"""Share of tokens that two system prompts must have in common to be one template with variables."""
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_LONGEST = 4_000
"""Tokens of a system prompt that are compared; a longer one is only ever equal or not."""


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
        mine: list[str | None] = []
        for i, piece in enumerate(self.pieces):
            mine += [None] * (i > 0)
            mine += _TOKEN.findall(piece)
        theirs = _TOKEN.findall(text)
        if max(len(mine), len(theirs)) > _LONGEST:
            return None
        matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
        blocks = matcher.get_matching_blocks()
        words = sum(1 for b in blocks for t in mine[b.a : b.a + b.size] if t and not t.isspace())
        longest = max(sum(1 for t in side if t and not t.isspace()) for side in (mine, theirs))
        if not longest or words / longest < SIMILAR:
            return None
        return Template(pieces=tuple(_pieces(blocks, mine, len(theirs))))


def _pieces(blocks: Iterable[Any], mine: Sequence[str | None], other_length: int) -> list[str]:
    """Constant pieces from the matching blocks; a block of a blank alone is part of the variable around it."""
    pieces, a, b = [""], 0, 0
    for block in blocks:
        run = "".join(t or "" for t in mine[block.a : block.a + block.size])
        at_edge = (block.a == 0 and block.b == 0) or (
            block.a + block.size == len(mine) and block.b + block.size == other_length
        )
        if block.size and not run.strip() and not at_edge:
            continue
        if block.a > a or block.b > b:
            pieces.append("")
        pieces[-1] += run
        a, b = block.a + block.size, block.b + block.size
    return pieces


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
            signature = "*|" + signature.rpartition("|")[2]
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
