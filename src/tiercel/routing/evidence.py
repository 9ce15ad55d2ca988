"""The evidence on one workload or segment: three e-processes on its weighted excess loss, and a tally.

An audit that has no result is never dropped: "broken" and "within" count it as a loss of 1, the worst it can be. A
third process counts it as the best it can be; it says whether the alarm stands without the missing audits.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from tiercel.stats.confidence_sequences import Tally, mean_sequence, observations_until
from tiercel.stats.e_processes import Capital, EProcess, EValue, MeanTest
from tiercel.stats.intervals import Interval

__all__ = ["EValues", "Evidence", "EvidenceState", "Standing"]

Standing = Literal["within", "unknown", "broken"]


class EValues(Struct, frozen=True, array_like=True):
    """E-values of one workload or segment."""

    broken: EValue
    """Against "the excess loss is at most the bound", missing audits counted as losses."""
    within: EValue
    """Against "the excess loss is at least the bound", missing audits counted as losses."""
    proven: EValue
    """As `broken`, missing audits counted as gains, or as 0 where gains do not count."""


class EvidenceState(Struct, frozen=True, kw_only=True):
    """All that the evidence remembers."""

    broken: Capital
    within: Capital
    proven: Capital | None
    tally: Tally
    missing: dict[float, int]
    standing: Standing


class Evidence:
    """The processes of one workload or segment in one epoch.

    Args:
        max_loss: the bound, epsilon.
        largest_weight: an audit's, 1 / floor.
        gains: whether an excess loss may be below 0.
        restarts: audits after which the alarm puts in a further part of its stake.
        broken_delta: level of "broken".
        within_delta: level of "within".
    """

    def __init__(
        self,
        *,
        max_loss: float,
        largest_weight: float,
        gains: bool,
        restarts: int,
        broken_delta: float,
        within_delta: float,
    ) -> None:
        low = -largest_weight if gains else 0.0
        self._above = MeanTest(bound=max_loss, alternative="above", low=low, high=largest_weight, restarts=restarts)
        self._below = MeanTest(bound=max_loss, alternative="below", low=low, high=largest_weight)
        self._gains = gains
        self._deltas = broken_delta, within_delta
        self._broken, self._within = EProcess(self._above), EProcess(self._below)
        # Equal to `_broken` until an audit is missing, and only then a process of its own.
        self._proven: EProcess | None = None
        self.tally = Tally(values={})
        """Weighted excess losses of all requests, audits without a result left out."""
        self.missing: dict[float, int] = {}
        """Weights of audits without a result, and how many have each."""
        self.standing: Standing = "unknown"

    def book_zeros(self, count: int) -> None:
        """Requests that cost nothing: not accepted, or not drawn."""
        for process in self._processes():
            process.update_zeros(count)
        self.tally.zeros += count

    def book_audit(self, propensity: float, excess: float | None) -> None:
        """The next audit in the order of the draws.

        Args:
            propensity: with which it was drawn.
            excess: the excess loss, in [-1, 1]; None where there is no result.
        """
        weight = 1.0 / propensity
        if excess is None:
            if self._proven is None:
                self._proven = EProcess.resume(self._above, self._broken.capital())
            self._broken.update(weight)
            self._within.update(weight)
            self._proven.update(-weight if self._gains else 0.0)
            self.missing[weight] = self.missing.get(weight, 0) + 1
            return
        value = (excess if self._gains else max(0.0, excess)) / propensity
        for process in self._processes():
            process.update(value)
        self.tally.add(value)

    def judged(self) -> Standing:
        """Where it stands now.

        A breach stays. "Within" is lost when half of the evidence for it, in logarithms, is gone: less would let the
        state flutter, and more would keep it after the student changed.
        """
        broken, within = self._deltas
        if self.standing != "broken":
            held = self._within.value
            if self._broken.value.reaches(broken):
                self.standing = "broken"
            elif held.reaches(within):
                self.standing = "within"
            elif self.standing == "within" and not held.reaches(math.sqrt(within)):
                self.standing = "unknown"
        return self.standing

    @property
    def proven(self) -> bool:
        """Whether a breach is proven now without the missing audits."""
        return (self._proven or self._broken).value.reaches(self._deltas[0])

    @property
    def evalues(self) -> EValues:
        """As they are now."""
        broken = self._broken.value
        return EValues(broken, self._within.value, self._proven.value if self._proven else broken)

    def interval(self, confidence: float) -> Interval:
        """The excess loss so far with its confidence sequence, missing audits at their best and at their worst."""
        low, high = self._above.low, self._above.high
        sequences = [
            mean_sequence(
                tally, low=low, high=high, least=-1.0 if self._gains else 0.0, most=1.0, confidence=confidence
            )
            for tally in (self._filled(-1.0 if self._gains else 0.0), self._filled(1.0))
        ]
        return Interval(value=self.tally.mean, low=sequences[0].low, high=sequences[1].high)

    def requests_until_within(self) -> float:
        """Requests like those so far until "within" is reached, on average; infinity where it will not be."""
        delta = self._deltas[1]
        return observations_until(self._below, self._filled(1.0), delta, log_capital=self._within.value.log)

    def requests_until(self, upper: float, confidence: float) -> float:
        """Requests like those so far until the upper end of `interval` is at `upper`, on average, from now.

        Args:
            upper: a loss between the estimate and the current upper end.
            confidence: of the interval.
        """
        filled = self._filled(1.0)
        if not 0 < upper < self._above.high:
            return math.inf
        test = MeanTest(bound=upper, alternative="below", low=self._above.low, high=self._above.high)
        return max(0.0, observations_until(test, filled, (1 - confidence) / 2) - filled.count)

    def _filled(self, loss: float) -> Tally:
        """The tally with the missing audits at a given excess loss."""
        filled = Tally(zeros=self.tally.zeros, values=dict(self.tally.values))
        for weight, count in self.missing.items():
            if loss:
                filled.values[loss * weight] = filled.values.get(loss * weight, 0) + count
            else:
                filled.zeros += count
        return filled

    def _processes(self) -> list[EProcess]:
        return [p for p in (self._broken, self._within, self._proven) if p is not None]

    def state(self) -> EvidenceState:
        """What `resume` needs to go on."""
        return EvidenceState(
            broken=self._broken.capital(),
            within=self._within.capital(),
            proven=self._proven.capital() if self._proven else None,
            tally=Tally(zeros=self.tally.zeros, values=dict(self.tally.values)),
            missing=dict(self.missing),
            standing=self.standing,
        )

    def resume(self, state: EvidenceState) -> Evidence:
        """Go on where `state` was taken."""
        self._broken = EProcess.resume(self._above, state.broken)
        self._within = EProcess.resume(self._below, state.within)
        self._proven = EProcess.resume(self._above, state.proven) if state.proven else None
        self.tally = Tally(zeros=state.tally.zeros, values=dict(state.tally.values))
        self.missing, self.standing = dict(state.missing), state.standing
        return self
