"""Climbing the ladder of a workload's task: train rungs from cheap to dear, stop when the next can't pay."""

from __future__ import annotations

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.candidates import Candidate, LadderSettings, Skipped
from tiercel.flows.classification_ladder import climb_classification
from tiercel.flows.micro_rung import climb_micro
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.structure_ladder import climb_structure

__all__ = ["LADDERS", "check_task", "climb"]

LADDERS = {
    "classification": (("linear", "encoder"), climb_classification),
    "extraction": (("tagger", "micro"), climb_structure),
    "function_calling": (("tagger", "micro"), climb_structure),
    "sql": (("micro",), climb_micro),
    "generation": (("micro",), climb_micro),
}
"""Rungs of each task, and what climbs them."""


def check_task(task: str, shape: str) -> None:
    """Raise `DataError` where there is no student for a task whose answers have this shape."""
    if task not in LADDERS:
        raise DataError(
            f"the answers are {shape} ({task}), and there is no student for {task} yet; "
            "if they are labels all the same, say so with --task classification"
        )


def climb(prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[list[Candidate], list[Skipped]]:
    """Train what is worth training.

    Returns:
        The candidates, cheapest first, and the rungs that were left out.

    Raises:
        ConfigurationError: a rung that was asked for does not exist or can't be trained here.
        DataError: no rung can learn the answers.
    """
    known, climb_task = LADDERS[prepared.task]
    for rung in settings.students or ():
        if rung not in known:
            raise ConfigurationError(
                f"no student is called {rung!r} for {prepared.task}; choose from {', '.join(known)}"
            )
    candidates, skipped = climb_task(prepared, settings, progress)
    if not candidates:
        raise DataError(f"no student can learn these answers: {'; '.join(s.why for s in skipped)}")
    return candidates, skipped
