"""From a trained Hugging Face folder to what llama.cpp serves, once it is shown to be served as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tiercel.engines.openai_form import messages_json
from tiercel.engines.protocol import GenerationRequest
from tiercel.errors import BundleError, DataError, MissingExtraError, RunError, StorageError
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded
from tiercel.students.known_words import KnownWords
from tiercel.types import Message

if TYPE_CHECKING:
    from tiercel.compress.gguf import GgufPrecision
    from tiercel.compress.serving_parity import ServingParity

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
"""What `compare_serving` lets pass of 4 bits: they are another model, whose losses the certificate's rows tell."""

CHECKED = 40
"""Rows on which serving is compared with training."""


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
        rows: that are compared.
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

    why = ""
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
            found = _compared(trained, student, prepared.gate.texts[:rows], most_tokens, limits)
        except (BundleError, RunError) as error:
            if precision == PRECISIONS[-1] or isinstance(error, StorageError):
                raise
            why += f"; {precision} differs ({error})"
            continue
        with guarded(aside):
            student.save(aside)
        return served, found.same_answers / max(1, found.rows), f"{why}: {precision} is kept" if why else ""
    raise AssertionError("unreachable")


def _fitting(student: Generator, asked: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The requests that fit the student's context beside an answer."""
    record = student.record
    sizes = [student.engine.count_tokens(request.messages) + record.max_tokens for request in asked]
    if asked and min(sizes) > record.context:
        raise DataError(
            f"the context of {record.context} tokens is too small for every request: the shortest takes {min(sizes)}, "
            f"{record.max_tokens} of them for its answer; choose a model with a longer one, or shorten the instructions"
        )
    return [request for request, size in zip(asked, sizes, strict=True) if size <= record.context]


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
    trained: Path, student: Generator, texts: Sequence[str], most_tokens: int | None, limits: dict[str, Any]
) -> ServingParity:
    """How the student answers requests of the gate's rows (the check may not look at calibration or test).

    Raises:
        ParityError: otherwise than it was trained.
    """
    from tiercel.compress.serving_parity import ParityRow, compare_serving, require_parity

    record, engine = student.record, student.engine
    try:
        fitting = _fitting(student, [student.request(text) for text in texts])
        found = compare_serving(
            trained,
            engine,
            [ParityRow(messages=r.messages) for r in fitting],
            max_tokens=min(record.max_tokens, most_tokens or record.max_tokens),
            **limits,
        )
        require_parity(found)
        return found
    finally:
        engine.close()
