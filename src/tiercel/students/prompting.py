"""What a small pretrained model is asked: the workload's instructions, shortened, and examples like the request.

The instructions are kept, but for lists of labels, which the grammar of the answers holds already. The examples come
from the training rows, the most similar ones, as many as fit. A request is never cut: one that does not fit even
without examples is left to the engine, which refuses it before anything is sent.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.types import Message

__all__ = [
    "Embed",
    "ExampleIndex",
    "Prompt",
    "Prompter",
    "Shot",
    "choose_pool",
    "describe_functions",
    "describe_schema",
    "shorten",
]

Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Embeddings of n texts, shape (n, d)."""

LONG_LIST = 8
"""Labels in a row from which a list is dropped."""
_WORD = re.compile(r"\w+")
_BETWEEN = r"[\s,;:|/\"'`*•–\-\[\]()\d.]*(?:(?:or|and)\b[\s\"'`*]*)?"  # noqa: RUF001


class Shot(Struct, frozen=True):
    """A request of the workload and its answer."""

    request: str
    answer: str


class Prompt(Struct, frozen=True, kw_only=True):
    """What surrounds a request."""

    system: str = ""
    """Instructions; empty for none."""
    system_role: bool = True
    """Whether the model's template has a place for a system message; else the first user message begins with it."""
    before: str = ""
    """Text before each request, as the users' messages have it."""
    after: str = ""
    pool: tuple[Shot, ...] = ()
    """Rows from which examples are chosen."""
    shots: int = 0
    """Examples of a request at the most."""


class ExampleIndex:
    """Finds the texts that are most like another one; equally similar ones come in the order they were given.

    Args:
        texts: m texts.
        embed: makes vectors to compare by their cosine; None for TF-IDF of words.
    """

    def __init__(self, texts: Sequence[str], embed: Embed | None = None) -> None:
        self.size = len(texts)
        self._embed = embed
        if embed is not None:
            self._vectors = _unit(np.asarray(embed(texts), dtype=np.float64)) if texts else np.zeros((0, 1))
            return
        counts = [_words(text) for text in texts]
        seen = Counter(word for count in counts for word in count)
        self._weights = {word: math.log((1 + len(texts)) / (1 + n)) + 1 for word, n in seen.items()}
        self._places: dict[int, list[tuple[int, float]]] = {}
        for i, count in enumerate(counts):
            for word, value in self._vector(count).items():
                self._places.setdefault(word, []).append((i, value))

    def nearest(self, text: str, k: int) -> list[int]:
        """Numbers of the k most similar texts, the most similar first."""
        similarity = self._similarity(text)
        return np.argsort(-similarity, kind="stable")[:k].tolist()

    def _similarity(self, text: str) -> NDArray[np.float64]:
        """Cosine with each of the m texts, shape (m,), rounded so that sums in another order rank alike."""
        if self._embed is not None:
            vector = _unit(np.asarray(self._embed([text]), dtype=np.float64))[0]
            return np.round(self._vectors @ vector, 9) if self.size else np.zeros(0)
        found = np.zeros(self.size)
        for word, value in self._vector(_words(text)).items():
            for i, other in self._places.get(word, ()):
                found[i] += value * other
        return np.round(found, 9)

    def _vector(self, counts: Counter[int]) -> dict[int, float]:
        weighted = {word: (1 + math.log(n)) * self._weights.get(word, 0.0) for word, n in counts.items()}
        length = math.sqrt(sum(v * v for v in weighted.values()))
        return {word: value / length for word, value in weighted.items()} if length else {}


