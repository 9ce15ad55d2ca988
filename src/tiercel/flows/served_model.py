"""From a trained Hugging Face folder to what llama.cpp serves, once it is shown to be served as it was trained."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tiercel.errors import ParityError
from tiercel.flows.answer_confidence import signal_names
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded
from tiercel.students.known_words import KnownWords

__all__ = ["CHECKED", "convert_and_check"]

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
        rows: that are compared token by token.
        most_tokens: of the answers that are compared; None for the record's.
        same_answers: whether greedy answers have to be the same; an untuned model's free text drifts apart at the
            first near tie, which says nothing.

    Returns:
        The record with its precision, the share of compared answers that are the same, and what to note.

    Raises:
        ParityError: 16 bits are not served as trained either.
    """
    from tiercel.compress.gguf import convert_to_gguf
    from tiercel.compress.quality_parity import require_quality
    from tiercel.compress.serving_parity import ParityRow, compare_serving, require_parity
    from tiercel.compress.trained_model import TrainedModel
    from tiercel.flows.served_quality import fitting_rows, quality_of

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
    why, judged = "", rows if most_tokens else JUDGED
    max_tokens = min(record.max_tokens, most_tokens or record.max_tokens)
    model_in_torch = TrainedModel(trained)
    for precision in ("q8_0", "f16"):
        progress.stage(f"converting to {precision} and checking parity")
        model = convert_to_gguf(trained, aside / "generator" / Generator.files[0], precision)
        served = msgspec.structs.replace(record, precision=precision)
        student = Generator(model, served, known, threads=settings.threads)
        # The gate's rows: the check may not look at calibration or test.
        fitting = fitting_rows(student, prepared.gate, most=judged)
        asked = [student.request(text) for text in fitting.texts[:rows]]
        try:
            found = compare_serving(
                model_in_torch,
                student.engine,
                [ParityRow(messages=r.messages) for r in asked],
                max_tokens=max_tokens,
                same_answers=same_answers,
            )
            require_parity(found)
            quality = quality_of(student, model_in_torch, prepared, fitting, max_tokens=max_tokens, seed=settings.seed)
            require_quality(quality)
            served = student.record = student.probed()
        except ParityError as error:
            if precision == "f16":
                raise
            why = f"; q8_0 differs ({error}): f16 is kept"
            continue
        finally:
            student.engine.close()
        with guarded(aside):
            student.save(aside)
        return served, found.same_answers / max(1, found.rows), f"{why}; {quality}"
    raise AssertionError("unreachable")
