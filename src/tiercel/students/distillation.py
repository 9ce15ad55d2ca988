"""Losses by which a small decoder learns from a large one, as pure functions of logits.

Shapes: b rows, t tokens, v vocabulary, m the answer tokens that count, c the categories that two distributions share
(the vocabulary, or k kept tokens and a bucket for the rest). Logits at place i speak of the token at place i of labels
and masks; `next_token` brings a causal model's output into that form. Half precision is computed in single.

Only places that count are read: what stands elsewhere (padding, the request) may be anything, NaN included, and gets
a gradient of exactly 0. A batch in which nothing counts has a loss of 0 with a gradient of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tiercel.students.teacher_logprobs import TopK

__all__ = [
    "IGNORED",
    "Divergence",
    "answer_and_rationale",
    "answer_cross_entropy",
    "bucketed",
    "distillation_loss",
    "forward_kl",
    "jensen_shannon",
    "next_token",
    "reverse_kl",
    "student_objective",
]

IGNORED = -100
"""The label of a token that is not to be learned: the request, padding."""

Divergence = Callable[[Tensor, Tensor], Tensor]
"""From the student's and the teacher's log probabilities of shape (..., c) to a divergence of shape (...)."""


def next_token(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A causal model's logits (b, t, v) and labels, ids or a mask (b, t), so that place i of both is one token.

    Returns:
        Shapes (b, t - 1, v) and (b, t - 1).
    """
    return logits[:, :-1], ids[:, 1:]


def answer_cross_entropy(logits: Tensor, labels: Tensor, *, tokens: int | None = None) -> Tensor:
    """Mean negative log likelihood of the answer's tokens; a scalar.

    Args:
        logits: float tensor of shape (b, t, v).
        labels: int64 tensor of shape (b, t), `IGNORED` where a token does not count.
        tokens: what the sum is divided by; None for the tokens that count here. With accumulated gradients, the tokens
            of all steps together: a mean of means would weigh tokens of short steps more.
    """
    counts = labels != IGNORED
    losses = functional.cross_entropy(_single(logits[counts]), labels[counts], reduction="none")
    return _mean(losses, tokens)


def answer_and_rationale(
    logits: Tensor,
    labels: Tensor,
    rationale: Tensor,
    *,
    weight: float,
    tokens: int | None = None,
    rationale_tokens: int | None = None,
) -> Tensor:
    """Cross-entropy of answers plus `weight` times that of the rationale, each a mean over its own tokens; a scalar.

    The means are apart since a rationale of 200 tokens would else drown an answer of two.

    Args:
        logits: float tensor of shape (b, t, v).
        labels: int64 tensor of shape (b, t), `IGNORED` where a token does not count.
        rationale: bool tensor of shape (b, t), true on tokens of a rationale. A rationale may stand in rows of its own
            (the multi-task form) or before the answer in the same row.
        weight: of the rationale, at least 0.
        tokens: what the sum over answers is divided by; see `answer_cross_entropy`.
        rationale_tokens: the same for rationales.

    Source: Hsieh et al., "Distilling step-by-step", 2023, section 3.2.
    """
    if weight < 0:
        raise ValueError(f"the weight of a rationale must be at least 0, not {weight}")
    answer = answer_cross_entropy(logits, labels.masked_fill(rationale, IGNORED), tokens=tokens)
    said = answer_cross_entropy(logits, labels.masked_fill(~rationale, IGNORED), tokens=rationale_tokens)
    return answer + weight * said


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student): the student must cover all that the teacher says.

    It is infinite where the student rules out what the teacher does not.

    Args:
        student: log probabilities of shape (..., c), -inf allowed.
        teacher: the same.

    Returns:
        Shape (...), at least 0 up to rounding.
    """
    return _kl(teacher, student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher): the student must say nothing that the teacher would not.

    It is infinite where the teacher rules out what the student does not. Shapes as in `forward_kl`.

    Source: Gu et al., "MiniLLM", 2024.
    """
    return _kl(student, teacher)


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(teacher || mix) + (1 - beta) KL(student || mix).

    The mix is beta teacher + (1 - beta) student. Always finite: at most the entropy of (beta, 1 - beta), log 2 at one
    half. Divided by beta it tends to the forward divergence as beta falls to 0, divided by 1 - beta to the reverse one
    as beta rises to 1; at the ends themselves it is 0 whatever the student says, so they are refused.

    Args:
        student: log probabilities of shape (..., c), -inf allowed.
        teacher: the same.
        beta: weight of the teacher, in (0, 1).

    Raises:
        ValueError: `beta` is not in (0, 1).

    Source: Agarwal et al., "On-policy distillation of language models", 2024, equation 1.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must lie between 0 and 1, not {beta}; for the ends take forward_kl or reverse_kl")
    # Where both are -inf the gradient of logaddexp is NaN; such categories say nothing and are taken out.
    known = (student > -math.inf) | (teacher > -math.inf)
    here, there = torch.where(known, student, 0.0), torch.where(known, teacher, 0.0)
    mix = torch.logaddexp(here + math.log1p(-beta), there + math.log(beta))
    return beta * _kl(teacher, mix) + (1 - beta) * _kl(student, mix)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis; a category without mass under p counts 0, whatever q is."""
    support = log_p > -math.inf
    # Both sides are replaced before they are used: 0 times an infinity would leave NaN in the gradient.
    p, q = torch.where(support, log_p, 0.0), torch.where(support, log_q, 0.0)
    return torch.where(support, p.exp() * (p - q), 0.0).sum(dim=-1)


def distillation_loss(
    student_logits: Tensor,
    teacher: Tensor | TopK,
    mask: Tensor,
    *,
    divergence: Divergence = forward_kl,
    temperature: float = 1.0,
    tokens: int | None = None,
) -> Tensor:
    """Mean divergence between student and teacher over the tokens that count; a scalar.

    Against the k likeliest tokens of the teacher the categories are those k and one bucket with all the rest, for both
    sides. At temperature 1 that is at most the divergence of the full distributions (data processing) and equals it
    at k = v. A temperature acts on the buckets after they were made: how it would act within the rest is not recorded.

    Args:
        student_logits: float tensor of shape (b, t, v).
        teacher: full logits of shape (b, t, v), or a `TopK` of shapes (b, t, k) and (b, t); no gradient goes there.
        mask: bool tensor of shape (b, t), the tokens that count.
        divergence: `forward_kl`, `reverse_kl`, `jensen_shannon` (with `functools.partial` for its beta), or another.
        temperature: above 1 flattens both sides. The gradient shrinks with its square; `student_objective` makes up
            for that.
        tokens: what the sum is divided by; see `answer_cross_entropy`.

    Raises:
        ValueError: the temperature is not positive, or the vocabularies differ in size.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    known = teacher.vocabulary if isinstance(teacher, TopK) else teacher.shape[-1]
    if known != student_logits.shape[-1]:
        raise ValueError(
            f"student and teacher have vocabularies of {student_logits.shape[-1]} and {known} tokens: "
            "use the losses of cross_tokenizer"
        )
    if isinstance(teacher, TopK):
        student, wanted = bucketed(student_logits[mask], teacher.select(mask))
    else:
        student, wanted = _single(student_logits[mask]), _single(teacher[mask])
    wanted = wanted.detach()
    return _mean(divergence(_log_softmax(student, temperature), _log_softmax(wanted, temperature)), tokens)


