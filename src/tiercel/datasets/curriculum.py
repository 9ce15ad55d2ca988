"""A curriculum: training rows in stages of rising difficulty, and the rule that says whether it helped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError, DataError
from tiercel.stats.intervals import Interval, mean_interval

__all__ = ["Curriculum", "CurriculumVerdict", "curriculum_helps", "difficulty_of", "plan_stages"]


def plan_stages(scores: NDArray[np.floating], stages: int) -> list[NDArray[np.int64]]:
    """Part the rows into stages of equal size by rising score.

    Scores may be difficulty (loss of a cheap model, length), or falling quality (1 minus `Curation.quality`). Rows with
    equal scores keep their order. A trainer that wants easy rows to stay in later stages joins the arrays as it goes.

    Args:
        scores: float array of shape (n,), finite.
        stages: how many, from 1 to n.

    Returns:
        For each stage an int array of row numbers, ascending; each row stands in one, and sizes differ by one at most.

    Raises:
        ConfigurationError: there are fewer rows than stages, or no stage.
        DataError: a score is not a number.

    Source: Bengio et al., "Curriculum learning", 2009.
    """
    if not 1 <= stages <= scores.size:
        raise ConfigurationError(f"{scores.size} rows can't be parted into {stages} stages; choose 1 to {scores.size}")
    if not np.isfinite(scores).all():
        raise DataError(
            f"row {int(np.argmin(np.isfinite(scores)))} has no finite score; leave it out of the curriculum"
        )
    return [np.sort(part) for part in np.array_split(np.argsort(scores, kind="stable"), stages)]


def difficulty_of(
    requests: Sequence[str], answers: Sequence[str], quality: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """How late a row is to come: its length among all, plus what its quality lacks; shape (n,), in [0, 2].

    Args:
        requests: n texts.
        answers: n texts.
        quality: shape (n,), in [0, 1], as curation gives it; None where all are equal.
    """
    lengths = np.array([len(r) + len(a) for r, a in zip(requests, answers, strict=True)], dtype=np.float64)
    # Rows of one length share a rank, so that their order in the file means nothing.
    _, place, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts + 1) / 2)[place] / max(1, len(lengths))
    return rank if quality is None else rank + 1 - np.asarray(quality, np.float64)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Which rows are trained on when: stage after stage joins those before, until all rows are there.

    Attributes:
        stages: row numbers of each stage, as `plan_stages` gives them.
        ramp: share of the training after which all stages are open.
    """

    stages: tuple[NDArray[np.int64], ...]
    ramp: float = 0.5

    @classmethod
    def of(cls, scores: NDArray[np.floating], stages: int = 3) -> Curriculum:
        """Stages of rising score; fewer where there are fewer rows."""
        return cls(stages=tuple(plan_stages(scores, min(stages, scores.size))))

    def is_whole(self, share: float) -> bool:
        """Whether all rows are trained on once `share` of the training is done."""
        return self._open(share) == len(self.stages)

    def _open(self, share: float) -> int:
        return min(len(self.stages), 1 + int(share / self.ramp * (len(self.stages) - 1) + 1e-9))

    def rows(self, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of a pass that begins when `share` of the training is done, in random order; shape (n,).

        A pass has as many rows as there are in all, whatever stages are open: rows come again in it, so that the steps
        are those of training without stages.
        """
        there = np.concatenate(self.stages[: self._open(share)])
        total = sum(map(len, self.stages))
        passes = [rng.permutation(there) for _ in range(-(-total // len(there)))]
        return np.concatenate(passes)[:total]


class CurriculumVerdict(Struct, frozen=True, kw_only=True):
    """What a curriculum changed on held-out rows."""

    helps: bool
    """The whole interval of the gain lies above 0."""
    gain: Interval
    """Mean loss without the curriculum minus mean loss with it; above 0 speaks for the curriculum."""
    rows: int
    """Held-out rows that were compared."""


def curriculum_helps(
    losses_with: NDArray[np.floating],
    losses_without: NDArray[np.floating],
    confidence: float = 0.95,
    seed: int = 0,
) -> CurriculumVerdict:
    """Whether training in stages lowered the loss, row by row on the same held-out rows.

    The rule is to keep the plain order unless the gain's interval, which is valid for any number of rows, lies above 0.
    It speaks of these two trained students. Where runs with other seeds differ much, give the mean loss of several runs
    for each row.

    Args:
        losses_with: float array of shape (n,), in [0, 1], of the student that was trained in stages.
        losses_without: the same of one that was trained on the same rows in random order, with the same steps.
        confidence: probability that the interval covers the true gain.
        seed: of the order in which rows are read.

    Raises:
        DataError: there are no rows, the numbers of rows differ, or a loss is outside [0, 1].
    """
    if losses_with.shape != losses_without.shape or losses_with.ndim != 1 or not losses_with.size:
        raise DataError(
            f"losses of shapes {losses_with.shape} and {losses_without.shape}: compare both students on the same rows"
        )
    for losses in (losses_with, losses_without):
        if not ((losses >= 0) & (losses <= 1)).all():
            raise DataError("losses must lie in [0, 1]; scale them before they are compared")
    gains = np.asarray(losses_without, np.float64) - np.asarray(losses_with, np.float64)
    gain = mean_interval(gains, -1.0, 1.0, confidence, seed)
    return CurriculumVerdict(helps=gain.low > 0, gain=gain, rows=gains.size)