def _words(text: str) -> Counter[int]:
    return Counter(zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.casefold()))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Prompter:
    """Writes the messages of a request.

    Args:
        prompt: of the workload.
        count: tokens of messages, with the model's own tokenizer and template.
        room: tokens that messages may have, so that the answer still fits the context.
        embed: see `ExampleIndex`.
    """

    def __init__(
        self, prompt: Prompt, count: Callable[[Sequence[Message]], int], room: int, embed: Embed | None = None
    ) -> None:
        self.prompt = prompt
        self._count = count
        self._room = room
        self._index = ExampleIndex([shot.request for shot in prompt.pool] if prompt.shots else [], embed)

    def messages(self, text: str) -> tuple[Message, ...]:
        """The most similar examples that fit, the most similar last, and the request."""
        chosen = list[Shot]()
        best = self._written(chosen, text)
        if not self._index.size:
            return best
        for number in self._index.nearest(text, self.prompt.shots):
            chosen.insert(0, self.prompt.pool[number])
            longer = self._written(chosen, text)
            if self._count(longer) > self._room:
                # A shorter one, further away, may still fit.
                del chosen[0]
                continue
            best = longer
        return best

    def _written(self, shots: Sequence[Shot], text: str) -> tuple[Message, ...]:
        said = self.prompt
        turns = list[Message]()
        for shot in shots:
            turns.append(Message(role="user", content=said.before + shot.request + said.after))
            turns.append(Message(role="assistant", content=shot.answer))
        turns.append(Message(role="user", content=said.before + text + said.after))
        if not said.system:
            return tuple(turns)
        if said.system_role:
            return (Message(role="system", content=said.system), *turns)
        return (Message(role="user", content=f"{said.system}\n\n{turns[0].text}"), *turns[1:])


def shorten(instructions: str, labels: Sequence[str] = ()) -> str:
    """Instructions without what a grammar already says.

    Args:
        instructions: of the workload, as they were written for the frontier.
        labels: that the grammar holds; where `LONG_LIST` of them and more stand one after the other, however they are
            separated, their number takes the list's place.
    """
    text = instructions.strip()
    names = sorted({label for label in labels if label.strip()}, key=lambda label: (-len(label), label))
    if len(names) >= LONG_LIST:
        one = "(?:" + "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names) + ")"
        listed = re.compile(rf"{one}(?:{_BETWEEN}{one}){{{LONG_LIST - 1},}}", re.IGNORECASE)
        text = listed.sub(f"one of the {len(names)} known labels", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text))


def describe_functions(functions: Sequence[dict[str, Any]], *, several: bool, whole: bool) -> str:
    """Instructions to call one of `functions` in the form that answers are held to.

    Args:
        functions: as OpenAI's `tools` describe them.
        several: whether an answer may also be a list of calls.
        whole: whether to give descriptions and schemas; else names of functions and of their arguments alone.
    """
    form = '{"name": ..., "arguments": {...}}'
    lines = [
        f"Answer with a call of one of these functions as JSON, {form}{', or a list of calls' if several else ''}:"
    ]
    for function in functions:
        if whole:
            told = {key: function[key] for key in ("name", "description", "parameters") if function.get(key)}
            lines.append(json.dumps(told, ensure_ascii=False))
        else:
            names = (function.get("parameters") or {}).get("properties") or {}
            lines.append(f"{function['name']}({', '.join(names)})")
    return "\n".join(lines)


def describe_schema(schema: dict[str, Any]) -> str:
    """Instructions to answer with JSON of a schema."""
    return f"Answer with JSON of this schema: {json.dumps(schema, ensure_ascii=False)}"


def choose_pool(rows: Sequence[Shot], most: int, *, longest: int, seed: int) -> tuple[Shot, ...]:
    """Rows to choose examples from: one of each answer in turn, drawn with `seed`, until there are `most`.

    Args:
        rows: of the training part.
        most: rows of the pool.
        longest: characters of request and answer together; longer rows would push others out of the context.
        seed: of the draw.
    """
    short = [row for row in rows if len(row.request) + len(row.answer) <= longest]
    turns = Counter[str]()
    ranked = list[tuple[int, int, Shot]]()
    for place, i in enumerate(np.random.default_rng(seed).permutation(len(short)).tolist()):
        ranked.append((turns[short[i].answer], place, short[i]))
        turns[short[i].answer] += 1
    return tuple(shot for _, _, shot in sorted(ranked, key=lambda r: r[:2])[:most])
