"""What a gate may see of recorded traffic: requests, answers of the tier that is judged, and how good both were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.tasks.sql_execution import Execution

__all__ = ["Embed", "Exchange", "Exchanges", "Outcomes", "Query"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""From n texts to their embeddings, shape (n, d)."""
Query = Callable[[str], Execution]
"""From the text of a query to what came of it on the database that answers are written for."""


class Exchange(Struct, frozen=True, kw_only=True):
    """One request and, where the cheaper tier was asked, its answer."""

    request: str
    """Text of the last user message."""
    context: str = ""
    """System prompt and earlier messages."""
    answer: str | None = None
    """Text of the cheaper tier's answer; None before it is asked."""
    logprobs: tuple[float, ...] | None = None
    """Of the answer's tokens, natural logarithms; None where none were recorded."""
    others: tuple[str, ...] = ()
    """Further answers to the request by the cheaper tier or tiers below it, for agreement."""
    turns: int = 1
    """Messages of the request."""
    tools: int = 0
    """Tools that the request offers."""
    response_format: dict[str, Any] | None = None
    """The form that the request asks the answer to have; None for any."""


class Exchanges:
    """n exchanges, with embeddings that are computed once and only where a signal asks for them.

    Args:
        items: the n exchanges.
        embed: gives embeddings; None where no encoder is there.
        query: runs queries; None where no database is there.
        window: tokens that the cheaper tier can read and write at a request; None where that is not known.
    """

    def __init__(
        self,
        items: Sequence[Exchange],
        embed: Embed | None = None,
        *,
        query: Query | None = None,
        window: int | None = None,
    ) -> None:
        self.items = list(items)
        self.embed = embed
        self.query = query
        self.window = window

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def request_embeddings(self) -> Floats:
        """Of the requests' texts, shape (n, d).

        Raises:
            ValueError: there is no encoder.
        """
        return self._embedded([e.request for e in self.items])

    @cached_property
    def answer_embeddings(self) -> Floats:
        """Of the answers' texts, shape (n, d); a missing answer is read as an empty one.

        Raises:
            ValueError: there is no encoder.
        """
        return self._embedded([e.answer or "" for e in self.items])

    def _embedded(self, texts: list[str]) -> Floats:
        if self.embed is None:
            raise ValueError("a signal reads embeddings, but there is no encoder")
        return np.asarray(self.embed(texts), dtype=np.float64)

    def beside(self, items: Sequence[Exchange]) -> Exchanges:
        """Other exchanges in the same surroundings: encoder, database and window."""
        return Exchanges(items, self.embed, query=self.query, window=self.window)

    def take(self, rows: Rows) -> Exchanges:
        """Some of the exchanges, shape (m,), with what is known of them already."""
        part = self.beside([self.items[i] for i in rows.tolist()])
        for name in ("request_embeddings", "answer_embeddings"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][rows]
        return part


class Outcomes(Struct, frozen=True, kw_only=True):
    """How good the answers to n requests were."""

    weak: Floats
    """Score of the cheaper tier, shape (n,), in [0, 1]."""
    strong: Floats
    """Score of the dearer tier, shape (n,), in [0, 1]."""

    @property
    def value(self) -> Floats:
        """Delegation value: what the dearer tier's answer would gain, shape (n,), in [-1, 1]."""
        return self.strong - self.weak

    @property
    def weak_loss(self) -> Floats:
        """Loss of the cheaper tier, shape (n,): what a gate of uncertainty alone is trained on."""
        return 1 - self.weak

    @property
    def targets(self) -> Floats:
        """Delegation value and loss of the cheaper tier side by side, shape (n, 2)."""
        return np.column_stack([self.value, self.weak_loss])

    def take(self, rows: Rows) -> Outcomes:
        """Some of the outcomes, shape (m,)."""
        return Outcomes(weak=self.weak[rows], strong=self.strong[rows])
