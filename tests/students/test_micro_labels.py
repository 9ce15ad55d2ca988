"""Labels of the micro rung: one token each, softened by a view from outside, with requests learnt beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.students.micro_rows import labelled
from tiercel.students.micro_labels import WEIGHT, are_one_token, label_plan, softened_loss
from tiercel.students.micro_model import MicroShape
from tiercel.students.micro_rows import Batch, encode_rows
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.students.micro_vocabulary import train_tokenizer

ROWS = labelled(240)
LABELS = ("card_lost", "greeting", "rate_asked")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MicroTokenizer:
    return train_tokenizer(ROWS, tmp_path_factory.mktemp("tokenizer"))


def batch_of(tokenizer: MicroTokenizer, numbers: list[int]) -> Batch:
    rows = encode_rows(tokenizer, [ROWS[i] for i in numbers], context=64, answer=8, numbers=numbers)
    return Batch.of(rows, tokenizer.end_id)


def test_labels_of_the_workload_are_one_token(tokenizer: MicroTokenizer) -> None:
    assert are_one_token(tokenizer, LABELS)
    assert not are_one_token(tokenizer, [*LABELS, "card_found"])


def test_the_first_token_is_mixed_with_the_view_and_the_end_is_not(tokenizer: MicroTokenizer) -> None:
    view = np.random.default_rng(0).dirichlet(np.ones(3), len(ROWS))
    batch = batch_of(tokenizer, [5, 9])
    logits = torch.randn((4, len(tokenizer)), generator=torch.Generator().manual_seed(0))
    got = float(softened_loss(tokenizer, LABELS, view)(logits, batch.targets, batch.rows))
    said = logits.log_softmax(-1)
    tokens = [ids[0] for ids in tokenizer.encode(LABELS)]
    apart = []
    for place, row in ((0, 5), (2, 9)):
        p = torch.tensor(view[row])
        apart.append(float((p * (p.log() - said[place, tokens])).sum()))
    share = WEIGHT / 2
    wanted = (1 - share) * float(functional.cross_entropy(logits, batch.targets)) + share * float(np.mean(apart))
    assert got == pytest.approx(wanted, rel=2e-2), "half precision of the record"


def test_a_view_that_rules_a_label_out_leaves_the_loss_finite(tokenizer: MicroTokenizer) -> None:
    view = np.eye(3)[np.zeros(len(ROWS), dtype=int)]
    batch = batch_of(tokenizer, [1, 2])
    logits = torch.zeros((4, len(tokenizer)), requires_grad=True)
    loss = softened_loss(tokenizer, LABELS, view)(logits, batch.targets, batch.rows)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_requests_tokens_are_those_between_the_markers(tokenizer: MicroTokenizer) -> None:
    batch = batch_of(tokenizer, [3, 4, 7])
    following = batch.ids[:, 1:]
    for i, number in enumerate((3, 4, 7)):
        assert following[i][batch.asked[i, :-1]].tolist() == tokenizer.encode([ROWS[number][0]])[0]
    assert not (batch.asked & batch.answered).any()


def test_the_plan_goes_with_the_vocabulary_and_the_rows(tokenizer: MicroTokenizer) -> None:
    few, many = label_plan(tokenizer, 200, 3.0), label_plan(tokenizer, 50_000, None)
    assert (few.minutes, few.epochs, many.epochs) == (3.0, 40, 6)
    assert few.size == many.size > 64 * len(tokenizer)
    assert MicroShape.of_size(few.size, vocabulary=len(tokenizer), context=64, answer=8).width >= 64


def test_requests_are_learnt_beside_labels_and_forgotten_at_the_end(tmp_path: Path) -> None:
    plan = MicroPlan(size=120_000, epochs=6, batch=32, warmup=5, context=64)
    losses = [
        train_micro(ROWS[40:], ROWS[:40], tmp_path / str(weight), replace(plan, request=weight), threads=1).losses
        for weight in (0.0, 0.5)
    ]
    assert losses[0] != losses[1]
    assert all(min(found) < 0.3 for found in losses)
