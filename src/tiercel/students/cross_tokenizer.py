"""Distillation where student and teacher cut the same text into different tokens.

`align_spans` finds the pieces of text at whose borders both tokenizers agree. At the start of such a piece both models
have read the same text, so that what they say next can be compared:
- `universal_logit_loss`: the shape of the two distributions, whatever the tokens are called;
- `shared_token_loss`: the tokens that both vocabularies have, all others in one bucket;
- `span_loss`: the probability of the whole piece, a product over its tokens.

Shapes: t tokens of one answer, g spans, v vocabulary, c shared tokens. Logits at place i speak of the answer's token i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tiercel.students.distillation import Divergence, forward_kl
from tiercel.students.teacher_logprobs import TopK

__all__ = [
    "Alignment",
    "SharedTokens",
    "align_spans",
    "byte_ends",
    "shared_token_loss",
    "shared_tokens",
    "span_logprobs",
    "span_loss",
    "universal_logit_loss",
]


def byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where each token ends in the UTF-8 bytes of `text`.

    Args:
        text: the answer.
        offsets: for each token its first character and the one after its last, as tokenizers report them
            (`return_offsets_mapping`). Tokens that are parts of one character all end with it.
    """
    until = np.concatenate([[0], np.cumsum([len(c.encode("utf-8", "surrogatepass")) for c in text], dtype=np.int64)])
    return [int(until[end]) for _, end in offsets]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The spans of text at whose borders both tokenizers agree.

    Attributes:
        student: int64 tensor of shape (t,): the span of each of the student's tokens, -1 after the last common border.
        teacher: the same for the teacher's tokens.
        spans: g.
    """

    student: Tensor
    teacher: Tensor
    spans: int

    def starts(self) -> tuple[Tensor, Tensor]:
        """The first token of each span, of student and teacher; int64, each of shape (g,)."""
        numbers = torch.arange(self.spans)
        return torch.searchsorted(_ranks(self), numbers), torch.searchsorted(_ranks(self, teacher=True), numbers)


def _ranks(alignment: Alignment, *, teacher: bool = False) -> Tensor:
    """Spans as a rising sequence: tokens after the last border come last."""
    found = alignment.teacher if teacher else alignment.student
    return torch.where(found < 0, alignment.spans, found).contiguous()


def align_spans(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> Alignment:
    """Group the tokens of two tokenizers into the shortest spans of equal text.

    A token without text of its own (a special token, a later part of one character) belongs to the span in which the
    text before it ends. Tokens after the last common border, where one side was cut, belong to none.

    Args:
        student_ends: where each of the student's tokens ends in the text, not falling; see `byte_ends`.
        teacher_ends: the same for the teacher's.

    Raises:
        ValueError: the ends fall somewhere.

    Source: Patiño et al., "Unlocking on-policy distillation for any model family" (GOLD), 2025.
    """
    first, second = (np.asarray(ends, dtype=np.int64) for ends in (student_ends, teacher_ends))
    for side in (first, second):
        if side.size and (side[0] < 0 or (np.diff(side) < 0).any()):
            raise ValueError("the ends of tokens must rise along the text: give those of the answer, in its order")
    common = np.intersect1d(first, second)
    common = common[common > 0]
    groups: list[Tensor] = []
    for side in (first, second):
        span = np.searchsorted(common, side)
        groups.append(torch.from_numpy(np.where(span < common.size, span, -1)))
    return Alignment(student=groups[0], teacher=groups[1], spans=int(common.size))


def universal_logit_loss(
    student_logits: Tensor, teacher: Tensor | TopK, alignment: Alignment, *, temperature: float = 1.0
) -> Tensor:
    """Mean over spans of the Wasserstein-1 distance between the sorted probabilities; a scalar in [0, 2].

    It compares how sure the two models are, and among how many choices, not which tokens they choose. The smaller
    vocabulary is filled up with zeros. Against the teacher's k likeliest tokens the k largest are compared, and the
    mass of the others as one: a lower bound of the distance. No spans: 0, with a gradient of 0.

    Args:
        student_logits: float tensor of shape (t, v), v the student's vocabulary.
        teacher: logits of the same answer under its own tokenizer, or a `TopK` of shapes (t, k) and (t,).
        alignment: of the two token sequences.
        temperature: of both sides; 1 with a `TopK`, whose probabilities are recorded at 1.

    Raises:
        ValueError: the temperature is not positive, or not 1 with a `TopK`; lengths do not fit the alignment.

    Source: Boizard et al., "Towards cross-tokenizer distillation: the universal logit distillation loss", 2024,
    section 3.2 and appendix; read at the borders of common spans instead of place by place.
    """
    _check_lengths(student_logits, teacher, alignment)
    if not temperature > 0 or (isinstance(teacher, TopK) and temperature != 1):
        raise ValueError(f"temperature must be above 0, and 1 for recorded top-k logprobs, not {temperature}")
    here, there = alignment.starts()
    student = _probabilities(student_logits[here], temperature)
    if isinstance(teacher, TopK):
        kept = teacher.logprobs[there].exp().to(student.dtype)
        wanted = torch.cat([kept, teacher.tail[there].exp().to(student.dtype)[:, None]], dim=1)
        largest = student.topk(min(kept.shape[1], student.shape[1]), dim=1).values
        largest = torch.nn.functional.pad(largest, (0, kept.shape[1] - largest.shape[1]))
        compared = torch.cat([largest, (1 - largest.sum(dim=1, keepdim=True)).clamp_min(0.0)], dim=1)
        distance = (compared - wanted.detach()).abs().sum(dim=1)
    else:
        wanted = _probabilities(teacher[there], temperature).detach().sort(dim=1, descending=True).values
        mine = student.sort(dim=1, descending=True).values
        width = max(mine.shape[1], wanted.shape[1])
        mine, wanted = (torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in (mine, wanted))
        distance = (mine - wanted).abs().sum(dim=1)
    return distance.sum() / max(1, alignment.spans)


@dataclass(frozen=True, kw_only=True)
class SharedTokens:
    """Tokens that two vocabularies write the same.

    Attributes:
        student: int64 tensor of shape (c,), ids in the student's vocabulary.
        teacher: the ids of the same tokens in the teacher's.
    """

    student: Tensor
    teacher: Tensor


def shared_tokens(student: Mapping[str, int], teacher: Mapping[str, int]) -> SharedTokens:
    """The tokens that stand in both vocabularies, in the order of the student's ids.

    Both must write a blank the same way: bring "Ġ" and "▁" to one form first where the tokenizers differ in it.

    Raises:
        ValueError: no token is shared.
    """
    pairs = sorted((i, teacher[token]) for token, i in student.items() if token in teacher)
    if not pairs:
        raise ValueError("the vocabularies share no token: use universal_logit_loss or span_loss")
    table = torch.tensor(pairs, dtype=torch.int64)
    return SharedTokens(student=table[:, 0].contiguous(), teacher=table[:, 1].contiguous())


def shared_token_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    alignment: Alignment,
    shared: SharedTokens,
    *,
    divergence: Divergence = forward_kl,
) -> Tensor:
    """Mean divergence at the starts of spans, over the shared tokens and one bucket of all others; a scalar.

    Where one vocabulary holds no other tokens, both sides are compared given that the token is a shared one.

    Unlike a sum of losses on shared and on other tokens this is a divergence of two distributions: 0 only where they
    agree. A shared token may still mean less to the tokenizer that has a longer one for the same beginning.

    Args:
        student_logits: float tensor of shape (t, v).
        teacher_logits: float tensor of its own tokens and vocabulary.
        alignment: of the two token sequences.
        shared: see `shared_tokens`.
        divergence: see `tiercel.students.distillation`.
    """
    _check_lengths(student_logits, teacher_logits, alignment)
    here, there = alignment.starts()
    student, teacher = _single(student_logits[here]), _single(teacher_logits[there].detach())
    # A vocabulary without other tokens would call the other side's rest impossible: an infinite loss for nothing.
    if len(shared.student) in (student.shape[-1], teacher.shape[-1]):
        student, teacher = student[:, shared.student], teacher[:, shared.teacher]
        compared = torch.log_softmax(student, dim=-1), torch.log_softmax(teacher, dim=-1)
    else:
        compared = _with_rest(student, shared.student), _with_rest(teacher, shared.teacher)
    return divergence(*compared).sum() / max(1, alignment.spans)


def _with_rest(logits: Tensor, ids: Tensor) -> Tensor:
    """Log probabilities of the tokens `ids` and of all others together, shape (g, c + 1)."""
    log_p = torch.log_softmax(logits, dim=-1)
    others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others[ids] = False
    return torch.cat([log_p[:, ids], torch.logsumexp(log_p[:, others], dim=-1, keepdim=True)], dim=-1)


def span_logprobs(logits: Tensor, ids: Tensor, spans: Tensor, count: int) -> Tensor:
    """Log probability of each span's tokens, given the text before it; shape (count,).

    Args:
        logits: float tensor of shape (t, v).
        ids: int64 tensor of shape (t,), the tokens that stand there.
        spans: int64 tensor of shape (t,), the span of each token, -1 for none: a side of an `Alignment`.
        count: g, the number of spans.
    """
    said = torch.log_softmax(_single(logits), dim=-1).gather(-1, ids[:, None])[:, 0]
    spans = spans.to(logits.device)
    inside = spans >= 0
    return said.new_zeros(count).index_add(0, spans[inside], said[inside])


def span_loss(
    student_logits: Tensor,
    student_ids: Tensor,
    teacher_logits: Tensor,
    teacher_ids: Tensor,
    alignment: Alignment,
    *,
    divergence: Divergence = forward_kl,
) -> Tensor:
    """Mean divergence between the two models' belief in each span of the answer against any other text; a scalar.

    The two categories are "this span" and "not this span": a coarse view, but the same event for both models.

    Args:
        student_logits: float tensor of shape (t, v).
        student_ids: int64 tensor of shape (t,), the answer's tokens.
        teacher_logits: the teacher's, of its own tokens and vocabulary.
        teacher_ids: the answer in the teacher's tokens.
        alignment: of the two token sequences.
        divergence: see `tiercel.students.distillation`.
    """
    _check_lengths(student_logits, teacher_logits, alignment)
    student = _against_rest(span_logprobs(student_logits, student_ids, alignment.student, alignment.spans))
    teacher = span_logprobs(teacher_logits.detach(), teacher_ids, alignment.teacher, alignment.spans)
    return divergence(student, _against_rest(teacher)).sum() / max(1, alignment.spans)


_SUREST = -1e-6
"""Log probability at which a span counts as certain: 1 minus it is rounding noise in single precision beyond."""


def _against_rest(log_p: Tensor) -> Tensor:
    """Log probabilities of an event and of its opposite, shape (g, 2)."""
    bounded = log_p.clamp_max(_SUREST)
    return torch.stack([bounded, torch.log(-torch.expm1(bounded))], dim=-1)


def _check_lengths(student: Tensor, teacher: Tensor | TopK, alignment: Alignment) -> None:
    there = len(teacher.tail) if isinstance(teacher, TopK) else len(teacher)
    if (len(student), there) != (len(alignment.student), len(alignment.teacher)):
        raise ValueError(
            f"logits of {len(student)} and {there} tokens do not fit an alignment of {len(alignment.student)} "
            f"and {len(alignment.teacher)}: give the logits of the answer's tokens alone"
        )


def _single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(_single(logits) / temperature, dim=-1)
