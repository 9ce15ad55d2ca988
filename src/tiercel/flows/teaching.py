"""Which local model teaches a generative rung, and how; a way that does not fit the teacher is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiercel.errors import BundleError, ConfigurationError
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.progress import Progress

if TYPE_CHECKING:
    from tiercel.students.micro_tokenizer import MicroTokenizer
    from tiercel.students.slm_base import SlmBase
    from tiercel.students.slm_rows import ChatRow
    from tiercel.students.slm_teaching import SlmTeaching
    from tiercel.students.slm_training import SlmPlan

__all__ = ["WAYS", "MicroTeaching", "check_teaching", "teach_micro", "teach_slm"]

WAYS = ("answers", "logits", "on-policy", "gold")
"""answers: the recorded answers alone (sequence level); logits: also the likeliest tokens of a teacher with the same
tokenizer; on-policy: the teacher also judges what the student itself says (GKD); gold: a teacher with another
tokenizer."""
WEIGHT = 0.5
"""Of the teacher against the answers."""


@dataclass(frozen=True, kw_only=True)
class MicroTeaching:
    """What a teacher adds to the training of a micro rung; nothing where there is none.

    Attributes:
        loss: of answer tokens, or None for cross entropy.
        further: a loss that is added at each step, or None.
        tokenizer: the teacher's, which the student takes over.
        said: what a report notes.
    """

    loss: Callable[..., Any] | None = None
    further: Callable[..., Any] | None = None
    tokenizer: MicroTokenizer | None = None
    said: str = ""


def check_teaching(teacher: Path | None, distil: str | None) -> None:
    """Raise `ConfigurationError` for a teacher and a way that do not go together."""
    if distil is not None and distil not in WAYS:
        raise ConfigurationError(f"--distil is {distil!r}; choose from {', '.join(WAYS)}")
    if teacher is None and distil not in (None, "answers"):
        raise ConfigurationError(f"--distil {distil} needs a teacher; give --teacher FOLDER")
    if teacher is not None and distil == "answers":
        raise ConfigurationError("--distil answers learns from the recorded answers alone; leave --teacher out")
    if teacher is not None and not (teacher / "config.json").is_file():
        raise ConfigurationError(
            f"--teacher {teacher}: no model is there (config.json); give a Hugging Face folder, or one that a micro "
            "rung was trained into"
        )


def teach_micro(settings: LadderSettings, rows: Sequence[tuple[str, str]], progress: Progress) -> MicroTeaching:
    """What the teacher adds to a micro rung that learns `rows`.

    Raises:
        ConfigurationError: the teacher is no decoder of the micro rung, or the way does not fit.
    """
    if settings.teacher is None:
        return MicroTeaching()
    from tiercel.students.micro import MicroStudent
    from tiercel.students.micro_on_policy import MicroOnPolicy
    from tiercel.students.micro_teaching import answer_logprobs, taught_loss

    way = settings.distil or "logits"
    if way == "gold":
        raise ConfigurationError(
            "the micro rung takes its teacher's tokenizer over, and gold is for teachers with another; "
            "give --distil logits or on-policy with a teacher of the micro rung, or --students slm"
        )
    try:
        teacher = MicroStudent.load(settings.teacher)
    except BundleError:
        raise ConfigurationError(
            f"--teacher {settings.teacher}: its tokenizer is not one of the micro rung, which needs a teacher that was "
            "trained as micro; give such a folder, or teach a pretrained student: --students slm --model NAME "
            "--distil gold"
        ) from None
    said = f"; taught by {settings.teacher.name} ({way})"
    if way == "on-policy":
        judge = MicroOnPolicy(teacher, weight=WEIGHT, seed=settings.seed)
        return MicroTeaching(further=judge, tokenizer=teacher.tokenizer, said=said)
    progress.stage(f"recording what the teacher holds likely in {len(rows):,} answers")
    loss = taught_loss(answer_logprobs(teacher, rows), weight=WEIGHT)
    return MicroTeaching(loss=loss, tokenizer=teacher.tokenizer, said=said)


def teach_slm(
    settings: LadderSettings, base: SlmBase, rows: Sequence[ChatRow], plan: SlmPlan, progress: Progress
) -> SlmTeaching | None:
    """What the teacher adds to the tuning of `base` on `rows`; None without a teacher.

    Raises:
        ConfigurationError: the teacher's tokenizer does not fit the way.
    """
    if settings.teacher is None:
        return None
    from tiercel.students.slm_base import open_base
    from tiercel.students.slm_teaching import AcrossTokenizers, OnPolicy, RecordedLogits, same_tokenizer

    way = settings.distil or "logits"
    teacher = open_base(str(settings.teacher))
    same = same_tokenizer(base, teacher)
    if not same and way != "gold":
        raise ConfigurationError(
            f"--teacher {settings.teacher}: its tokenizer is another than that of {base.name}, so that {way} can't "
            "compare their tokens; give --distil gold, which compares pieces of text"
        )
    if same and way == "gold":
        raise ConfigurationError(
            f"--teacher {settings.teacher} has the tokenizer of {base.name}, and gold is for another; give --distil "
            "logits or on-policy"
        )
    progress.stage(f"reading the teacher {teacher.name}")
    context = min(plan.context, base.context)
    if way == "on-policy":
        return OnPolicy(base, teacher, weight=WEIGHT, context=context, seed=settings.seed)
    if way == "gold":
        return AcrossTokenizers(base, teacher, rows, weight=WEIGHT, context=min(plan.context, teacher.context))
    return RecordedLogits(base, teacher, rows, weight=WEIGHT, context=context, progress=progress.step)
