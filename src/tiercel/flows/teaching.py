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
    from tiercel.students.distillation import Divergence
    from tiercel.students.micro_tokenizer import MicroTokenizer
    from tiercel.students.slm_base import SlmBase
    from tiercel.students.slm_rows import ChatRow
    from tiercel.students.slm_teaching import SlmTeaching
    from tiercel.students.slm_training import SlmPlan

__all__ = ["DIVERGENCES", "WAYS", "MicroTeaching", "check_teaching", "teach_micro", "teach_slm"]

WAYS = ("answers", "logits", "on-policy", "gold")
"""answers: the recorded answers alone (sequence level); logits: also the likeliest tokens of a teacher with the same
tokenizer; on-policy: the teacher also judges what the student itself says (GKD); gold: a teacher with another
tokenizer."""
DIVERGENCES = {"forward": "forward_kl", "reverse": "reverse_kl", "jensen-shannon": "jensen_shannon"}
"""How far a student is from its teacher, by the names of functions in `tiercel.students.distillation`."""
WEIGHTS = {"logits": 0.9, "on-policy": 0.5, "gold": 0.5}
"""Of the teacher against the answers; that of logits was the best of several on held-out rows, with its temperature."""
TEMPERATURES = {"logits": 2.0, "on-policy": 1.0}
USUAL_DIVERGENCE = {"logits": "forward", "on-policy": "jensen-shannon"}
MOST_TEMPERATURE = 100.0


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


def check_teaching(
    teacher: Path | None,
    distil: str | None,
    *,
    divergence: str | None = None,
    weight: float | None = None,
    temperature: float | None = None,
) -> None:
    """Raise `ConfigurationError` for a teacher, a way and numbers that do not go together."""
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
    given = {"divergence": divergence, "weight": weight, "temperature": temperature}
    named = [f"--distil-{name}" for name, value in given.items() if value is not None]
    if named and teacher is None:
        raise ConfigurationError(f"{named[0]} says how a teacher is followed; give --teacher FOLDER")
    if distil == "gold" and (divergence is not None or temperature is not None):
        raise ConfigurationError("--distil gold compares sorted probabilities; it takes --distil-weight alone")
    if divergence is not None and divergence not in DIVERGENCES:
        raise ConfigurationError(f"--distil-divergence is {divergence!r}; choose from {', '.join(DIVERGENCES)}")
    if weight is not None and not 0 < weight <= 1:
        raise ConfigurationError(f"--distil-weight is {weight}; give a share above 0, up to 1, such as 0.9")
    if temperature is not None and not 0 < temperature <= MOST_TEMPERATURE:
        raise ConfigurationError(
            f"--distil-temperature is {temperature}; give one above 0, up to {MOST_TEMPERATURE:g}, such as 2"
        )


@dataclass(frozen=True, kw_only=True)
class _Following:
    """How a teacher is followed in one of the ways.

    Attributes:
        weight: of the teacher against the answers.
        temperature: flattens both sides of the divergence.
        divergence: between student and teacher.
        said: what of it the user chose, for the report.
    """

    weight: float
    temperature: float
    divergence: Divergence
    said: str


def _following(settings: LadderSettings, way: str) -> _Following:
    from tiercel.students import distillation

    name = settings.distil_divergence or USUAL_DIVERGENCE.get(way, "forward")
    weight = WEIGHTS[way] if settings.distil_weight is None else settings.distil_weight
    temperature = settings.distil_temperature or TEMPERATURES.get(way, 1.0)
    chosen = [
        told
        for told, given in (
            (f"{name} divergence", settings.distil_divergence),
            (f"weight {weight:g}", settings.distil_weight),
            (f"temperature {temperature:g}", settings.distil_temperature),
        )
        if given is not None
    ]
    divergence: Divergence = getattr(distillation, DIVERGENCES[name])
    said = f", {', '.join(chosen)}" if chosen else ""
    return _Following(weight=weight, temperature=temperature, divergence=divergence, said=said)


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
    how = _following(settings, way)
    said = f"; taught by {settings.teacher.name} ({way}{how.said})"
    if way == "on-policy":
        judge = MicroOnPolicy(
            teacher, weight=how.weight, seed=settings.seed, divergence=how.divergence, temperature=how.temperature
        )
        return MicroTeaching(further=judge, tokenizer=teacher.tokenizer, said=said)
    progress.stage(f"recording what the teacher holds likely in {len(rows):,} answers")
    told = answer_logprobs(teacher, rows)
    loss = taught_loss(told, weight=how.weight, temperature=how.temperature, divergence=how.divergence)
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
    how = _following(settings, way)
    if way == "gold":
        context = min(plan.context, teacher.context)
        return AcrossTokenizers(base, teacher, rows, weight=how.weight, context=context, more=how.said)
    if way == "on-policy":
        return OnPolicy(
            base,
            teacher,
            weight=how.weight,
            context=context,
            seed=settings.seed,
            divergence=how.divergence,
            temperature=how.temperature,
            more=how.said,
        )
    return RecordedLogits(
        base,
        teacher,
        rows,
        weight=how.weight,
        context=context,
        progress=progress.step,
        temperature=how.temperature,
        divergence=how.divergence,
        more=how.said,
    )
