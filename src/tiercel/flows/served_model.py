"""From a trained Hugging Face folder to what llama.cpp serves, once it is shown to be served as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.engines.openai_form import messages_json
from tiercel.errors import BundleError, MissingExtraError, RunError, StorageError
from tiercel.flows.answer_confidence import signal_names
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded
from tiercel.students.known_words import KnownWords
from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.compress.gguf import GgufPrecision
    from tiercel.compress.quality_parity import QualityParity
    from tiercel.compress.serving_parity import ServingParity
    from tiercel.compress.trained_model import TrainedModel

__all__ = ["CHECKED", "PRECISIONS", "Taught", "convert_and_check"]

Taught = tuple[tuple[Message, ...], str]
"""A request as the model is asked, and its answer."""

PRECISIONS: tuple[GgufPrecision, ...] = ("q4_0", "q4_k_m", "q8_0", "f16")
"""Smallest first."""
USUAL: GgufPrecision = "q8_0"
"""The first that is tried where none is asked for."""
CALIBRATED = ("q4_0", "q4_k_m")
"""Those whose rounding is fitted to texts of the workload."""
CALIBRATION_ROWS = 2_000
"""Training rows for that, at most."""
FOUR_BITS: dict[str, Any] = {"most_kl": 0.1, "most_gap": 1.0, "same_answers": False}
"""What `compare_serving` lets pass of 4 bits: they are another model, whose losses the gate's rows are to tell."""

CHECKED = 40
"""Rows on which serving is compared with training, token by token."""
JUDGED = 300
"""Rows on which what their answers lose is compared; those of `rows` alone where answers are cut short for time."""


def convert_and_check(
    trained: Path,
    aside: Path,
    record: GeneratorRecord,
    known: KnownWords,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
    *,
    rows: int = CHECKED,
    most_tokens: int | None = None,
    same_answers: bool = True,
    taught: Sequence[Taught] = (),
) -> tuple[GeneratorRecord, float, str]:
    """Write the smallest precision that is served as trained into `aside`, from the one that is asked for upwards.

    Args:
        trained: folder of the model.
        aside: unfinished folder of the rung; holds a folder `generator`.
        record: of the student, but for its precision.
        known: words of the training requests.
        prepared: rows; those of the gate are looked at.
        settings: of the ladder.
        progress: is told.
        rows: that are compared token by token.
        most_tokens: of the answers that are compared; None for the record's.
        same_answers: whether greedy answers have to be the same; an untuned model's free text drifts apart at the
            first near tie, which says nothing.
        taught: training rows, on which 4 bits are calibrated.

    Returns:
        The record with its precision, the share of compared answers that are the same, and what to note.

    Raises:
        DataError: none of the rows fits the student's context.
        ParityError: 16 bits are not served as trained either.
    """
    from tiercel.compress.serving_parity import LIMITS
    from tiercel.compress.trained_model import TrainedModel

    record = msgspec.structs.replace(
        record,
        signals=signal_names(
            labels=bool(record.one_token),
            fields=record.task in ("extraction", "function_calling"),
            samples=settings.gate_samples > 0,
        ),
        # A label's probability says what samples of it would.
        samples=0 if record.one_token else settings.gate_samples,
    )
    max_tokens = min(record.max_tokens, most_tokens or record.max_tokens)
    checks = _Checks(rows=rows, judged=rows if most_tokens else JUDGED, max_tokens=max_tokens, seed=settings.seed)
    in_torch, why = TrainedModel(trained), ""
    for precision in PRECISIONS[[*PRECISIONS].index(settings.precision or USUAL) :]:
        progress.stage(f"converting to {precision} and checking parity")
        limits: dict[str, Any] = FOUR_BITS
        if precision not in CALIBRATED:
            limits = {**LIMITS[precision], "same_answers": same_answers}
        served = msgspec.structs.replace(record, precision=precision)
        try:
            model = _converted(
                trained, aside / "generator" / Generator.files[0], precision, taught, context=record.context
            )
            student = Generator(model, served, known, threads=settings.threads)
            found, quality = _compared(in_torch, student, prepared, checks, limits)
        except (BundleError, RunError) as error:
            if precision == PRECISIONS[-1] or isinstance(error, StorageError):
                raise
            why += f"; {precision} differs ({error})"
            continue
        with guarded(aside):
            student.save(aside)
        why = f"{why}: {precision} is kept" if why else ""
        return student.record, found.same_answers / max(1, found.rows), f"{why}; {quality}"
    raise AssertionError("unreachable")


@dataclass(frozen=True, kw_only=True)
class _Checks:
    """How much is compared: rows token by token, rows by what their answers lose, tokens of an answer."""

    rows: int
    judged: int
    max_tokens: int
    seed: int


def _converted(
    trained: Path, target: Path, precision: GgufPrecision, taught: Sequence[Taught], *, context: int
) -> Path:
    from tiercel.compress.gguf import convert_to_gguf

    if precision not in CALIBRATED:
        return convert_to_gguf(trained, target, precision, context=context)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "compress") from None
    tokenizer: Any = AutoTokenizer.from_pretrained(str(trained))
    texts = [
        tokenizer.apply_chat_template(
            messages_json((*asked, Message(role="assistant", content=answer))), tokenize=False
        )
        for asked, answer in taught[:CALIBRATION_ROWS]
    ]
    return convert_to_gguf(trained, target, precision, texts=texts, context=context)


def _compared(
    trained: TrainedModel, student: Generator, prepared: Prepared, checks: _Checks, limits: dict[str, Any]
) -> tuple[ServingParity, QualityParity]:
    """How the student answers requests of the gate's rows (the check may not look at calibration or test).

    A student that passes is told what it says to made-up requests, by which an engine elsewhere is checked.

    Raises:
        DataError: none of the rows fits the student's context.
        ParityError: it answers otherwise than it was trained, or worse.
    """
    from tiercel.compress.quality_parity import require_quality
    from tiercel.compress.serving_parity import ParityRow, compare_serving, require_parity
    from tiercel.flows.served_quality import fitting_rows, quality_of

    try:
        fitting = fitting_rows(student, prepared.gate, most=checks.judged)
        asked = [ParityRow(messages=student.request(text).messages) for text in fitting.texts[: checks.rows]]
        found = compare_serving(trained, student.engine, asked, max_tokens=checks.max_tokens, **limits)
        require_parity(found)
        quality = quality_of(student, trained, prepared, fitting, max_tokens=checks.max_tokens, seed=checks.seed)
        require_quality(quality)
        student.record = student.probed()
        return found, quality
    finally:
        student.engine.close()
