"""What the answers of a served model lose on the gate's rows, beside those of the trained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tiercel.engines.protocol import Generated, GenerationRequest
from tiercel.errors import DataError
from tiercel.flows.generating import Generator
from tiercel.flows.preparation import Prepared, Rows

if TYPE_CHECKING:
    from tiercel.compress.quality_parity import Judged, QualityParity
    from tiercel.compress.trained_model import TrainedModel

__all__ = ["fitting_rows", "quality_of"]


def fitting_rows(student: Generator, rows: Rows, *, most: int) -> Rows:
    """The first of the rows, `most` at the most, that fit the student's context with their answers.

    Raises:
        DataError: there are rows, and none fits.
    """
    record = student.record
    sizes = [
        student.engine.count_tokens(student.request(text).messages) + record.max_tokens for text in rows.texts[:most]
    ]
    if sizes and min(sizes) > record.context:
        raise DataError(
            f"the context of {record.context} tokens is too small for every request: the shortest takes {min(sizes)}, "
            f"{record.max_tokens} of them for its answer; choose a model with a longer one, or shorten the instructions"
        )
    return rows.take(np.flatnonzero(np.array(sizes, dtype=np.int64) <= record.context))


def quality_of(
    student: Generator, trained: TrainedModel, prepared: Prepared, rows: Rows, *, max_tokens: int, seed: int
) -> QualityParity:
    """Both models answer `rows` greedily and freely: a grammar would hide what a conversion broke.

    Args:
        student: what would be served.
        trained: the model that it was made of.
        prepared: knows what an answer loses.
        rows: that fit.
        max_tokens: of the answers.
        seed: of the tests' draws.
    """
    from tiercel.compress.quality_parity import compare_quality

    asked = [student.request(text).messages for text in rows.texts]
    found = student.engine.generate_many(
        [GenerationRequest(messages=m, max_tokens=max_tokens, logprobs=0) for m in asked]
    )
    served = [_whole(f) for f in found]
    own = trained.answer_many([trained.prompt(m)[1] for m in asked], max_tokens)
    return compare_quality(
        _judged(
            student, prepared, rows, [g.answer.text for g in served], [sum(t.logprob for t in g.tokens) for g in served]
        ),
        _judged(student, prepared, rows, [a.text for a in own], [a.logprob for a in own]),
        seed=seed,
    )


def _whole(found: Generated | Exception) -> Generated:
    if isinstance(found, Exception):
        raise found
    return found


def _judged(
    student: Generator, prepared: Prepared, rows: Rows, said: Sequence[str], logprobs: Sequence[float]
) -> Judged:
    from tiercel.compress.quality_parity import Judged

    losses = prepared.losses(rows, [student.read(*row) for row in zip(rows.texts, said, strict=True)])
    return Judged(losses=losses, right=losses <= rows.frontier_loss, logprobs=np.array(logprobs, dtype=np.float64))
