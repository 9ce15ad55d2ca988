"""Training of the tagger in torch: an encoder that reads how words are written, tags them, and chooses values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tiercel.students.answer_form import AnswerForm, Compiled
from tiercel.students.chains import forbidden, tags_of
from tiercel.students.encoder_training import EncoderTrainer, Progress, TrainingPlan
from tiercel.students.precision import bfloat16_is_fast
from tiercel.students.word_tokens import CASES, Tokens, WordTokenizer, pad

__all__ = ["TaggerHead", "TaggerTrainer", "chain_loss"]

Floats = NDArray[np.float32]


class TaggerHead(nn.Module):
    """What stands on the encoder: f fields with c classes in all, for hidden states of width d.

    Args:
        width: d.
        form: of the answers.
    """

    def __init__(self, width: int, form: AnswerForm) -> None:
        super().__init__()
        fields = len(form.fields)
        steps, start = forbidden(fields)
        self.cases = nn.Embedding(len(CASES), width)
        self.tags = nn.Linear(width, 1 + 2 * fields)
        self.classes = nn.Linear(width, sum(1 + len(f.values) for f in form.fields))
        self.steps = nn.Parameter(torch.zeros(len(start), len(start)))
        self.start = nn.Parameter(torch.zeros(len(start)))
        self.register_buffer("forbidden_steps", torch.from_numpy(steps))
        self.register_buffer("forbidden_start", torch.from_numpy(start))
        self.dropout = nn.Dropout(0.1)
        nn.init.zeros_(self.cases.weight)
        for linear in (self.tags, self.classes):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def chain(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of steps, shape (l, l), and of the start, shape (l,), with what BIO forbids."""
        buffers = dict(self.named_buffers())
        return self.steps + buffers["forbidden_steps"], self.start + buffers["forbidden_start"]


def chain_loss(
    emissions: torch.Tensor, tags: torch.Tensor, present: torch.Tensor, steps: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """Negative log likelihood of tags under a linear chain; shape (b,).

    Args:
        emissions: shape (b, w, l).
        tags: shape (b, w).
        present: whether a word is there, shape (b, w); the first word of each row is.
        steps: shape (l, l).
        start: shape (l,).
    """
    score = start[tags[:, 0]] + emissions[:, 0].gather(1, tags[:, :1]).squeeze(1)
    total = start + emissions[:, 0]
    for i in range(1, emissions.shape[1]):
        here = present[:, i]
        step = steps[tags[:, i - 1], tags[:, i]] + emissions[:, i].gather(1, tags[:, i : i + 1]).squeeze(1)
        score = score + torch.where(here, step, torch.zeros_like(step))
        following = torch.logsumexp(total[:, :, None] + steps, dim=1) + emissions[:, i]
        total = torch.where(here[:, None], following, total)
    return torch.logsumexp(total, dim=1) - score


@dataclass(frozen=True, kw_only=True)
class _Batch:
    ids: torch.Tensor
    mask: torch.Tensor
    cases: torch.Tensor
    first: torch.Tensor
    present: torch.Tensor


class TaggerTrainer(EncoderTrainer):
    """A pretrained encoder under training as a tagger.

    Args:
        base: folder of the pretrained encoder.
        form: of the answers.
        max_tokens: tokens of a request that are read.
        seed: of initialisation, dropout and the order of rows.
        threads: of torch; None leaves its setting.
    """

    def __init__(
        self, base: Path, form: AnswerForm, *, max_tokens: int, seed: int = 0, threads: int | None = None
    ) -> None:
        super().__init__(base, max_tokens=max_tokens, seed=seed, threads=threads)
        self.form = form
        self.words = WordTokenizer(base / "tokenizer.json", self.max_tokens)
        self.tagger = TaggerHead(int(self.model.config.hidden_size), form).to(self.device)

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, cases: torch.Tensor) -> torch.Tensor:
        """Last hidden states of shape (b, t, d) from ids, mask and cases of shape (b, t)."""
        embedded = self.model.get_input_embeddings()(ids) + self.tagger.cases(cases)
        return self.model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state

    def fit(
        self,
        tokens: Sequence[Tokens],
        compiled: Sequence[Compiled],
        plan: TrainingPlan,
        *,
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train encoder and heads end to end on n requests and what their answers were compiled to."""
        tags = [torch.from_numpy(tags_of(c.spans, len(t.words))) for t, c in zip(tokens, compiled, strict=True)]
        classes = torch.tensor([c.classes for c in compiled], device=self.device)
        sizes = [1 + len(f.values) for f in self.form.fields]

        def loss(rows: list[int]) -> torch.Tensor:
            batch = self._tensors([tokens[i] for i in rows])
            wanted = nn.utils.rnn.pad_sequence([tags[i] for i in rows], batch_first=True).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16_is_fast()):
                emissions, choices, _ = self._heads(batch)
            total = chain_loss(emissions.float(), wanted, batch.present, *self.tagger.chain()).mean()
            for part, column in zip(choices.float().split(sizes, dim=1), classes[rows].T, strict=True):
                if part.shape[1] > 1:
                    total = total + nn.functional.cross_entropy(part, column)
            return total

        ids = [t.ids for t in tokens]
        self.train_end_to_end(self.tagger, loss, ids, plan, checkpoint=checkpoint, progress=progress)

    def _tensors(self, tokens: Sequence[Tokens]) -> _Batch:
        ids, mask = pad([t.ids for t in tokens])
        cases, _ = pad([t.cases for t in tokens])
        first, present = pad([t.first for t in tokens])
        as_tensor = [torch.from_numpy(a).to(self.device) for a in (ids, mask, cases, first, present)]
        return _Batch(
            ids=as_tensor[0], mask=as_tensor[1], cases=as_tensor[2], first=as_tensor[3], present=as_tensor[4].bool()
        )

    def _heads(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = self.hidden(batch.ids, batch.mask, batch.cases)
        weight = batch.mask[..., None].to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        index = batch.first[..., None].expand(-1, -1, hidden.shape[-1])
        emissions = self.tagger.tags(self.tagger.dropout(hidden.gather(1, index)))
        return emissions, self.tagger.classes(self.tagger.dropout(pooled)), pooled

    @torch.no_grad()
    def hidden_states(self, tokens: Sequence[Tokens]) -> list[Floats]:
        """Last hidden states of each request, shape (t, d), in full precision."""
        self.model.eval()
        found: list[Any] = [None] * len(tokens)
        order = sorted(range(len(tokens)), key=lambda i: tokens[i].ids.size)
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            batch = self._tensors([tokens[i] for i in part])
            states = self.hidden(batch.ids, batch.mask, batch.cases).float().cpu().numpy()
            for row, i in zip(states, part, strict=True):
                found[i] = row[: tokens[i].ids.size]
        return found

    def tagger_arrays(self) -> dict[str, Floats]:
        """The heads as arrays: tags (d, l) with bias (l,), classes (d, c) with bias (c,), steps (l, l), start (l,)."""
        head = self.tagger
        steps, start = head.chain()
        arrays = {
            "tags": head.tags.weight.T,
            "tags_bias": head.tags.bias,
            "classes": head.classes.weight.T,
            "classes_bias": head.classes.bias,
            "steps": steps,
            "start": start,
        }
        return {name: a.detach().cpu().float().contiguous().numpy().copy() for name, a in arrays.items()}
