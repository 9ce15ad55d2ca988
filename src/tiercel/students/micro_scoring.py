"""How likely a trained decoder holds given answers: the measure that `held_out` compares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tiercel.students.micro_model import MicroDecoder
from tiercel.students.micro_rows import Batch, batches, encode_rows
from tiercel.students.micro_tokenizer import MicroTokenizer

__all__ = ["answer_nll"]

AT_ONCE = 128


@torch.no_grad()
def answer_nll(
    decoder: MicroDecoder, tokenizer: MicroTokenizer, rows: Sequence[tuple[str, str]]
) -> NDArray[np.float64]:
    """Negative log likelihood of each whole answer, its end included, in nats; shape (n,), NaN where none fits.

    Args:
        decoder: trained; it is put into evaluation mode.
        tokenizer: of it.
        rows: n requests and answers.
    """
    decoder.eval()
    device = decoder.model.norm.weight.device
    shape = decoder.shape
    found = np.full(len(rows), np.nan)
    encoded = encode_rows(tokenizer, rows, context=shape.context, answer=shape.answer) if rows else []
    for part in batches(encoded, AT_ONCE, 0):
        batch = Batch.of(part, tokenizer.end_id).to(device)
        logits = decoder.logits(decoder(batch.ids)[0][batch.answered]).float()
        losses = functional.cross_entropy(logits, batch.targets, reduction="none").double().cpu().numpy()
        numbers = batch.rows.cpu().numpy()
        sums = np.bincount(numbers, weights=losses, minlength=len(rows))
        for row in part:
            found[row.number] = sums[row.number]
    return found
