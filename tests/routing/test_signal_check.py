"""Signals that ship keep their promises; the suite sees each promise broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiercel.errors import ConfigurationError
from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.signal import SIGNALS, Signal, SignalState, Stage, load_signal_file, make_signals
from tiercel.routing.signal_check import check_signal, sample_exchanges


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_that_ships_keeps_its_promises(name: str) -> None:
    check_signal(type(make_signals([name])[0]))


class Good(Signal):
    name = "good"
    stage = Stage.POST
    learned = True

    def columns(self) -> tuple[str, ...]:
        return ("a", "b")

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> Good:
        self.mean_ = float(outcomes.value.mean())
        return self

    def transform(self, exchanges: Exchanges) -> np.ndarray:
        return np.array([[len(e.answer or ""), self.mean_] for e in exchanges.items], dtype=float)

    def state(self) -> SignalState:
        return SignalState(values={"mean": self.mean_})

    def restore(self, state: SignalState) -> Good:
        self.mean_ = state.values["mean"]
        return self


def test_a_good_signal_passes() -> None:
    check_signal(Good)


def _spoilt(**changes: Any) -> type[Signal]:
    return type("Spoilt", (Good,), changes)


def _with_company(self: Any, exchanges: Exchanges) -> np.ndarray:
    lengths = np.array([[len(e.request), 0.0] for e in exchanges.items])
    return lengths - lengths.mean(axis=0)


_drawn = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "Bad Name"}, "small letters"),
        ({"stage": "middle"}, "`stage` must be"),
        ({"__init__": lambda self, size: None}, "needs 'size'"),
        ({"fit": lambda self, e, o: None}, "must return self"),
        ({"transform": lambda self, e: np.full((len(e), 2), np.nan)}, "NaN"),
        ({"transform": lambda self, e: np.zeros((len(e), 3))}, "promises"),
        ({"transform": lambda self, e: 1 / 0}, "ZeroDivisionError"),
        ({"transform": lambda self, e: _drawn.normal(size=(len(e), 2))}, "asked again"),
        ({"transform": _with_company}, "rows beside it"),
        ({"stage": Stage.PRE}, "reads answers"),
        ({"state": lambda self: SignalState(values={"mean": object()})}, "JSON can't"),
        ({"state": lambda self: SignalState(values={"mean": self.mean_ + 1})}, "bring back"),
    ],
)
def test_a_broken_promise_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        check_signal(_spoilt(**changes))


def test_a_signal_that_changes_what_it_is_given_is_caught() -> None:
    def transform(self: Any, exchanges: Exchanges) -> np.ndarray:
        exchanges.items[0] = Exchange(request="changed")
        return np.zeros((len(exchanges), 2))

    with pytest.raises(ConfigurationError, match="changes"):
        check_signal(_spoilt(transform=transform))


OWN = """
import numpy as np
from tiercel.routing.signal import Signal, Stage

class Shouting(Signal):
    name = "shouting"
    stage = Stage.PRE

    def columns(self):
        return ("capitals",)

    def transform(self, exchanges):
        return np.array([[float(sum(c.isupper() for c in e.request))] for e in exchanges.items])
"""


def test_a_users_file_adds_signals_that_the_suite_checks(tmp_path: Path) -> None:
    path = tmp_path / "my_signals.py"
    path.write_text(OWN)
    own = load_signal_file(path)
    check_signal(own["shouting"])
    exchanges, _ = sample_exchanges()
    assert [s.name for s in make_signals(["length", "shouting"], own)] == ["length", "shouting"]
    assert make_signals(["shouting"], own)[0].transform(exchanges).shape == (len(exchanges), 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "defines no class"),
        ("import nothing_there", "can't be run: ModuleNotFoundError"),
        (OWN.replace('"shouting"', '"length"'), "already"),
        (OWN.replace('    name = "shouting"\n', ""), "lacks the class attribute"),
    ],
)
def test_a_file_that_is_no_file_of_signals_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "my_signals.py"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        load_signal_file(path)
    with pytest.raises(ConfigurationError, match="no such file"):
        load_signal_file(tmp_path / "missing.py")


def test_names_that_are_no_signals_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="choose from length"):
        make_signals(["lenght"])
    with pytest.raises(ConfigurationError, match="named twice"):
        make_signals(["length", "length"])
    with pytest.raises(ConfigurationError, match="does not derive"):
        make_signals(["pathlib:Path"])
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        make_signals(["pathlib:Nothing"])
