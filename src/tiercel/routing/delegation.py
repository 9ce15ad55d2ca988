"""A gate that predicts the value of delegating: would the dearer tier's answer have been better?

A gate of uncertainty asks whether the cheap answer is wrong. That sends requests on which both tiers fail to the dear
one, for nothing. This gate is trained on the difference; the other target is there for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.routing.combiners import COMBINERS, Combiner, combiner_from
from tiercel.routing.exchange import Exchanges, Outcomes
from tiercel.routing.logistic import fit_logistic
from tiercel.routing.signal import Cost, Signal, SignalState, Stage

__all__ = ["FEWEST", "Choice", "DelegationGate", "GateState", "Target"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FEWEST = 8
"""Rows with something to gain, and rows without, that a gate needs of each."""
FOLDS = 5
_SETS: dict[str, tuple[str, ...]] = {
    "trees": ("trees",),
    "trees-coarse": ("trees-coarse",),
    "boosting": ("boosting",),
    "linear": ("linear",),
    "logistic": ("logistic",),
    "logistic-strict": ("logistic-strict",),
    "first": ("first",),
    "linear+trees": ("linear", "trees"),
    "logistic+trees": ("logistic-strict", "trees"),
    "average": ("trees", "trees-coarse", "boosting", "linear", "logistic-strict"),
}
"""Combiners whose standardised outputs are averaged, by name of the set; the first is the one to beat."""
_FAR = 8.0
"""Standard deviations at which a column is cut, so that one odd request can't own the decision."""


class Target(StrEnum):
    """What a gate learns to predict."""

    VALUE = "value"
    """Whether the dearer answer is better."""
    ERROR = "error"
    """Whether the cheaper answer is wrong."""


class Choice(Struct, frozen=True, kw_only=True):
    """One way to combine the signals, as it did on rows that it was fitted without."""

    name: str
    parts: tuple[str, ...]
    """Combiners whose standardised outputs are averaged."""
    mean_quality: float
    """Mean gain over all shares of calls: what APGR is a multiple of, and defined without a gap too."""
    log_loss: float
    """Of the calibrated probability, in nats a row."""


