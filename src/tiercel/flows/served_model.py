"""From a trained Hugging Face folder to what llama.cpp serves, once it is shown to be served as it was trained."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tiercel.errors import ParityError
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded
from tiercel.students.known_words import KnownWords

__all__ = ["CHECKED", "PRECISIONS", "Taught", "convert_and_check"]

Taught = tuple[tuple[Message, ...], str]
"""A request as the model is asked, and its answer."""

PRECISIONS = ("q4_0", "q4_k_m", "q8_0", "f16")
"""Smallest first."""
USUAL = "q8_0"
"""The first that is tried where none is asked for."""
CALIBRATED = 2_000
"""Training rows, at most, on which 4 bits are calibrated."""

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
        ParityError: 16 bits are not served as trained either.
    """
    from tiercel.compress.gguf import convert_to_gguf
    from tiercel.compress.serving_parity import ParityRow, compare_serving, require_parity

    why = ""
    for precision in PRECISIONS[PRECISIONS.index(settings.precision or USUAL) :]:
        progress.stage(f"converting to {precision} and checking parity")
        model = convert_to_gguf(trained, aside / "generator" / Generator.files[0], precision)
        served = msgspec.structs.replace(record, precision=precision)
        student = Generator(model, served, known, threads=settings.threads)
        # The gate's rows: the check may not look at calibration or test.
        asked = [student.request(text) for text in prepared.gate.texts[:rows]]
        fitting = [r for r in asked if student.engine.count_tokens(r.messages) + record.max_tokens <= record.context]
        try:
            found = compare_serving(
                trained,
                student.engine,
                [ParityRow(messages=r.messages) for r in fitting],
                max_tokens=min(record.max_tokens, most_tokens or record.max_tokens),
                same_answers=same_answers,
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
