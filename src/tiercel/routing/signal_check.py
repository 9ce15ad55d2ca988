"""The suite that every signal passes, those that ship and those that users write."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError
from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.signal import Signal, SignalState, Stage
from tiercel.tasks.sql_execution import Execution, Outcome

__all__ = ["check_signal", "sample_exchanges"]

Floats = NDArray[np.float64]

_WIDTH = 24
_ODD = (
    Exchange(request="", answer=""),
    Exchange(request="?", answer=None),
    Exchange(request="\U0001f985 " * 40 + "\ud800", answer="\x00\n\t"),
    Exchange(request="a" * 30_000, answer="1 = " * 9_000),
    Exchange(request="Sum 1,2 and 3.", answer="((((1/0=2 and 5%%5=1e999", logprobs=(float("-inf"), 0.0)),
    Exchange(request="Write to ann.smith@example.com, +44 20 7946 0958.", answer="```sql\nSELECT a FROM t\n```"),
    Exchange(request="Say it.", answer="I'm sorry, I can't help with that.", others=("", "4", "four")),
    Exchange(
        request="List it as JSON.",
        context="You are terse.",
        answer='{"a": 1',
        turns=7,
        tools=3,
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    ),
)


def sample_exchanges(n: int = 60, seed: int = 0) -> tuple[Exchanges, Outcomes]:
    """Small arithmetic exchanges with odd ones among them, made-up embeddings and results, to try signals on.

    Args:
        n: exchanges beside the odd ones.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    items, weak = list(_ODD), [0.0] * len(_ODD)
    for number in range(n):
        a, b = (int(v) for v in rng.integers(2, 90, 2))
        right = bool(rng.random() < 0.6)
        result = a * b if right else a * b + int(rng.integers(1, 9))
        items.append(
            Exchange(
                request=f"Ann buys {a} boxes of {b} pens{' each' * (number % 3)}. How many pens does she have?",
                answer=f"She has {a} * {b} = {result} pens.\n#### {result}",
                logprobs=tuple(float(v) for v in -rng.exponential(0.2 if right else 0.5, 12)),
                others=(f"#### {a * b}", f"#### {result + number % 2}"),
            )
        )
        weak.append(float(right))
    strong = np.where(rng.random(len(items)) < 0.85, 1.0, 0.0)
    return Exchanges(items, _embed, query=_query, window=40), Outcomes(weak=np.array(weak), strong=strong)


def _embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Bags of words, hashed: like texts get like rows, and a row depends on its text alone."""
    rows = np.zeros((len(texts), _WIDTH), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text[:2_000].split():
            row[hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=1).digest()[0] % _WIDTH] += 1
    return rows


def _query(sql: str) -> Execution:
    """Rows that depend on the query's text alone."""
    rows = tuple((number, None) for number in range(len(sql) % 5))
    return Execution(outcome=Outcome.DONE, columns=("a", "b"), rows=rows)


def check_signal(signal: type[Signal], exchanges: Exchanges | None = None, outcomes: Outcomes | None = None) -> None:
    """Try whether a signal keeps the promises that gates rely on.

    Checked: name, stage and cost; `__init__` without arguments; `fit` returns self; columns are finite, named and as
    many as said; the same exchanges give the same columns, in any company; nothing that is handed in is changed; a
    signal of the stage "pre" does not read answers; what is learned survives being stored.

    Args:
        signal: the class.
        exchanges: to try it on; None for `sample_exchanges`.
        outcomes: of the exchanges.

    Raises:
        ConfigurationError: it breaks a promise; the message says which.
    """
    if exchanges is None or outcomes is None:
        exchanges, outcomes = sample_exchanges()
    name = getattr(signal, "name", None)
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise ConfigurationError(f"{signal.__name__}: `name` must be small letters and underscores, not {name!r}")
    if getattr(signal, "stage", None) not in list(Stage):
        raise ConfigurationError(f"signal {name!r}: `stage` must be Stage.PRE or Stage.POST")
    needed = [p for p in list(inspect.signature(signal).parameters.values()) if p.default is p.empty]
    if needed:
        raise ConfigurationError(f"signal {name!r}: __init__ needs {needed[0].name!r}; give it a default")
    before = _snapshot(exchanges, outcomes)
    fitted = signal()
    if fitted.fit(exchanges, outcomes) is not fitted:
        raise ConfigurationError(f"signal {name!r}: `fit` must return self")
    found = _columns(fitted, exchanges)
    _check_company(fitted, exchanges, found)
    if _snapshot(exchanges, outcomes) != before:
        raise ConfigurationError(f"signal {name!r} changes the exchanges or outcomes that it is given")
    if fitted.stage == Stage.PRE:
        blind = exchanges.beside(
            [msgspec.structs.replace(e, answer=None, logprobs=None, others=()) for e in exchanges.items]
        )
        if not np.allclose(_columns(fitted, blind), found):
            raise ConfigurationError(f"signal {name!r} is of the stage 'pre' but reads answers; make it Stage.POST")
    _check_storage(signal, fitted, exchanges, found)


def _columns(fitted: Signal, exchanges: Exchanges) -> Floats:
    name = fitted.name
    try:
        found = np.asarray(fitted.transform(exchanges))
    except Exception as error:
        raise ConfigurationError(f"signal {name!r}: `transform` fails: {type(error).__name__}: {error}") from None
    wanted = (len(exchanges), len(fitted.columns()))
    if found.shape != wanted:
        raise ConfigurationError(f"signal {name!r}: `transform` gives shape {found.shape}, `columns` promises {wanted}")
    if not np.issubdtype(found.dtype, np.number) or not np.isfinite(found).all():
        raise ConfigurationError(f"signal {name!r}: `transform` gives NaN, infinity, or no numbers")
    return found.astype(np.float64)


def _check_company(fitted: Signal, exchanges: Exchanges, found: Floats) -> None:
    """A row's columns must not depend on the batch that it comes in, or offline and online scores would differ."""
    if not np.array_equal(_columns(fitted, exchanges), found):
        raise ConfigurationError(f"signal {fitted.name!r}: `transform` gives other columns when it is asked again")
    for row in range(0, len(exchanges), max(1, len(exchanges) // 12)):
        alone = _columns(fitted, exchanges.beside([exchanges.items[row]]))
        if not np.allclose(alone[0], found[row], rtol=1e-4, atol=1e-6):
            raise ConfigurationError(f"signal {fitted.name!r}: the columns of a row depend on the rows beside it")


def _check_storage(signal: type[Signal], fitted: Signal, exchanges: Exchanges, found: Floats) -> None:
    state = fitted.state()
    try:
        values = msgspec.json.decode(msgspec.json.encode(state.values))
    except TypeError as error:
        raise ConfigurationError(f"signal {fitted.name!r}: `state` holds what JSON can't: {error}") from None
    arrays = {key: np.array(array) for key, array in state.arrays.items()}
    if any(array.dtype == object for array in arrays.values()):
        raise ConfigurationError(f"signal {fitted.name!r}: `state` holds an array of objects; numbers only")
    again = signal().restore(SignalState(values=values, arrays=arrays))
    if not np.allclose(_columns(again, exchanges), found, rtol=1e-5, atol=1e-7):
        raise ConfigurationError(f"signal {fitted.name!r}: `restore` does not bring back what `state` gave")


def _snapshot(exchanges: Exchanges, outcomes: Outcomes) -> tuple[list[Exchange], bytes, bytes]:
    return list(exchanges.items), outcomes.weak.tobytes(), outcomes.strong.tobytes()
