"""An encoder that is tuned on few requests meets few of its tokens: only their embeddings take part in training.

Most of a small encoder is its table of embeddings. A gradient of the whole table, nearly all of it zero, costs as much
time in each step as the layers do.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["used_tokens_alone"]


class _UsedTokens(nn.Module):
    """Embeddings of the tokens that are used, at the numbers that they have in the whole table.

    Args:
        table: of all v tokens, shape (v, d).
        used: numbers of the tokens that are used, each once.
    """

    def __init__(self, table: torch.Tensor, used: torch.Tensor) -> None:
        super().__init__()
        place = torch.zeros(len(table), dtype=torch.int64, device=table.device)
        place[used] = torch.arange(len(used), device=table.device)
        self.register_buffer("place", place, persistent=False)
        self.weight = nn.Parameter(table[used].clone())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self.get_buffer("place")[ids], self.weight)


@contextmanager
def used_tokens_alone(model: Any, used: torch.Tensor) -> Generator[None]:
    """Train a model with a table of the tokens `used` alone; afterwards the whole table holds what they became.

    Args:
        model: of transformers.
        used: numbers of all tokens that the model will meet, each once; padding, which is masked, need not be there.
    """
    table = model.get_input_embeddings()
    used = used.to(table.weight.device)
    small = _UsedTokens(table.weight.detach(), used)
    model.set_input_embeddings(small)
    try:
        yield
    finally:
        with torch.no_grad():
            table.weight[used] = small.weight
        model.set_input_embeddings(table)
