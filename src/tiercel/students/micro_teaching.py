"""A larger decoder teaches a smaller one: its log probabilities of every answer token, read in training.

Both have the same tokenizer. Rows whose values were swapped are new to the teacher: they are learnt from their answers
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tiercel.errors import ConfigurationError
from tiercel.students.distillation import bucketed, forward_kl
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_rows import Batch, batches, encode_rows
from tiercel.students.micro_training import TokenLoss
from tiercel.students.teacher_logprobs import PackedTopK, TopK, pack_top_k, top_k_of

__all__ = ["answer_logprobs", "taught_loss"]

Divergence = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def answer_logprobs(teacher: MicroStudent, rows: Sequence[tuple[str, str]], k: int = 8) -> PackedTopK:
    """What a teacher holds likely at each token of the answers of n rows; a row that does not fit has no token.

    Args:
        teacher: trained.
        rows: requests and answers.
        k: likeliest tokens that are kept of each place.
    """
    shape, tokenizer = teacher.decoder.shape, teacher.tokenizer
    encoded = encode_rows(tokenizer, rows, context=shape.context, answer=shape.answer)
    ids = [np.zeros((0, k), dtype=np.int64)] * len(rows)
    logprobs = [np.zeros((0, k))] * len(rows)
    for part in batches(encoded, 128, 0):
        batch = Batch.of(part, tokenizer.end_id)
        kept = top_k_of(teacher.decoder.logits(teacher.decoder(batch.ids)[0][batch.answered]).float(), k)
        for number in {row.number for row in part}:
            own = kept.select(batch.rows == number)
            ids[number], logprobs[number] = own.ids.numpy(), own.logprobs.double().numpy()
    return pack_top_k(ids, logprobs, len(tokenizer))


def taught_loss(
    told: PackedTopK, *, weight: float = 0.5, temperature: float = 1.0, divergence: Divergence = forward_kl
) -> TokenLoss:
    """The loss of answer tokens under a teacher, for `train_micro`.

    Args:
        told: the teacher's log probabilities of the training rows, by their numbers.
        weight: of the divergence against cross entropy, in [0, 1].
        temperature: flattens both sides of the divergence, whose gradient is scaled back by its square.
        divergence: `forward_kl`, `reverse_kl` or `jensen_shannon`.

    Raises:
        ConfigurationError: a number can't be.
    """
    if not 0 <= weight <= 1 or temperature <= 0:
        raise ConfigurationError(f"weight {weight}, temperature {temperature}: give 0 to 1, and above 0")
    ids = torch.from_numpy(told.ids.astype(np.int64))
    logprobs = torch.from_numpy(told.logprobs.astype(np.float32))
    tail = torch.from_numpy(told.tail.astype(np.float32))
    starts = torch.from_numpy(told.starts)

    def loss(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        own = functional.cross_entropy(logits, targets)
        place = _places(rows.cpu())
        known = rows.cpu() >= 0
        at = starts[rows.cpu()[known]] + place[known]
        spoken = at < starts[rows.cpu()[known] + 1]
        if not bool(spoken.any()):
            return own
        chosen = known.nonzero().squeeze(1)[spoken].to(logits.device)
        teacher = TopK(
            ids=ids[at[spoken]], logprobs=logprobs[at[spoken]], tail=tail[at[spoken]], vocabulary=told.vocabulary
        ).to(logits.device)
        student, wanted = bucketed(logits[chosen], teacher)
        heated = (torch.log_softmax(x / temperature, dim=-1) for x in (student, wanted))
        apart = divergence(*heated).mean() * temperature**2
        # Tokens of which the teacher said nothing keep the whole weight of their answers.
        share = weight * float(spoken.sum()) / len(targets)
        return (1 - share) * own + share * apart

    return loss


def _places(rows: Tensor) -> Tensor:
    """Which token of its answer each is, from the rows of tokens that stand together, shape (a,)."""
    index = torch.arange(len(rows))
    begins = torch.ones(len(rows), dtype=torch.bool)
    begins[1:] = rows[1:] != rows[:-1]
    return index - torch.cummax(torch.where(begins, index, 0), dim=0).values
