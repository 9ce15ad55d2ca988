"""Climbing the ladder of a workload's task: train rungs from cheap to dear, stop when the next can't pay."""

from __future__ import annotations

from collections.abc import Sequence

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.candidates import Candidate, LadderSettings, Skipped
from tiercel.flows.classification_ladder import climb_classification
from tiercel.flows.micro_rung import climb_micro
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.structure_ladder import climb_structure

__all__ = ["LADDERS", "check_students", "climb"]

LADDERS = {
    "classification": (("linear", "encoder"), climb_classification),
    "extraction": (("tagger", "micro"), climb_structure),
    "function_calling": (("tagger", "micro"), climb_structure),
    "sql": (("micro",), climb_micro),
    "generation": (("micro",), climb_micro),
}
"""Rungs of each task, and what climbs them."""


def check_students(task: str, shape: str, students: Sequence[str] | None) -> None:
    """Raise `ConfigurationError` for a rung that the task, whose answers have this shape, does not have."""
    known, _ = LADDERS[task]
    for rung in students or ():
        if rung not in known:
            hint = (
                ""
                if task == "classification"
                else "; if the answers are labels all the same, add --task classification"
            )
            raise ConfigurationError(
                f"the answers are {shape} ({task}), for which no student is called {rung!r}; "
                f"choose from {', '.join(known)}{hint}"
            )


def climb(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[list[Candidate], list[Skipped]]:
    """Train what is worth training.

    Returns:
        The candidates, cheapest first, and the rungs that were left out.

    Raises:
        ConfigurationError: a rung that was asked for does not exist or can't be trained here.
        DataError: no rung can learn the answers.
    """
    check_students(prepared.task, prepared.shape, settings.students)
    _, climb_task = LADDERS[prepared.task]
    candidates, skipped = climb_task(prepared, settings, progress)
    if not candidates:
        raise DataError(f"no student can learn these answers: {'; '.join(s.why for s in skipped)}")
    return candidates, skipped
