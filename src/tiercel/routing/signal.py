"""What a signal of a gate is, which ones there are, and how a user's own file adds to them.

A signal turns exchanges into columns of numbers; a gate learns what they say about the value of delegating. Signals are
named as strings "module:Class", so that nothing is loaded before it is used.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError
from tiercel.routing.exchange import Exchanges, Outcomes

__all__ = ["SIGNALS", "Cost", "Signal", "SignalState", "Stage", "load_signal_file", "make_signals"]

Floats = NDArray[np.float64]

SIGNALS: dict[str, str] = {
    "length": "tiercel.routing.request_signals:Length",
    "structure": "tiercel.routing.request_signals:Structure",
    "difficulty": "tiercel.routing.request_signals:Difficulty",
    "request_words": "tiercel.routing.learned_signals:RequestWords",
    "request_reader": "tiercel.routing.learned_signals:RequestReader",
    "neighbours": "tiercel.routing.learned_signals:Neighbours",
    "context_fit": "tiercel.routing.limit_signals:ContextFit",
    "personal_data": "tiercel.routing.limit_signals:PersonalData",
    "answer_form": "tiercel.routing.answer_signals:AnswerForm",
    "support": "tiercel.routing.answer_signals:Support",
    "arithmetic": "tiercel.routing.answer_signals:Arithmetic",
    "logprobs": "tiercel.routing.answer_signals:Logprobs",
    "agreement": "tiercel.routing.answer_signals:Agreement",
    "answer_words": "tiercel.routing.learned_signals:AnswerWords",
    "answer_reader": "tiercel.routing.learned_signals:AnswerReader",
    "sql_execution": "tiercel.routing.sql_signals:SqlExecution",
}
"""Signals that ship, by name."""


class Stage(StrEnum):
    """What a signal reads."""

    PRE = "pre"
    """The request alone: known before any model is asked."""
    POST = "post"
    """The answer too."""


class Cost(StrEnum):
    """What a signal costs at each request."""

    TEXT = "text"
    """A look at the text: well below a millisecond."""
    EMBEDDING = "embedding"
    """An encoder's embedding: some milliseconds, paid once for all signals that share it."""
    DATABASE = "database"
    """A query on the database that answers are written for: as long as it takes, up to a limit."""


class SignalState(Struct, frozen=True, kw_only=True):
    """What a signal has learned, in a form that can be stored without running code when it is read."""

    values: dict[str, Any] = {}
    """Plain JSON."""
    arrays: dict[str, NDArray[Any]] = {}
    """Arrays by name."""


class Signal:
    """The base of signals, in scikit-learn's habit: `__init__` only stores, `fit` returns self.

    A subclass sets the class attributes and overrides `transform`; a learned one overrides `fit`, `state` and `restore`
    too. `check_signal` says whether it keeps its promises.
    """

    name: ClassVar[str]
    """Unique, in small letters with underscores."""
    stage: ClassVar[Stage]
    cost: ClassVar[Cost] = Cost.TEXT
    learned: ClassVar[bool] = False
    """Whether `fit` reads outcomes: its columns for its own training rows are then made by cross-fitting."""

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> Signal:
        """Learn from n exchanges and their outcomes; a signal that learns nothing leaves this as it is."""
        return self

    def transform(self, exchanges: Exchanges) -> Floats:
        """Columns of n exchanges, shape (n, c), all finite; a row depends on its own exchange only."""
        raise NotImplementedError

    def columns(self) -> tuple[str, ...]:
        """Names of the c columns, known after `fit`."""
        raise NotImplementedError

    def state(self) -> SignalState:
        """What was learned."""
        return SignalState()

    def restore(self, state: SignalState) -> Signal:
        """Take what `state` gave, and return self."""
        return self


def make_signals(names: Sequence[str], own: Mapping[str, type[Signal]] | None = None) -> list[Signal]:
    """New, unfitted signals by name.

    Args:
        names: of `SIGNALS`, of `own`, or "module:Class".
        own: signals from a user's file, by name.

    Raises:
        ConfigurationError: there is no such signal, or a name stands twice.
    """
    found = [_signal_class(name, own or {})() for name in names]
    twice = {s.name for s in found if sum(o.name == s.name for o in found) > 1}
    if twice:
        raise ConfigurationError(f"the signal {min(twice)!r} is named twice; name each once")
    return found


def _signal_class(name: str, own: Mapping[str, type[Signal]]) -> type[Signal]:
    if name in own:
        return own[name]
    path = SIGNALS.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        known = ", ".join([*SIGNALS, *own])
        raise ConfigurationError(f"no signal is called {name!r}; choose from {known}, or give module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the signal {name!r} can't be loaded: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, Signal)):
        raise ConfigurationError(f"{name} is no signal: it does not derive from tiercel.routing.signal.Signal")
    return found


def load_signal_file(path: Path) -> dict[str, type[Signal]]:
    """The signals that a user's own Python file defines, by name. The file is run: give only files that you trust.

    Raises:
        ConfigurationError: the file is missing, fails, or holds no signal.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file of signals")
    name = f"tiercel_signals_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigurationError(f"{path} can't be run: {type(error).__name__}: {error}") from None
    found = dict[str, type[Signal]]()
    for member in vars(module).values():
        if inspect.isclass(member) and issubclass(member, Signal) and member.__module__ == module.__name__:
            label = getattr(member, "name", None)
            if not isinstance(label, str) or not isinstance(getattr(member, "stage", None), str):
                raise ConfigurationError(f"{path}: {member.__name__} lacks the class attribute `name` or `stage`")
            if label in SIGNALS or label in found:
                raise ConfigurationError(f"{path}: there is a signal called {label!r} already; choose another name")
            found[label] = member
    if not found:
        raise ConfigurationError(f"{path} defines no class that derives from tiercel.routing.signal.Signal")
    return found