def bucketed(student_logits: Tensor, teacher: TopK) -> tuple[Tensor, Tensor]:
    """Log probabilities of the kept tokens and of all others together, for both sides.

    The student's mass on a place that the teacher did not fill belongs to the bucket of the others.

    Args:
        student_logits: float tensor of shape (m, v).
        teacher: of shapes (m, k) and (m,).

    Returns:
        The student's and the teacher's, each of shape (m, k + 1), or (m, k) where k = v.
    """
    log_p = torch.log_softmax(_single(student_logits), dim=-1)
    if teacher.ids.shape[-1] == teacher.vocabulary:
        return log_p.gather(-1, teacher.ids), teacher.logprobs.to(log_p.dtype)
    filled = teacher.logprobs > -math.inf
    ids = torch.where(filled, teacher.ids, teacher.ids[..., :1])
    kept = log_p.gather(-1, ids).masked_fill(~filled, -math.inf)
    # Summing the others is exact where 1 minus the kept mass would be rounding noise.
    rest = _log_sum(log_p.scatter(-1, ids, -math.inf))
    student = torch.cat([kept, rest[..., None]], dim=-1)
    return student, torch.cat([teacher.logprobs, teacher.tail[..., None]], dim=-1).to(log_p.dtype)


def student_objective(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | TopK,
    *,
    weight: float = 0.5,
    divergence: Divergence = forward_kl,
    temperature: float = 1.0,
    tokens: int | None = None,
) -> Tensor:
    """(1 - weight) cross-entropy + weight temperature² divergence on the answer's tokens; a scalar.

    The square keeps the two gradients in proportion when the temperature changes.

    Args:
        logits: the student's, float tensor of shape (b, t, v).
        labels: int64 tensor of shape (b, t), `IGNORED` where a token does not count.
        teacher: see `distillation_loss`.
        weight: of the divergence, in [0, 1].
        divergence: see `distillation_loss`.
        temperature: of the divergence alone.
        tokens: what the sums are divided by; see `answer_cross_entropy`.

    Raises:
        ValueError: `weight` is not in [0, 1], or as `distillation_loss` says.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of the teacher must lie in [0, 1], not {weight}")
    distilled = distillation_loss(
        logits, teacher, labels != IGNORED, divergence=divergence, temperature=temperature, tokens=tokens
    )
    learned = answer_cross_entropy(logits, labels, tokens=tokens)
    return (1 - weight) * learned + weight * temperature**2 * distilled


def _single(values: Tensor) -> Tensor:
    """At least single precision: differences of log probabilities are lost in half."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _log_softmax(values: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(values / temperature, dim=-1)


def _log_sum(log_p: Tensor) -> Tensor:
    """Sum over the last axis in log space that is -inf with a gradient of 0, not NaN, where there is nothing to sum."""
    empty = (log_p == -math.inf).all(dim=-1)
    total = torch.logsumexp(torch.where(empty[..., None], 0.0, log_p), dim=-1)
    return torch.where(empty, -math.inf, total)


def _mean(values: Tensor, tokens: int | None) -> Tensor:
    """Sum over `tokens`; without values 0, still tied to the graph so that `backward` runs."""
    return values.sum() / max(1, values.numel() if tokens is None else tokens)
