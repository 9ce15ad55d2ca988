"""Whether a rung is trained in stages: it is trained both ways, and held-out rows decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tiercel.datasets.curriculum import CurriculumVerdict, curriculum_helps, difficulty_of
from tiercel.flows.curating import quality_of
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import write_file
from tiercel.students.held_out import word_losses

__all__ = ["choose_way", "difficulties", "said_of"]


class Trained(Protocol):
    """What a training has to tell."""

    @property
    def held_out_nll(self) -> tuple[float | None, ...]:
        """Negative log likelihood of each held-out answer, in nats; None where one does not fit."""
        ...


T = TypeVar("T", bound=Trained)


def difficulties(prepared: Prepared, answers: Sequence[str], seed: int) -> list[float]:
    """How late each training row is to come: long ones and doubted ones last."""
    return difficulty_of(prepared.train.texts, answers, quality_of(prepared, seed)).tolist()


def choose_way(
    name: str,
    train: Callable[[str, Sequence[float] | None], T],
    kind: type[T],
    difficulty: Sequence[float] | None,
    held_answers: Sequence[str],
    work: Path,
    progress: Progress,
    *,
    seed: int,
) -> tuple[T, str, CurriculumVerdict | None]:
    """Train plainly and, where a difficulty is given, in stages; take the stages only if they lower held-out loss.

    Args:
        name: of the plain training's folder; that in stages has `-staged` behind it.
        train: trains into the folder of the name that it is given, by the difficulty that it is given.
        kind: of what it returns, to read it again in a pilot that is taken up.
        difficulty: of each row that is trained on; None trains plainly alone.
        held_answers: answers of the held-out rows.
        work: folder of the folders.
        progress: is told.
        seed: of the interval.

    Returns:
        What the better training told, the name of its folder, and the verdict.
    """
    if difficulty is None:
        return train(name, None), name, None

    def once(folder: str, by: Sequence[float] | None) -> T:
        record = work / f"{folder}.json"
        if record.is_file() and (work / folder).is_dir():
            return msgspec.json.decode(record.read_bytes(), type=kind)
        told = train(folder, by)
        write_file(record, msgspec.json.encode(told))
        return told

    plain = once(name, None)
    progress.stage("training again, in stages of rising difficulty")
    staged = once(f"{name}-staged", difficulty)
    answers = held_answers[: len(plain.held_out_nll)]
    verdict = curriculum_helps(
        word_losses(staged.held_out_nll, answers), word_losses(plain.held_out_nll, answers), seed=seed
    )
    return (staged, f"{name}-staged", verdict) if verdict.helps else (plain, name, verdict)


def said_of(verdict: CurriculumVerdict | None) -> str:
    """What a report notes of the decision."""
    if verdict is None:
        return ""
    gain = verdict.gain
    kept = "kept" if verdict.helps else "not kept"
    return (
        f"; stages of rising difficulty {kept}: held-out loss of a word lower by {gain.value:.3f} "
        f"[{gain.low:.3f}, {gain.high:.3f}] on {verdict.rows} rows"
    )
