"""One rung of a ladder fails: it is left out with its reason, and the pilot goes on with the others."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from tiercel.errors import MissingExtraError, RunError, StorageError, TiercelError, ran_out_of_memory
from tiercel.flows.candidates import Candidate, LadderSettings, Skipped
from tiercel.flows.progress import Progress

__all__ = ["Attempt", "attempt", "refitted"]

_ASKED_FOR = re.compile(r"(?:allocate|of size) ([\d.]+) ?([KMGTP]iB)?", re.IGNORECASE)
_UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_UNKNOWN = 2**62
"""Bytes from which `free_memory` says that it does not know."""


class Attempt:
    """A rung that is being trained.

    Attributes:
        name: of the rung and its form; it may change on the way.
        parameters: of the model that is trained; None where its size is no choice of the user's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: int | None = None


@contextmanager
def attempt(
    name: str,
    candidates: Sequence[Candidate],
    skipped: list[Skipped],
    settings: LadderSettings,
    progress: Progress,
    *,
    last: bool = True,
) -> Generator[Attempt]:
    """Train a rung; what goes wrong leaves it out.

    A full disk stops the pilot, and so does the failure of the only rung that was asked for: there is nothing to go on
    with.

    Args:
        name: of the rung and its form, with a hyphen between.
        candidates: that were trained so far.
        skipped: takes the rung with its reason.
        settings: of the ladder.
        progress: is warned.
        last: whether this is the last form of its rung.

    Raises:
        TiercelError: see above.
    """
    found, free = Attempt(name), _free()
    try:
        yield found
    except Exception as error:
        failure = _told(error, found, free)
        if failure is None:
            raise
        alone = settings.students is not None and len(settings.students) == 1
        if isinstance(failure, StorageError) or (alone and last and not candidates):
            raise failure from None
        progress.warn(f"the rung {found.name} was left out: {failure}")
        # Its frames hold the model that failed, and with it the memory that the next rung needs.
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        skipped.append(Skipped(name=found.name, rung=found.name.partition("-")[0], why=str(failure), error=failure))
    else:
        return
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def refitted(best: Candidate, progress: Progress) -> Candidate:
    """The candidate, trained once more with the gate's rows where that is worth it and goes well."""
    if best.refit is None:
        return best
    found, free = Attempt(best.name), _free()
    try:
        return best.refit()
    except Exception as error:
        failure = _told(error, found, free)
        if failure is None:
            raise
        if isinstance(failure, StorageError):
            raise failure from None
        progress.warn(f"{best.name} was not trained once more with the gate's rows: {failure}")
        return best


def _told(error: Exception, found: Attempt, free: int) -> TiercelError | None:
    """The error as one of ours; None for a defect of the program, which no pilot may pass over."""
    if isinstance(error, TiercelError):
        return error
    if isinstance(error, ImportError):
        return MissingExtraError(error.name or str(error), "train")
    if not ran_out_of_memory(error):
        return None
    told = f"memory ran out while {found.name} was tried"
    if free < _UNKNOWN:
        took, asked = max(0, free - _free()), _asked_for(error)
        told += f": {free / 1e9:.3g} GB were free, it took {took / 1e9:.3g} GB"
        told += f" and asked for {asked / 1e9:.3g} GB more" if asked else ""
        if found.parameters is not None:
            fits = found.parameters * min(1.0, free / max(1, took + asked))
            told += f"; a model of less than about {fits / 1e9:.2g} billion parameters would fit"
    return RunError(f"{told}; free some memory, or leave it out with --students")


def _asked_for(error: Exception) -> int:
    """Bytes that were asked for when there were no more; 0 where the error does not say."""
    told = _ASKED_FOR.search(str(error))
    return int(float(told[1]) * _UNITS.get((told[2] or "").lower(), 1)) if told else 0


def _free() -> int:
    """Bytes of memory that training may take; of main memory as long as nothing has loaded torch."""
    from tiercel.students.slm_base import free_memory

    return free_memory(main="torch" not in sys.modules)
