"""Whether a risen loss is the student's, or comes from the judge or the frontier that it is measured with.

Anchors are rows with verified answers. Now and then one, drawn by chance, is judged again and answered by the frontier
again. Their errors on anchors were known when the epoch began, so a rise can only be theirs. An alarm is the student's
once the others are cleared: one process bets that a subject's error rose, another that it did not.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tiercel.errors import DataError
from tiercel.stats.e_processes import Capital, EProcess, EValue, MeanTest

__all__ = ["LEVEL", "Anchors", "AnchorsState", "Cause", "attribute"]

Cause = Literal["none", "student", "judge", "frontier", "judge and frontier", "undecided"]
LEVEL = 0.05
"""Chance that a subject is wrongly accused, and that it is wrongly cleared; not part of the error budget, because no
request is sent elsewhere for it."""
_RESTARTS = 64


class AnchorsState(Struct, frozen=True, kw_only=True):
    """All that is remembered of one subject."""

    rose: Capital
    fresh: Capital
    cleared: Capital
    scored: int
    total: float
    accused: bool
    acquitted: bool


class Anchors:
    """One subject's errors on anchors.

    Args:
        error: its known error, in [0, 1).
        tolerance: rise that is no drift, above 0.
        shift: rise that would be enough to mislead; above `tolerance`.

    Raises:
        DataError: the three do not fit together.
    """

    def __init__(self, error: float, tolerance: float, shift: float) -> None:
        if not (error >= 0 and 0 < tolerance < shift and error + shift < 1):
            raise DataError(
                f"anchors with an error of {error}, a tolerance of {tolerance}, a shift of {shift} can't tell a drift; "
                "give 0 < tolerance < shift and error + shift < 1"
            )
        self._above = MeanTest(bound=error + tolerance, alternative="above", low=0.0, high=1.0, restarts=_RESTARTS)
        self._at_once = MeanTest(bound=error + tolerance, alternative="above", low=0.0, high=1.0)
        self._below = MeanTest(bound=error + shift, alternative="below", low=0.0, high=1.0)
        self._rose = EProcess(self._above)
        self.scored, self.total = 0, 0.0
        self.accused = False
        """Whether its error has risen."""
        self.begin_trial()

    def begin_trial(self) -> None:
        """An alarm was raised: what is scored from now on decides."""
        self._fresh, self._cleared = EProcess(self._at_once), EProcess(self._below)
        self.acquitted = False
        """Whether its error was shown not to have risen by the shift, on anchors scored after the alarm."""

    def score(self, error: float) -> None:
        """Book one anchor.

        Raises:
            DataError: the error is outside [0, 1] or no number.
        """
        for process in (self._rose, self._fresh, self._cleared):
            process.update(error)
        self.scored += 1
        self.total += error
        # The level is split between the process that always runs and the one that began with the alarm.
        self.accused |= self._rose.value.reaches(LEVEL / 2) or self._fresh.value.reaches(LEVEL / 2)
        self.acquitted |= self._cleared.value.reaches(LEVEL)

    @property
    def evalue(self) -> EValue:
        """Against "its error has not risen beyond the tolerance"."""
        return self._rose.value

    def state(self) -> AnchorsState:
        """What `resume` needs to go on."""
        return AnchorsState(
            rose=self._rose.capital(),
            fresh=self._fresh.capital(),
            cleared=self._cleared.capital(),
            scored=self.scored,
            total=self.total,
            accused=self.accused,
            acquitted=self.acquitted,
        )

    def resume(self, state: AnchorsState) -> Anchors:
        """Go on where `state` was taken."""
        self._rose = EProcess.resume(self._above, state.rose)
        self._fresh = EProcess.resume(self._at_once, state.fresh)
        self._cleared = EProcess.resume(self._below, state.cleared)
        self.scored, self.total = state.scored, state.total
        self.accused, self.acquitted = state.accused, state.acquitted
        return self


def attribute(broken: bool, anchors: dict[str, Anchors]) -> Cause:
    """Whose a risen loss is.

    Args:
        broken: whether the student's bound is broken.
        anchors: by subject, "judge" and "frontier"; one without anchors is taken to be what it was.

    Returns:
        "undecided" while the bound is broken and more anchors have to be scored; "none" when nothing has risen. A
        judge or frontier whose error rose is named even before the bound is broken.
    """
    judge, frontier = anchors.get("judge"), anchors.get("frontier")
    if judge is not None and judge.accused:
        return "judge and frontier" if frontier is not None and frontier.accused else "judge"
    if frontier is not None and frontier.accused:
        return "frontier"
    if not broken:
        return "none"
    return "student" if all(subject.acquitted for subject in anchors.values()) else "undecided"
