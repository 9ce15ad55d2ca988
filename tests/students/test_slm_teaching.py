"""A larger pretrained model teaches a smaller one, in three ways, on tiny models that are made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines.tiny_llama import make_llama, sentences, train
from tests.students.test_slm_training import HELD, ROWS, weights
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.students.slm_adapter import load_model, merge_adapter
from tiercel.students.slm_base import SlmBase, open_base
from tiercel.students.slm_rows import encode_chat_rows
from tiercel.students.slm_teaching import AcrossTokenizers, OnPolicy, RecordedLogits, SlmTeaching, same_tokenizer
from tiercel.students.slm_training import SlmPlan, SlmTraining, train_slm

pytest.importorskip("peft")

PLAN = SlmPlan(learning_rate=1e-2, batch=16, at_once=8, epochs=2, looks=2, context=96)
Make = Callable[[SlmBase, SlmBase], SlmTeaching]


def logits(base: SlmBase, teacher: SlmBase) -> SlmTeaching:
    return RecordedLogits(base, teacher, ROWS, weight=0.5, context=96)


def on_policy(base: SlmBase, teacher: SlmBase) -> SlmTeaching:
    return OnPolicy(base, teacher, weight=0.5, context=96)


def gold(base: SlmBase, teacher: SlmBase) -> SlmTeaching:
    pytest.importorskip("trl")
    return AcrossTokenizers(base, teacher, ROWS, weight=0.5, context=96)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SlmBase:
    return open_base(str(make_llama(tmp_path_factory.mktemp("base") / "Tiny")))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> SlmBase:
    folder = make_llama(tmp_path_factory.mktemp("teacher") / "Larger", seed=3, layers=3)
    return open_base(str(train(folder, steps=60)))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SlmBase:
    """A teacher with another tokenizer: a decoder of the micro rung is a Llama with a vocabulary of its own."""
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("stranger") / "Other"
    plan = MicroPlan(size=120_000, epochs=10, batch=32, warmup=5, context=128)
    train_micro(sentences()[30:], sentences()[:30], folder, plan, threads=1)
    return open_base(str(folder))


def loss_of(teaching: SlmTeaching, base: SlmBase) -> torch.Tensor:
    """The teacher's loss of some rows before anything is tuned."""
    fit, _ = encode_chat_rows(base.tokenizer, ROWS, context=96, ends=base.ends)
    model = load_model(base, torch.float32).eval()
    return teaching.loss(model, fit.rows[:6], 0, 10)


@pytest.mark.parametrize("make", [logits, on_policy, gold])
def test_a_teacher_that_is_the_student_teaches_nothing(base: SlmBase, teacher: SlmBase, make: Make) -> None:
    same = loss_of(make(base, base), base)
    other = loss_of(make(base, teacher), base)
    assert float(same) == pytest.approx(0, abs=5e-3)
    assert float(other) > 0.1
    other.backward()


@pytest.mark.parametrize("make", [logits, on_policy])
def test_a_student_that_is_taught_comes_closer_to_its_teacher(
    base: SlmBase, teacher: SlmBase, make: Make, tmp_path: Path
) -> None:
    def tune(name: str, teaching: SlmTeaching | None) -> SlmTraining:
        return train_slm(base, ROWS, HELD, tmp_path / name, PLAN, threads=1, teaching=teaching)

    plain, taught = tune("plain", None), tune("taught", make(base, teacher))
    assert taught.losses[-1] < 0.5 * taught.losses[0]
    assert taught.losses[0] == plain.losses[0]
    assert taught.losses[-1] != plain.losses[-1]
    assert taught.steps == plain.steps
    again = tune("again", make(base, teacher))
    assert again.losses == taught.losses
    one, other = weights(tmp_path / "taught"), weights(tmp_path / "again")
    assert all((one[k] == other[k]).all() for k in one), "the same seed gives the same adapter"


def test_gold_lowers_its_own_loss_across_tokenizers(base: SlmBase, stranger: SlmBase, tmp_path: Path) -> None:
    assert not same_tokenizer(base, stranger)
    teaching = gold(base, stranger)
    before = float(loss_of(teaching, base).detach())
    plan = replace(PLAN, epochs=8)
    told = train_slm(base, ROWS, HELD, tmp_path / "taught", plan, threads=1, teaching=teaching)
    merged = open_base(str(merge_adapter(base, tmp_path / "taught", tmp_path / "merged", ends=told.ends)))
    assert float(loss_of(teaching, merged).detach()) < 0.7 * before


def test_gold_places_the_tokens_of_both_in_the_same_text(base: SlmBase, stranger: SlmBase) -> None:
    teaching: Any = gold(base, stranger)
    for side in (base, stranger):
        fit, _ = encode_chat_rows(side.tokenizer, ROWS, context=96, ends=side.ends)
        offsets = teaching._offsets(side.tokenizer, fit.rows)
        for row, places in zip(fit.rows, offsets, strict=True):
            answer = ROWS[row.number].answer
            spans = places[row.start : len(row.ids)].tolist()
            assert spans[0][0] == 0
            assert spans[-1] == [len(answer), len(answer)], "the end has no text"
            assert all(a[1] == b[0] for a, b in pairwise(spans))
            pieces = [side.tokenizer.decode([t]).strip() for t in row.ids[row.start : -1]]
            told = [answer[a:b] for a, b in spans[:-1]]
            assert told == pieces


def test_tokenizers_are_told_apart(base: SlmBase, teacher: SlmBase, stranger: SlmBase) -> None:
    assert same_tokenizer(base, teacher)
    assert not same_tokenizer(base, stranger)
