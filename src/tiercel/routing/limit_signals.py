"""Signals of what may keep a request from a model: its context window, and personal data that must not leave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.personal_data import DEFAULT_KINDS, find
from tiercel.providers.tokens import PER_MESSAGE, estimate_tokens
from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.signal import Signal, SignalState, Stage

__all__ = ["ContextFit", "PersonalData", "holds_personal_data"]

Floats = NDArray[np.float64]

_READ = 400_000
"""Characters of a request that are counted; what is longer fits no window that this matters for."""
_KINDS = frozenset(DEFAULT_KINDS)


class ContextFit(Signal):
    """How much of the cheaper tier's context window the request takes, estimated without its tokenizer."""

    name = "context_fit"
    stage = Stage.PRE

    def __init__(self) -> None:
        self.window_ = 0

    def columns(self) -> tuple[str, ...]:
        """Tokens, the share of the window that they take, and whether they are too many."""
        return ("log_tokens", "share", "too_long")

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> ContextFit:
        """Take over the window that the exchanges name; 0 for none, of which nothing is a share."""
        self.window_ = exchanges.window or 0
        return self

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, 3)."""
        tokens = np.array([_tokens(e) for e in exchanges.items], dtype=np.float64).reshape(len(exchanges))
        share = tokens / self.window_ if self.window_ else np.zeros(len(tokens))
        return np.column_stack([np.log1p(tokens), np.minimum(share, 4.0), (share > 1).astype(np.float64)])

    def state(self) -> SignalState:
        """The window."""
        return SignalState(values={"window": self.window_})

    def restore(self, state: SignalState) -> ContextFit:
        """From `state`."""
        self.window_ = int(state.values["window"])
        return self


def _tokens(e: Exchange) -> int:
    return estimate_tokens(f"{e.context[:_READ]}\n{e.request[:_READ]}") + PER_MESSAGE * e.turns


class PersonalData(Signal):
    """Personal data in the request and what stands before it: how much, of how many kinds."""

    name = "personal_data"
    stage = Stage.PRE

    def columns(self) -> tuple[str, ...]:
        """Places, kinds, and secrets among them such as keys and passwords."""
        return ("log_places", "kinds", "secrets")

    def transform(self, exchanges: Exchanges) -> Floats:
        """Shape (n, 3)."""
        found = [[s.kind for s in find(_whole(e), _KINDS)] for e in exchanges.items]
        rows = [[float(np.log1p(len(k))), float(len(set(k))), float(k.count("secret"))] for k in found]
        return np.array(rows, dtype=np.float64).reshape(len(rows), 3)


def holds_personal_data(exchanges: Exchanges) -> NDArray[np.bool_]:
    """Which of n exchanges hold personal data in the request or what stands before it, shape (n,)."""
    return np.array([bool(find(_whole(e), _KINDS)) for e in exchanges.items], dtype=np.bool_)


def _whole(e: Exchange) -> str:
    """All that a model would be sent: a rule that reads a part of it would let the rest leave."""
    return f"{e.context}\n{e.request}"
