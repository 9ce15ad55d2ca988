"""Climbing the ladder of a workload's task: train rungs from cheap to dear, stop when the next can't pay."""

from __future__ import annotations

from collections.abc import Sequence

from tiercel.errors import ConfigurationError, DataError, RunError, TiercelError
from tiercel.flows.candidates import ENOUGH_OFFLOAD, Candidate, LadderSettings, Skipped
from tiercel.flows.classification_ladder import climb_classification
from tiercel.flows.encoders import find_encoder
from tiercel.flows.micro_rung import climb_micro
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.slm_rung import climb_slm, named_base
from tiercel.flows.structure_ladder import climb_structure

__all__ = ["LADDERS", "check_students", "climb"]


def _climb_labels(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """The rungs for labels; a decoder only where it is asked for, since an encoder is as good and trained sooner."""
    wanted = settings.students
    candidates, skipped = list[Candidate](), list[Skipped]()
    if wanted is None or "linear" in wanted or "encoder" in wanted:
        candidates, skipped = climb_classification(prepared, settings, progress)
    if wanted is not None and "micro" in wanted:
        found, left_out = climb_micro(prepared, settings, progress)
        candidates, skipped = candidates + found, skipped + left_out
    return candidates, skipped


LADDERS = {
    "classification": (("linear", "encoder", "micro"), _climb_labels),
    "extraction": (("tagger", "micro"), climb_structure),
    "function_calling": (("tagger", "micro"), climb_structure),
    "sql": (("micro",), climb_micro),
    "generation": (("micro",), climb_micro),
}
"""Rungs of each task, and what climbs them; slm stands above them all."""


def check_students(task: str, shape: str, students: Sequence[str] | None) -> None:
    """Raise `ConfigurationError` for a rung that the task, whose answers have this shape, does not have."""
    known = (*LADDERS[task][0], "slm")
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
        ConfigurationError: a rung that was asked for does not exist or can't be trained here; said before any is.
        DataError: no rung can learn the answers.
        TiercelError: why the last of the rungs that were asked for failed, where none of them worked.
    """
    check_students(prepared.task, prepared.shape, settings.students)
    _, climb_task = LADDERS[prepared.task]
    wanted = settings.students
    # What the user named and can't be is said at once, not after the rungs below it were trained.
    named = wanted or (LADDERS[prepared.task][0] if settings.encoder else ())
    if "encoder" in named or "tagger" in named:
        find_encoder(settings, progress)
    base = named_base(settings) if "slm" in named else None
    candidates, skipped = list[Candidate](), list[Skipped]()
    if wanted is None or set(wanted) != {"slm"}:
        candidates, skipped = climb_task(prepared, settings, progress)
    if settings.model is not None and wanted is None and _enough(candidates):
        why = "the cheaper rungs leave too little to win; ask for it with --students slm"
        skipped.append(Skipped(name="slm", rung="slm", why=why))
    elif (wanted is None and settings.model is not None) or (wanted is not None and "slm" in wanted):
        found, left_out = climb_slm(prepared, settings, progress, base)
        candidates = candidates + found
        skipped = skipped + left_out
    if not candidates:
        raise _nothing_works(skipped, asked=wanted is not None)
    return candidates, skipped


def _nothing_works(skipped: Sequence[Skipped], *, asked: bool) -> TiercelError:
    """Why there is no student at all: the user's mistake, unless a rung failed while it ran."""
    failures = [s.error for s in skipped if s.error is not None]
    if failures and (asked or len(skipped) == 1):
        return failures[-1]
    why = "; ".join(s.why for s in skipped)
    if any(isinstance(failure, RunError) for failure in failures):
        return RunError(f"no student could be trained: {why}")
    return DataError(f"no student can learn these answers: {why}")


def _enough(candidates: Sequence[Candidate]) -> bool:
    return any(candidate.expected_offload >= ENOUGH_OFFLOAD for candidate in candidates)