class GateState(Struct, frozen=True, kw_only=True):
    """A fitted gate as plain values and arrays."""

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class DelegationGate:
    """Combines signals into the probability that delegating pays.

    Args:
        signals: unfitted; one that reads answers makes it a gate that needs answers.
        target: what it learns.
        seed: of folds and trees.
    """

    def __init__(self, signals: Sequence[Signal], *, target: Target = Target.VALUE, seed: int = 0) -> None:
        self.signals = list(signals)
        self.target = target
        self.seed = seed

    @property
    def stage(self) -> Stage:
        """What the gate needs: answers, where any signal reads them."""
        return Stage.POST if any(s.stage == Stage.POST for s in self.signals) else Stage.PRE

    @property
    def needs_embeddings(self) -> bool:
        """Whether a signal reads embeddings."""
        return any(s.cost == Cost.EMBEDDING for s in self.signals)

    def fit(self, exchanges: Exchanges, outcomes: Outcomes) -> DelegationGate:
        """Learn signals, choose how to combine them by folds, calibrate on the scores of rows left out.

        Leaves `cross_scores_`, shape (n,): scores of the training rows by gates that were fitted without them.

        Raises:
            DataError: too few rows have something to gain, or too few have nothing; the message says which.
        """
        target = self._target(outcomes)
        _check(target, self.target)
        parts = _folds(target, self.seed)
        columns = np.column_stack([self._cross_columns(s, exchanges, outcomes, parts) for s in self.signals])
        self.centre_, self.scale_ = columns.mean(axis=0), columns.std(axis=0) + 1e-9
        z = self._standardise(columns)
        aids = np.column_stack([outcomes.weak, outcomes.strong])
        left_out = self._cross_predictions(z, target, aids, parts)
        self.choices_, combined = _choose(left_out, target)
        self.choice_ = self.choices_[0]
        self.parts_: list[Combiner] = [COMBINERS[n]().fit(z, target, aids, self.seed) for n in self.choice_.parts]
        spread = {name: (float(v.mean()), float(v.std()) + 1e-12) for name, v in left_out.items()}
        self.spread_ = [spread[name] for name in self.choice_.parts]
        slope, self.offset_ = fit_logistic(combined[self.choice_.name][:, None], target > 0, 1e-4)
        # A combination that ranks the wrong way round by chance must not be turned over by its calibration.
        self.slope_ = max(float(slope[0]), 1e-3)
        self.cross_scores_ = self._probability(combined[self.choice_.name])
        for signal in self.signals:
            if signal.learned:
                signal.fit(exchanges, outcomes)
        return self

    def _target(self, outcomes: Outcomes) -> Floats:
        return outcomes.value if self.target == Target.VALUE else outcomes.weak_loss

    def _cross_columns(self, signal: Signal, exchanges: Exchanges, outcomes: Outcomes, parts: Rows) -> Floats:
        """Columns of the training rows: of a learned signal, from one that was fitted without the row."""
        if not signal.learned:
            return signal.fit(exchanges, outcomes).transform(exchanges)
        found: Floats | None = None
        for part in range(FOLDS):
            inside, outside = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
            values = signal.fit(exchanges.take(inside), outcomes.take(inside)).transform(exchanges.take(outside))
            if found is None:
                found = np.empty((len(exchanges), values.shape[1]))
            found[outside] = values
        assert found is not None
        return found

    def _cross_predictions(self, z: Floats, target: Floats, aids: Floats, parts: Rows) -> dict[str, Floats]:
        """Of each combiner for each training row, from one that was fitted without the row."""
        found = {name: np.empty(len(z)) for name in COMBINERS}
        for part in range(FOLDS):
            inside, outside = parts != part, parts == part
            for name, make in COMBINERS.items():
                fitted = make().fit(z[inside], target[inside], aids[inside], self.seed)
                found[name][outside] = fitted.predict(z[outside])
        return found

    def _standardise(self, columns: Floats) -> Floats:
        return np.clip((columns - self.centre_) / self.scale_, -_FAR, _FAR)

    def _probability(self, combined: Floats) -> Floats:
        return 1 / (1 + np.exp(-np.clip(combined * self.slope_ + self.offset_, -40, 40)))

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are combined, "signal.column"."""
        return tuple(f"{s.name}.{c}" for s in self.signals for c in s.columns())

    def score(self, exchanges: Exchanges) -> Floats:
        """Probability that delegating pays, shape (n,), in (0, 1)."""
        if not len(exchanges):
            return np.empty(0)
        z = self._standardise(np.column_stack([s.transform(exchanges) for s in self.signals]))
        outputs = [(p.predict(z) - m) / d for p, (m, d) in zip(self.parts_, self.spread_, strict=True)]
        return self._probability(np.mean(outputs, axis=0))

    def state(self) -> GateState:
        """What was learned; signals by their names."""
        values: dict[str, Any] = {
            "signals": [s.name for s in self.signals],
            "target": str(self.target),
            "choice": self.choice_.name,
            "kinds": [p.kind for p in self.parts_],
            "spread": self.spread_,
            "slope": self.slope_,
            "offset": self.offset_,
            "states": {},
        }
        arrays: dict[str, NDArray[Any]] = {"centre": self.centre_, "scale": self.scale_}
        for i, part in enumerate(self.parts_):
            arrays |= {f"part{i}.{name}": array for name, array in part.arrays().items()}
        for signal in self.signals:
            state = signal.state()
            values["states"][signal.name] = state.values
            arrays |= {f"signal.{signal.name}.{name}": array for name, array in state.arrays.items()}
        return GateState(values=values, arrays=arrays)

    @classmethod
    def restore(cls, state: GateState, signals: Sequence[Signal]) -> DelegationGate:
        """The gate of `state`, with unfitted signals of its names in its order.

        Raises:
            ValueError: the state is none of a gate.
        """
        values = state.values
        gate = cls(signals, target=Target(values["target"]))
        if [s.name for s in signals] != values["signals"]:
            raise ValueError("the signals are not those of the gate")
        gate.centre_, gate.scale_ = state.arrays["centre"], state.arrays["scale"]
        gate.spread_ = [(float(m), float(d)) for m, d in values["spread"]]
        gate.slope_, gate.offset_ = float(values["slope"]), float(values["offset"])
        kinds = [str(k) for k in values["kinds"]]
        gate.parts_ = [combiner_from(k, _under(f"part{i}.", state.arrays)) for i, k in enumerate(kinds)]
        for signal in gate.signals:
            arrays = _under(f"signal.{signal.name}.", state.arrays)
            signal.restore(SignalState(values=values["states"][signal.name], arrays=arrays))
        return gate


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check(target: Floats, kind: Target) -> None:
    gains, rest = int((target > 0).sum()), int((target <= 0).sum())
    what = "the strong model's answer is better" if kind == Target.VALUE else "the weak model's answer is wrong"
    if gains < FEWEST:
        raise DataError(
            f"{what} on {gains} of {target.size} training rows, a gate needs {FEWEST}: there is (almost) nothing to "
            "learn; stay with the weak model, or record more traffic"
        )
    if rest < FEWEST:
        raise DataError(
            f"{what} on all but {rest} of {target.size} training rows, a gate needs {FEWEST} others: stay with the "
            "strong model, or record more traffic"
        )


def _folds(target: Floats, seed: int) -> Rows:
    """Fold of each row, shape (n,); each fold holds a like share of gains and of losses."""
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(target.size)
    order = mixed[np.argsort(target[mixed], kind="stable")]
    parts = np.empty(target.size, dtype=np.int64)
    parts[order] = np.arange(target.size) % FOLDS
    return parts


def _choose(left_out: dict[str, Floats], target: Floats) -> tuple[tuple[Choice, ...], dict[str, Floats]]:
    """All choices, the chosen one first and the others by quality, and what each says of the rows left out.

    The difference between two combiners is mostly chance on a thousand rows, and columns that were cross-fitted favour
    whatever leans on few of them. So the first of `_SETS` stays unless another is better by more than one standard
    error of the paired difference.
    """
    z = {name: (v - v.mean()) / (v.std() + 1e-12) for name, v in left_out.items()}
    combined = {name: np.mean([z[p] for p in parts], axis=0) for name, parts in _SETS.items()}
    gained = {name: _gained(scores, target) for name, scores in combined.items()}
    found = list[Choice]()
    for name, parts in _SETS.items():
        slope, offset = fit_logistic(combined[name][:, None], target > 0, 1e-4)
        odds = np.clip(combined[name] * float(slope[0]) + offset, -40, 40)
        loss = float(np.logaddexp(0, np.where(target > 0, -odds, odds)).mean())
        found.append(Choice(name=name, parts=parts, mean_quality=float(gained[name].mean()), log_loss=loss))
    chosen = found[0]
    for other in sorted(found, key=lambda c: (-c.mean_quality, c.log_loss)):
        difference = gained[other.name] - gained[chosen.name]
        if float(difference.mean()) > float(difference.std()) / np.sqrt(target.size):
            chosen = other
            break
    found.sort(key=lambda c: (c is not chosen, -c.mean_quality, c.log_loss))
    return tuple(found), combined


def _gained(scores: Floats, target: Floats) -> Floats:
    """What each row gains on average over all shares of calls, shape (n,).

    That is its target times the part of the shares at which it is delegated; the mean is the area under the curve.
    """
    _, group, count = np.unique(-scores, return_inverse=True, return_counts=True)
    place = (np.cumsum(count) - count / 2)[group] / scores.size
    return target * (1 - place)
