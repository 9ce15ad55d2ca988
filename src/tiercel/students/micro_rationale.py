"""A decoder also learns to say why an answer is right, in rows of their own that no served request can look like.

Source: Hsieh et al., "Distilling step-by-step", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tiercel.students.micro_model import MicroDecoder
from tiercel.students.micro_rows import Batch, EncodedRow
from tiercel.students.micro_tokenizer import MicroTokenizer

__all__ = ["MicroRationale"]


class MicroRationale:
    """A further loss of a training step: the cross entropy of the rationales of its rows.

    Behind the request stands a second marker of a request. Markers inside of requests are neutralised, so that what is
    served never asks for a rationale.

    Args:
        tokenizer: of the decoder.
        rows: n requests and answers.
        rationales: of each, or empty.
        weight: beside the cross entropy of the answers.
        most: tokens of a row at the most; requests give way first, down to half of it, then rationales.

    Attributes:
        context: tokens that nearly all rows have room in.
    """

    def __init__(
        self,
        tokenizer: MicroTokenizer,
        rows: Sequence[tuple[str, str]],
        rationales: Sequence[str],
        *,
        weight: float,
        most: int,
    ) -> None:
        self.end, self.weight = tokenizer.end_id, weight
        said = [i for i, rationale in enumerate(rationales) if rationale]
        requests = tokenizer.encode([rows[i][0] for i in said])
        told = tokenizer.encode([rationales[i] for i in said])
        whole = sorted(len(r) + len(t) + 4 for r, t in zip(requests, told, strict=True))
        nearly_all = whole[math.ceil(0.99 * len(whole)) - 1] if whole else 0
        self.context = min(most, 32 * math.ceil(nearly_all / 32))
        self._rows: dict[int, EncodedRow] = {}
        for number, request, words in zip(said, requests, told, strict=True):
            kept = request[: max(self.context // 2, self.context - len(words) - 4)]
            prompt = [tokenizer.request_id, *kept, tokenizer.request_id, tokenizer.answer_id]
            self._rows[number] = EncodedRow([*prompt, *words, self.end][: self.context], len(prompt), number)

    def __call__(self, decoder: MicroDecoder, rows: Sequence[EncodedRow], step: int, total: int) -> Tensor:
        """The loss of one step, a scalar; rows whose values were swapped have no rationale.

        Args:
            decoder: that is trained.
            rows: of the step.
            step: its number.
            total: steps in all.
        """
        del step, total
        device = next(decoder.parameters()).device
        known = [self._rows[row.number] for row in rows if row.number in self._rows]
        if not known:
            return torch.zeros((), device=device)
        batch = Batch.of(known, self.end).to(device)
        logits = decoder.logits(decoder(batch.ids)[0][batch.answered])
        return self.weight * functional.cross_entropy(logits.float(), batch.targets)
