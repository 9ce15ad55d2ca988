"""Training of the encoder rung in torch: embeddings of the frozen model, then fine-tuning end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tiercel.students.batching import batches_by_length
from tiercel.students.precision import bfloat16_is_fast
from tiercel.students.reading import merge_numbers
from tiercel.students.used_tokens import used_tokens_alone
from tiercel.students.word_tokens import pad

__all__ = ["EncoderTrainer", "TrainingPlan", "fold_standardisation"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Settings of fine-tuning; the defaults suit encoders of 20 to 110 million parameters.

    Attributes:
        epochs: passes over the training rows.
        learning_rate: peak, of the encoder; the head's is ten times as high.
        batch: rows a step.
        warmup: share of the steps in which the rate rises.
    """

    epochs: int = 3
    learning_rate: float = 1e-4
    batch: int = 32
    warmup: float = 0.1


class EncoderTrainer:
    """A pretrained encoder under training.

    Args:
        base: folder of the pretrained encoder.
        max_tokens: tokens of a text that are read.
        multi: several labels a request.
        seed: of initialisation, dropout and the order of rows.
        threads: of torch; None leaves its setting.
        plain_numbers: read every number as 0.
    """

    def __init__(
        self,
        base: Path,
        *,
        max_tokens: int,
        multi: bool = False,
        seed: int = 0,
        threads: int | None = None,
        plain_numbers: bool = False,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.base = base
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        # Eager attention is what the ONNX graph is traced from; the parity check compares like with like.
        self.model: Any = AutoModel.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
        self.head: nn.Linear | None = None
        self.max_tokens = min(max_tokens, int(self.model.config.max_position_embeddings))
        self.multi = multi
        self.seed = seed
        self.plain_numbers = plain_numbers
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)

    def embed_ids(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean of the last hidden states over the tokens that are there; shape (b, d)."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def _tokens(self, texts: Sequence[str]) -> list[Integers]:
        """Numbers of each text's tokens, shape (t,)."""
        texts = [merge_numbers(t[:20_000]) if self.plain_numbers else t[:20_000] for t in texts]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        return [np.array(ids, dtype=np.int64) for ids in encoded]

    def _batch(self, tokens: Sequence[Integers]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = pad(tokens)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    @torch.no_grad()
    def embed(self, texts: Sequence[str], progress: Progress | None = None, *, quick: bool = False) -> Floats:
        """Embeddings of shape (n, d), in full precision.

        Args:
            texts: n requests.
            progress: is told how many are embedded and how many there are.
            quick: in the precision of training where that is faster; cosines to full precision are above .999.
        """
        self.model.eval()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        result: Floats | None = None
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            tokens = self._tokens([texts[i] for i in part])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=quick and bfloat16_is_fast()):
                embedding = self.embed_ids(*self._batch(tokens)).float().cpu().numpy()
            if result is None:
                result = np.empty((len(texts), embedding.shape[1]), dtype=np.float32)
            result[part] = embedding
            if progress:
                progress(min(start + 64, len(order)), len(order))
        return result if result is not None else np.empty((0, int(self.model.config.hidden_size)), np.float32)

    def fine_tune(
        self,
        texts: Sequence[str],
        targets: Floats,
        plan: TrainingPlan,
        *,
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train encoder and head end to end.

        Args:
            texts: n requests.
            targets: probabilities of the labels, shape (n, k): 0 and 1, or softened.
            plan: settings.
            checkpoint: file that keeps the state after each epoch; training goes on from it when it is there.
            progress: is told steps done and steps in all.
        """
        torch.manual_seed(self.seed)
        head = nn.Linear(int(self.model.config.hidden_size), targets.shape[1])
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head = head.to(self.device)
        wanted = torch.from_numpy(targets).to(self.device)
        tokens = self._tokens(texts)

        def loss(rows: list[int]) -> torch.Tensor:
            ids, mask = self._batch([tokens[i] for i in rows])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16_is_fast()):
                logits = head(self.embed_ids(ids, mask))
            return self._loss(logits.float(), wanted[rows])

        self.train_end_to_end(head, loss, tokens, plan, checkpoint=checkpoint, progress=progress)

    def train_end_to_end(
        self,
        head: nn.Module,
        loss: Callable[[list[int]], torch.Tensor],
        tokens: Sequence[Integers],
        plan: TrainingPlan,
        *,
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train the encoder and what stands on it.

        Args:
            head: trained at ten times the encoder's rate.
            loss: of the rows with these numbers.
            tokens: of the n rows, shape (t,) each; rows of similar length make a batch.
            plan: settings.
            checkpoint: file that keeps the state after each epoch; training goes on from it when it is there.
            progress: is told steps done and steps in all.
        """
        with used_tokens_alone(self.model, torch.from_numpy(np.unique(np.concatenate(tokens)))):
            self._train(head, loss, [t.size for t in tokens], plan, checkpoint, progress)
        self.model.eval()
        head.eval()
        if checkpoint:
            checkpoint.unlink(missing_ok=True)

    def _train(
        self,
        head: nn.Module,
        loss: Callable[[list[int]], torch.Tensor],
        lengths: Sequence[int],
        plan: TrainingPlan,
        checkpoint: Path | None,
        progress: Progress | None,
    ) -> None:
        encoder_parameters = [p for n, p in self.model.named_parameters() if "pooler" not in n]
        optimiser = torch.optim.AdamW(
            [
                {"params": encoder_parameters, "lr": plan.learning_rate, "weight_decay": 0.01},
                {"params": head.parameters(), "lr": plan.learning_rate * 10, "weight_decay": 0.0},
            ],
            fused=True,
        )
        an_epoch = -(-len(lengths) // plan.batch)
        total = plan.epochs * an_epoch
        warm = max(1, int(plan.warmup * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda s: min((s + 1) / warm, max(0.0, (total - s) / max(1, total - warm)))
        )
        trained = [*encoder_parameters, *head.parameters()]
        first = self._resume(checkpoint, head, optimiser, schedule)
        done = first * an_epoch
        for epoch in range(first, plan.epochs):
            self.model.train()
            head.train()
            torch.manual_seed(self.seed * 1000 + epoch)
            for rows in batches_by_length(lengths, plan.batch, self.seed * 1000 + epoch):
                step_loss = loss(rows)
                optimiser.zero_grad()
                step_loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                schedule.step()
                done += 1
                if progress:
                    progress(done, total)
            if checkpoint and epoch + 1 < plan.epochs:
                self._store(checkpoint, epoch + 1, head, optimiser, schedule)

    def _loss(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        if self.multi:
            return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
        return nn.functional.cross_entropy(logits, wanted)

    def _store(self, path: Path, epoch: int, head: nn.Module, optimiser: Any, schedule: Any) -> None:
        aside = path.with_name(path.name + ".part")
        state = {
            "epoch": epoch,
            "model": self.model.state_dict(),
            "head": head.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        torch.save(state, aside)
        aside.replace(path)

    def _resume(self, path: Path | None, head: nn.Module, optimiser: Any, schedule: Any) -> int:
        if path is None or not path.is_file():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
        except Exception:  # a file cut off by a kill: training starts again
            return 0
        self.model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        return int(state["epoch"])

    def head_arrays(self) -> tuple[Floats, Floats]:
        """The trained head: weights of shape (d, k) and bias of shape (k,)."""
        assert self.head is not None
        return self.head.weight.detach().cpu().numpy().T.copy(), self.head.bias.detach().cpu().numpy().copy()


def fold_standardisation(features: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each column, shapes (d,), to standardise features before a head is fitted."""
    return features.mean(axis=0), features.std(axis=0) + 1e-6
