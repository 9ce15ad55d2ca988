"""A larger decoder teaches a smaller one on a tiny workload."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.students.micro_rows import orders
from tiercel.errors import ConfigurationError
from tiercel.students.distillation import jensen_shannon, reverse_kl
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_rows import Batch, encode_rows
from tiercel.students.micro_teaching import answer_logprobs, taught_loss
from tiercel.students.micro_training import MicroPlan, train_micro

ROWS, HELD_OUT = orders(300), orders(60, seed=1)
PLAN = MicroPlan(size=120_000, epochs=2, batch=32, warmup=5, context=128, swap=0.5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> MicroStudent:
    folder = tmp_path_factory.mktemp("teacher")
    train_micro(ROWS, HELD_OUT, folder, PLAN, threads=1)
    return MicroStudent.load(folder)


def batch_of(teacher: MicroStudent, numbers: list[int]) -> tuple[Batch, torch.Tensor]:
    shape = teacher.decoder.shape
    rows = encode_rows(
        teacher.tokenizer, [ROWS[abs(i)] for i in numbers], context=shape.context, answer=shape.answer, numbers=numbers
    )
    batch = Batch.of(rows, teacher.tokenizer.end_id)
    with torch.no_grad():
        return batch, teacher.decoder.logits(teacher.decoder(batch.ids)[0][batch.answered]).float()


def test_a_teacher_is_recorded_token_by_token(teacher: MicroStudent) -> None:
    told = answer_logprobs(teacher, [*ROWS[:40], ("request", "")], k=4)
    assert len(told) == 41
    assert told.starts[-1] == told.starts[-2], "an empty answer has no token"
    _, logits = batch_of(teacher, [7])
    here = slice(told.starts[7], told.starts[8])
    expected = logits.log_softmax(-1).topk(4)
    assert (told.ids[here] == expected.indices.numpy()).all()
    assert np.allclose(told.logprobs[here], expected.values.numpy(), atol=5e-3)


@pytest.mark.parametrize("divergence", [None, reverse_kl, partial(jensen_shannon, beta=0.3)])
def test_a_student_that_says_the_same_pays_only_for_its_answers(teacher: MicroStudent, divergence: object) -> None:
    told = answer_logprobs(teacher, ROWS, k=8)
    batch, logits = batch_of(teacher, [3, 250, 11])
    more = {"divergence": divergence} if divergence else {}
    loss = taught_loss(told, weight=0.4, temperature=2.0, **more)(logits, batch.targets, batch.rows)
    assert float(loss) == pytest.approx(0.6 * float(functional.cross_entropy(logits, batch.targets)), abs=2e-3)
    apart = taught_loss(told, weight=1.0, **more)(torch.randn(logits.shape), batch.targets, batch.rows)
    assert float(apart) > 0.05


def test_changed_rows_are_learnt_from_their_answers_alone(teacher: MicroStudent) -> None:
    told = answer_logprobs(teacher, ROWS, k=8)
    batch, logits = batch_of(teacher, [5, 6])
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    own = functional.cross_entropy(noise, batch.targets)
    unknown = torch.full_like(batch.rows, -1)
    assert taught_loss(told, weight=0.7)(noise, batch.targets, unknown) == pytest.approx(float(own))
    first = batch.rows == 5
    mixed = torch.where(first, batch.rows, -1)
    found = taught_loss(told, weight=0.7)(noise, batch.targets, mixed)
    alone = taught_loss(told, weight=1.0)(noise[first], batch.targets[first], batch.rows[first])
    share = 0.7 * float(first.float().mean())
    assert float(found) == pytest.approx((1 - share) * float(own) + share * float(alone), rel=1e-4)


def test_a_taught_student_comes_closer_to_its_teacher(teacher: MicroStudent, tmp_path: Path) -> None:
    told = answer_logprobs(teacher, ROWS, k=8)
    losses = {}
    for name, loss in (("alone", None), ("taught", taught_loss(told, weight=0.9))):
        plan = MicroPlan(size=100_000, epochs=3, batch=32, warmup=5, context=128, swap=0.0)
        train_micro(ROWS, HELD_OUT, tmp_path / name, plan, threads=1, loss=loss)
        student = MicroStudent.load(tmp_path / name)
        batch, logits = batch_of(teacher, list(range(40)))
        with torch.no_grad():
            own = student.decoder.logits(student.decoder(batch.ids)[0][batch.answered]).float()
        losses[name] = float(
            functional.kl_div(own.log_softmax(-1), logits.log_softmax(-1), reduction="batchmean", log_target=True)
        )
    assert losses["taught"] < losses["alone"]


@pytest.mark.parametrize("numbers", [{"weight": 1.5}, {"weight": -0.1}, {"temperature": 0.0}])
def test_numbers_that_cannot_be_are_refused(teacher: MicroStudent, numbers: dict[str, float]) -> None:
    told = answer_logprobs(teacher, ROWS[:10])
    with pytest.raises(ConfigurationError, match="give 0 to 1"):
        taught_loss(told, **numbers)
    assert math.isfinite(float(told.tail.max()))
