"""On-policy distillation with two real decoders that are made here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tiercel.students.distillation import IGNORED, distillation_loss, forward_kl, jensen_shannon, reverse_kl
from tiercel.students.on_policy import AnswerBatch, PolicyStep, collate, on_policy_step

V, PAD = 16, 0
REQUESTS = [torch.tensor([3, 4]), torch.tensor([5]), torch.tensor([6, 7, 8]), torch.tensor([9, 10])]
ANSWERS = [torch.tensor([1, 2, 3]), torch.tensor([2, 2]), torch.tensor([4, 4, 4, 4]), torch.tensor([11])]


def decoder(seed: int, width: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def logits_of(model: Any) -> Any:
    return lambda ids, attention: model(input_ids=ids, attention_mask=attention).logits


def sampler(model: Any, tokens: int = 5) -> Any:
    def sample(requests: Sequence[Tensor]) -> list[Tensor]:
        said = []
        for request in requests:
            out = model.generate(request[None], max_new_tokens=tokens, do_sample=True, top_k=0)
            said.append(out[0, len(request) :])
        return said

    return sample


def step(student: Any, teacher: Any, share: float, **settings: Any) -> PolicyStep:
    plan = {"sample": sampler(student), "pad": PAD, "longest": 12, **settings}
    return on_policy_step(
        REQUESTS, ANSWERS, student=logits_of(student), teacher=logits_of(teacher), share=share, **plan
    )


def test_a_batch_labels_the_answer_alone() -> None:
    batch = collate(REQUESTS[:2], ANSWERS[:2], pad=PAD, longest=12)
    assert batch.ids.tolist() == [[3, 4, 1, 2, 3], [5, 2, 2, PAD, PAD]]
    assert batch.attention.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    no = IGNORED
    assert batch.labels.tolist() == [[no, no, 1, 2, 3], [no, 2, 2, no, no]]
    short = collate(REQUESTS[:1], ANSWERS[:1], pad=PAD, longest=3)
    assert short.labels.tolist() == [[no, no, 1]]


@pytest.mark.parametrize(
    ("requests", "answers", "longest", "said"),
    [
        ([], [], 5, "0 requests"),
        (REQUESTS, ANSWERS[:2], 5, "4 requests and 2 answers"),
        ([REQUESTS[0], torch.tensor([], dtype=torch.int64)], ANSWERS[:2], 5, "request 1 has 0 tokens"),
        (REQUESTS, ANSWERS, 2, "request 2 has 3 tokens"),
    ],
)
def test_batches_that_make_no_sense(requests: Any, answers: Any, longest: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        collate(requests, answers, pad=PAD, longest=longest)


def test_without_own_answers_it_is_distillation_on_the_record() -> None:
    student, teacher = decoder(0), decoder(1, 32)

    def never(_: Sequence[Tensor]) -> list[Tensor]:
        raise AssertionError("nothing was to be sampled")

    found = step(student, teacher, 0.0, sample=never, divergence=forward_kl)
    assert not found.sampled.any()
    assert found.tokens == sum(map(len, ANSWERS))
    # Row by row, without padding: padding must not change what a token's logits are compared with.
    total = torch.zeros(())
    for request, answer in zip(REQUESTS, ANSWERS, strict=True):
        ids = torch.cat([request, answer])[None]
        mine, theirs = student(ids).logits[:, :-1], teacher(ids).logits[:, :-1]
        mask = torch.arange(ids.shape[1] - 1)[None] >= len(request) - 1
        total = total + distillation_loss(mine, theirs, mask, divergence=forward_kl, tokens=found.tokens)
    torch.testing.assert_close(found.loss, total, rtol=1e-4, atol=1e-6)


def test_rows_are_drawn_by_their_share_and_read_as_the_student_answered() -> None:
    student, teacher = decoder(0), decoder(1)
    asked: list[int] = []

    def sample(requests: Sequence[Tensor]) -> list[Tensor]:
        asked.append(len(requests))
        return [torch.tensor([13, 14])] * len(requests)

    generator = torch.Generator().manual_seed(3)
    own = 0
    for _ in range(100):
        found = step(student, teacher, 0.3, sample=sample, generator=generator)
        own += int(found.sampled.sum())
        for i, drawn in enumerate(found.sampled.tolist()):
            labels = found.batch.labels[i]
            told = labels[labels != IGNORED].tolist()
            assert told == ([13, 14] if drawn else ANSWERS[i].tolist())
    assert own == sum(asked)
    assert 0.3 * 400 - 30 < own < 0.3 * 400 + 30


def test_the_gradient_reaches_the_student_alone() -> None:
    student, teacher = decoder(0), decoder(1)
    step(student, teacher, 1.0).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("divergence", [reverse_kl, partial(jensen_shannon, beta=0.5)])
def test_the_student_comes_close_to_the_teacher_where_the_student_goes(divergence: Any) -> None:
    student, teacher = decoder(0, 32), decoder(1)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)

    def distance() -> float:
        torch.manual_seed(5)
        with torch.no_grad():
            return sum(step(student, teacher, 1.0, divergence=reverse_kl).loss.item() for _ in range(10)) / 10

    before = distance()
    torch.manual_seed(6)
    for _ in range(60):
        found = step(student, teacher, 0.75, divergence=divergence)
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
    assert distance() < before / 4


def test_bad_settings_are_refused() -> None:
    student, teacher = decoder(0), decoder(1)
    with pytest.raises(ValueError, match=r"1\.5"):
        step(student, teacher, 1.5)
    with pytest.raises(ValueError, match="1 answers to 4 requests"):
        step(student, teacher, 1.0, sample=lambda _: [torch.tensor([1])])


def test_a_student_that_says_nothing_leaves_a_loss_of_zero() -> None:
    student, teacher = decoder(0), decoder(1)
    empty = torch.tensor([], dtype=torch.int64)
    found = step(student, teacher, 1.0, sample=lambda requests: [empty] * len(requests))
    found.loss.backward()
    assert isinstance(found.batch, AnswerBatch)
    assert (found.loss.item(), found.tokens) == (0.0, 0)
