"""Distillation on what the student itself says, mixed with recorded answers (GKD).

A student that only ever read the teacher's answers is lost after its own first slip. Here a share of the rows is
answered by the student, and the teacher judges each token of that answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiercel.students.distillation import IGNORED, Divergence, distillation_loss, jensen_shannon, next_token

__all__ = ["AnswerBatch", "Logits", "PolicyStep", "Sampler", "collate", "on_policy_step"]

Logits = Callable[[Tensor, Tensor], Tensor]
"""From token ids (b, t) and an attention mask (b, t) to logits (b, t, v)."""

Sampler = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From requests, each token ids of shape (t,), to the student's answers to them, each of shape (t,), end token
included where the student came to an end."""


@dataclass(frozen=True, kw_only=True)
class AnswerBatch:
    """Requests with answers, padded on the right.

    Attributes:
        ids: int64 tensor of shape (b, t).
        attention: int64 tensor of shape (b, t), 1 where a token stands and 0 where padding does.
        labels: int64 tensor of shape (b, t): the answer's tokens where they stand, `IGNORED` elsewhere.
    """

    ids: Tensor
    attention: Tensor
    labels: Tensor


def collate(requests: Sequence[Tensor], answers: Sequence[Tensor], *, pad: int, longest: int) -> AnswerBatch:
    """One batch of requests and their answers.

    Args:
        requests: b tensors of token ids, each of shape (t,).
        answers: b tensors of token ids; an empty one leaves a row without labels.
        pad: id that fills rows up; it may be a token that also means something, the masks tell them apart.
        longest: tokens of request and answer together; an answer is cut there, a request never is.

    Raises:
        ValueError: there are no rows, not as many answers as requests, or a request has no token or more than
            `longest`.
    """
    if not requests or len(requests) != len(answers):
        raise ValueError(f"{len(requests)} requests and {len(answers)} answers: one answer is needed for each request")
    for number, request in enumerate(requests):
        if not 0 < len(request) <= longest:
            raise ValueError(f"request {number} has {len(request)} tokens, not 1 to {longest}: leave it out")
    rows = [torch.cat([r, a])[:longest] for r, a in zip(requests, answers, strict=True)]
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (row, request) in enumerate(zip(rows, requests, strict=True)):
        ids[i, : len(row)] = row
        attention[i, : len(row)] = 1
        labels[i, len(request) : len(row)] = row[len(request) :]
    return AnswerBatch(ids=ids, attention=attention, labels=labels)


@dataclass(frozen=True, kw_only=True)
class PolicyStep:
    """What one step computed.

    Attributes:
        loss: scalar with a gradient to the student.
        tokens: answer tokens that it is the mean of.
        sampled: bool tensor of shape (b,), the rows that the student answered itself.
        batch: what was read.
    """

    loss: Tensor
    tokens: int
    sampled: Tensor
    batch: AnswerBatch


def on_policy_step(
    requests: Sequence[Tensor],
    answers: Sequence[Tensor],
    *,
    student: Logits,
    teacher: Logits,
    sample: Sampler,
    share: float,
    pad: int,
    longest: int,
    divergence: Divergence = jensen_shannon,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> PolicyStep:
    """The loss of one step on a mix of the student's own and recorded answers.

    Each row is drawn by itself, which has the same mean as the paper's draw for a whole batch and less variance. No
    gradient goes through the sampling, nor into the teacher.

    Args:
        requests: b tensors of token ids, each of shape (t,).
        answers: the recorded answers; those of rows that the student answers are not read.
        student: logits with a gradient.
        teacher: logits over the same vocabulary.
        sample: draws the student's answers; asked once for all its rows, not at all where there are none.
        share: probability that a row is answered by the student (the paper's lambda), in [0, 1].
        pad: id that fills rows up.
        longest: tokens of request and answer together.
        divergence: between student and teacher, see `distillation_loss`; the paper found the best beta to depend on
            the task.
        temperature: of the divergence, not of the sampling.
        generator: draws which rows the student answers.
        device: where the models are.

    Raises:
        ValueError: `share` is not in [0, 1], `sample` does not answer every request, or as `collate` says.

    Source: Agarwal et al., "On-policy distillation of language models", 2024, algorithm 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of rows that the student answers must lie in [0, 1], not {share}")
    sampled = torch.rand(len(requests), generator=generator) < share
    mixed = list(answers)
    numbers = [i for i, own in enumerate(sampled.tolist()) if own]
    if numbers:
        with torch.no_grad():
            said = sample([requests[i] for i in numbers])
        if len(said) != len(numbers):
            raise ValueError(f"the sampler gave {len(said)} answers to {len(numbers)} requests")
        for i, answer in zip(numbers, said, strict=True):
            mixed[i] = answer.cpu()
    batch = collate(requests, mixed, pad=pad, longest=longest)
    ids, attention = batch.ids.to(device), batch.attention.to(device)
    with torch.no_grad():
        judged = teacher(ids, attention)
    logits, labels = next_token(student(ids, attention), batch.labels.to(device))
    mask = labels != IGNORED
    loss = distillation_loss(logits, judged[:, :-1], mask, divergence=divergence, temperature=temperature)
    return PolicyStep(loss=loss, tokens=int(mask.sum()), sampled=sampled, batch=batch)
