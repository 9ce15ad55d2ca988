"""From a trained Hugging Face folder to what llama.cpp serves, once it is shown to be served as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tiercel.engines.protocol import GenerationRequest
from tiercel.errors import DataError, ParityError
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded
from tiercel.students.known_words import KnownWords

__all__ = ["CHECKED", "convert_and_check"]

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
) -> tuple[GeneratorRecord, float, str]:
    """Write the smallest precision that is served as trained into `aside`: 8 bits, else 16.

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

    Returns:
        The record with its precision, the share of compared answers that are the same, and what to note.

    Raises:
        DataError: none of the rows fits the student's context.
        ParityError: 16 bits are not served as trained either.
    """
    from tiercel.compress.gguf import convert_to_gguf
    from tiercel.compress.serving_parity import LIMITS, ParityRow, compare_serving, require_parity

    why = ""
    for precision in ("q8_0", "f16"):
        progress.stage(f"converting to {precision} and checking parity")
        target = aside / "generator" / Generator.files[0]
        model = convert_to_gguf(trained, target, precision, context=record.context)
        served = msgspec.structs.replace(record, precision=precision)
        student = Generator(model, served, known, threads=settings.threads)
        # The gate's rows: the check may not look at calibration or test.
        asked = [student.request(text) for text in prepared.gate.texts[:rows]]
        try:
            fitting = _fitting(student, asked)
            found = compare_serving(
                trained,
                student.engine,
                [ParityRow(messages=r.messages) for r in fitting],
                max_tokens=min(record.max_tokens, most_tokens or record.max_tokens),
                same_answers=same_answers,
                **LIMITS[precision],
            )
            require_parity(found)
        except ParityError as error:
            if precision == "f16":
                raise
            why = f"; q8_0 differs ({error}): f16 is kept"
            continue
        finally:
            student.engine.close()
        with guarded(aside):
            student.save(aside)
        return served, found.same_answers / max(1, found.rows), why
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
