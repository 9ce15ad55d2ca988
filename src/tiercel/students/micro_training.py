"""Training of the micro rung: a decoder from scratch on the requests and answers of one workload."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tiercel.datasets.curriculum import Curriculum
from tiercel.errors import DataError, RunError
from tiercel.students.held_out import known_nll
from tiercel.students.micro_augmentation import ValueSwap
from tiercel.students.micro_model import MicroDecoder, MicroShape, save_decoder
from tiercel.students.micro_optimiser import Muon
from tiercel.students.micro_rationale import MicroRationale
from tiercel.students.micro_rows import Batch, EncodedRow, Fitting, batches, encode_rows, fit_context
from tiercel.students.micro_scoring import answer_nll
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_vocabulary import train_tokenizer
from tiercel.students.precision import bfloat16_is_fast

__all__ = ["FurtherLoss", "MicroPlan", "MicroTraining", "TokenLoss", "Variation", "train_micro"]

Progress = Callable[[int, int], None]
TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Mean loss of answer tokens: from logits (a, v), the tokens that came (a,), and the number of the training row of each
(a,), which is -1 in a row that was changed."""

FurtherLoss = Callable[[MicroDecoder, Sequence[EncodedRow], int, int], Tensor]
"""What is added to the loss of a step: from the decoder, the step's rows, its number and the steps in all."""

Variation = Callable[[Sequence[tuple[str, str]], int], list[tuple[str, str]]]
"""The rows of an epoch, one for each training row, from these and the epoch's seed; a row that stays is the same
object. See `ValueSwap`."""

_MEASURED = 20
"""Steps after which the speed is taken, again and again."""
_BETWEEN = 100
"""Steps at least between two looks at held-out rows."""


@dataclass(frozen=True, kw_only=True)
class MicroPlan:
    """Settings of training; `size` is the dial, the rest suits decoders of 0.1 to 10 million parameters.

    Attributes:
        size: parameters at most.
        epochs: passes over the rows at most; None for 40, or as many more as make 3,000 steps.
        minutes: limit of time; the steps that fit in are derived from those measured, and the schedule ends with them.
        batch: rows a step.
        learning_rate: peak of AdamW's; matrices have `matrix_rate`.
        matrix_rate: peak of Muon's.
        warmup: steps in which the rate rises.
        dropout: see `MicroDecoder`.
        smoothing: share of the target that is spread over all tokens.
        swap: share of the rows whose copied values are replaced, afresh in each epoch.
        patience: looks at the held-out rows without a lower loss after which training ends.
        context: tokens of request and answer together at most.
        words: pieces of words in the vocabulary; None derives them from the amount of text.
        window: tokens back that a token sees; None for all.
        keep: which weights are kept: those of the lowest held-out loss, or of the most held-out answers that are right
            in every token. Few rows make a model sure of its errors, so that its loss rises while it still gets more
            answers right: training then goes on to the end of its schedule, and of equals the last are kept.
        rationale: weight of rationales beside answers, where rows have them.
        request: weight of the request's own tokens at the start, from which it falls to 0 at the end; where answers are
            a token or two, they alone tell too little of what words mean.
    """

    size: int = 2_500_000
    epochs: int | None = None
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 0.015
    matrix_rate: float = 0.02
    warmup: int = 60
    dropout: float = 0.1
    smoothing: float = 0.0
    swap: float = 0.5
    patience: int = 6
    context: int = 1024
    words: int | None = None
    window: int | None = None
    keep: Literal["loss", "right"] = "loss"
    rationale: float = 0.5
    request: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MicroTraining:
    """What came out of training.

    Attributes:
        shape: of the decoder.
        fitting: which rows were trained on.
        losses: mean loss of an answer token on held-out rows, in nats, after each epoch or, where epochs are short,
            after each as many as make 100 steps.
        steps: that were taken.
        seconds: of wall-clock time, those before an interruption included.
        warnings: what a user should know, a line each.
        wrong: held-out answers that are wrong in some token, at the same looks.
        held_out_nll: negative log likelihood of each held-out answer under the weights that were kept, in nats; None
            where one does not fit.
    """

    shape: MicroShape
    fitting: Fitting
    losses: tuple[float, ...]
    steps: int
    seconds: float
    warnings: tuple[str, ...]
    wrong: tuple[int, ...] = ()
    held_out_nll: tuple[float | None, ...] = ()


def train_micro(
    rows: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    folder: Path,
    plan: MicroPlan | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    loss: TokenLoss | None = None,
    difficulty: Sequence[float] | None = None,
    tokenizer: MicroTokenizer | None = None,
    further: FurtherLoss | None = None,
    variation: Variation | None = None,
    rationales: Sequence[str] | None = None,
) -> MicroTraining:
    """Train tokenizer and decoder, and write both into `folder` as Hugging Face's Llama has them.

    Args:
        rows: requests and answers to train on.
        held_out: rows that decide which weights are kept and when to stop.
        folder: takes the files.
        plan: settings.
        seed: of initialisation, dropout, swaps and the order of rows.
        threads: of torch; None leaves its setting.
        checkpoint: file that keeps the state after each epoch; training goes on from it when it is
            there and of the same rows, plan and seed.
        progress: is told steps done and steps in all, which may become fewer where a time limit asks for it.
        loss: of answer tokens, as from a teacher's probabilities; None for cross entropy.
        difficulty: of each row; training goes in stages from the easiest third to all rows. None mixes all from the
            start.
        tokenizer: that is used and copied; None trains one on the rows.
        further: is added to the loss of each step, as from a teacher that judges what the decoder says.
        variation: changes the rows in each epoch; None swaps copied values (`ValueSwap`).
        rationales: why each row's answer is right, or empty; the decoder learns to say it where it is asked for it,
            which it is in training alone.

    Raises:
        DataError: too few rows can be trained on, or none is held out.
    """
    plan = plan or MicroPlan()
    if threads:
        torch.set_num_threads(threads)
    if tokenizer is None:
        tokenizer = train_tokenizer(rows, folder, words=plan.words, beside=rationales or ())
    else:
        tokenizer.copy_to(folder)
    fitting = fit_context(tokenizer, rows, most=plan.context)
    added, context = [further] if further else [], fitting.context
    if rationales is not None:
        reasons = MicroRationale(tokenizer, rows, rationales, weight=plan.rationale, most=plan.context)
        added, context = [*added, reasons], max(context, reasons.context)
    shape = MicroShape.of_size(
        plan.size, vocabulary=len(tokenizer), context=context, answer=fitting.answer, window=plan.window
    )
    judged = encode_rows(tokenizer, held_out, context=shape.context, answer=shape.answer)
    if not judged:
        raise DataError("no held-out row can be used to tell when to stop; hold out rows with answers")
    stages = None
    if difficulty is not None:
        stages = Curriculum.of(np.array([difficulty[i] for i in fitting.rows], dtype=np.float64))
    fitted = {i: rows[i] for i in fitting.rows}
    run = _Run(
        plan,
        shape,
        tokenizer,
        fitted,
        judged,
        seed=seed,
        loss=loss,
        stages=stages,
        further=added,
        variation=variation,
    )
    run.train(checkpoint, progress)
    save_decoder(run.decoder, folder, begin=1, end=tokenizer.end_id)
    return MicroTraining(
        shape=shape,
        fitting=fitting,
        losses=tuple(run.losses),
        wrong=tuple(run.wrong),
        steps=run.step,
        seconds=run.seconds,
        warnings=tuple(fitting.warnings),
        held_out_nll=known_nll(answer_nll(run.decoder, tokenizer, held_out)),
    )


class _Run:
    """The state of training, and how it is stored and taken up."""

    def __init__(
        self,
        plan: MicroPlan,
        shape: MicroShape,
        tokenizer: MicroTokenizer,
        rows: Mapping[int, tuple[str, str]],
        held_out: Sequence[EncodedRow],
        *,
        seed: int,
        loss: TokenLoss | None,
        stages: Curriculum | None = None,
        further: Sequence[FurtherLoss] = (),
        variation: Variation | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.stages, self.further = stages, further
        self.plan, self.shape, self.tokenizer, self.held_out, self.seed = plan, shape, tokenizer, held_out, seed
        self.numbers, self.rows = list(rows), list(rows.values())
        self.loss = loss or self._cross_entropy
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Below, the casts cost more than the products gain.
        self.bfloat16 = bfloat16_is_fast() and shape.width >= 128
        self.decoder = MicroDecoder(shape, dropout=plan.dropout, twins=tokenizer.twins).to(self.device)
        self.best = self._weights()
        self.vary = variation or ValueSwap(self.rows, share=plan.swap)
        self.optimisers = _optimisers(self.decoder, plan)
        self.losses: list[float] = []
        self.wrong: list[int] = []
        self.epoch = self.step = self.judged = 0
        steps = math.ceil(len(rows) / plan.batch)
        self.total = steps * plan.epochs if plan.epochs else max(40 * steps, 3000)
        self.every = math.ceil(_BETWEEN / steps)
        self.seconds = 0.0

    def train(self, checkpoint: Path | None, progress: Progress | None) -> None:
        """Train to the end of the schedule, and leave the best weights in the decoder."""
        self._resume(checkpoint)
        while self.step < self.total and not self._is_stale:
            before, started = self.seconds, time.perf_counter()
            torch.manual_seed(self.seed * 1000 + self.epoch)
            for rows in batches(self._epoch_rows(), self.plan.batch, self.seed * 1000 + self.epoch):
                self._train_step(rows)
                self.seconds = before + time.perf_counter() - started
                if self.step % _MEASURED == 0:
                    self._keep_time()
                if progress:
                    progress(self.step, self.total)
                if self.step >= self.total:
                    break
            self.epoch += 1
            if self.epoch % self.every == 0:
                self._judge()
            self.seconds = before + time.perf_counter() - started
            self._keep_time()
            if checkpoint and self.step < self.total:
                self._store(checkpoint)
        if self.judged < self.step:
            self._judge()
        self.decoder.load_state_dict(self.best)
        self.decoder.eval()
        if checkpoint:
            checkpoint.unlink(missing_ok=True)

    @property
    def _is_stale(self) -> bool:
        """Whether the lowest loss lies as many looks back as patience allows."""
        if self.plan.keep == "right" or (self.stages is not None and not self.stages.is_whole(self.step / self.total)):
            return False
        return bool(self.losses) and len(self.losses) - 1 - self.losses.index(min(self.losses)) >= self.plan.patience

    def _epoch_rows(self) -> list[EncodedRow]:
        changed = self.vary(self.rows, self.seed * 1000 + self.epoch)
        new = [i for i, (mine, old) in enumerate(zip(changed, self.rows, strict=True)) if mine is not old]
        made: list[EncodedRow | None] = list(self._encoded)
        for i, row in zip(new, self._encode([changed[i] for i in new], [-1] * len(new)), strict=True):
            made[i] = row
        drawn: Sequence[int] = range(len(made))
        if self.stages is not None:
            drawn = self.stages.rows(self.step / self.total, np.random.default_rng((self.seed, self.epoch))).tolist()
        return [row for i in drawn if (row := made[i]) is not None]

    @cached_property
    def _encoded(self) -> list[EncodedRow | None]:
        """The rows as they were given; None for one that leaves no row."""
        return self._encode(self.rows, self.numbers)

    def _encode(self, rows: Sequence[tuple[str, str]], numbers: Sequence[int]) -> list[EncodedRow | None]:
        found: list[EncodedRow | None] = [None] * len(rows)
        places = range(len(rows))
        for row in encode_rows(
            self.tokenizer, rows, context=self.shape.context, answer=self.shape.answer, numbers=places
        ):
            found[row.number] = row._replace(number=numbers[row.number])
        return found

    def _train_step(self, rows: Sequence[EncodedRow]) -> None:
        batch = Batch.of(rows, self.tokenizer.end_id).to(self.device)
        self.decoder.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            hidden = self.decoder(batch.ids)[0]
            logits = self.decoder.logits(hidden[batch.answered])
        loss = self.loss(logits.float(), batch.targets, batch.rows)
        if self.plan.request:
            loss = loss + self.plan.request * (1 - self.step / self.total) * self._request_loss(batch, hidden)
        for further in self.further:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = loss + further(self.decoder, rows, self.step, self.total)
        self.decoder.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        rate = min((self.step + 1) / self.plan.warmup, (self.total - self.step) / max(1, self.total))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * rate
            optimiser.step()
        self.step += 1

    def _request_loss(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Cross entropy of the requests' tokens."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.decoder.logits(hidden[batch.asked])
        return functional.cross_entropy(logits.float(), batch.ids[:, 1:][batch.asked[:, :-1]])

    def _cross_entropy(self, logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        del rows
        return functional.cross_entropy(logits, targets, label_smoothing=self.plan.smoothing)

    @torch.no_grad()
    def _judge(self) -> None:
        """Loss on held-out rows, and answers that are wrong in a token; the weights are kept if they are the best."""
        self.decoder.eval()
        total, tokens, wrong = 0.0, 0, 0
        for rows in batches(self.held_out, 128, 0):
            batch = Batch.of(rows, self.tokenizer.end_id).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self.decoder.logits(self.decoder(batch.ids)[0][batch.answered])
            total += float(functional.cross_entropy(logits.float(), batch.targets, reduction="sum"))
            tokens += len(batch.targets)
            missed = logits.argmax(-1) != batch.targets
            wrong += len(batch.answered.nonzero()[missed, 0].unique())
        if not math.isfinite(total):
            raise RunError("training diverged; give a lower learning rate, or another seed")
        self.judged = self.step
        self.losses.append(total / tokens)
        self.wrong.append(wrong)
        scores = self.losses if self.plan.keep == "loss" else self.wrong
        if scores[-1] == min(scores):
            self.best = self._weights()

    def _keep_time(self) -> None:
        """Shorten the schedule to what the time limit allows at the speed so far."""
        if self.plan.minutes is not None and self.step < self.total:
            left = 60 * self.plan.minutes - self.seconds
            self.total = min(self.total, self.step + max(0, math.floor(left * self.step / self.seconds)))

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.decoder.state_dict().items()}

    @cached_property
    def _identity(self) -> str:
        """Tells whether a checkpoint is of this very training."""
        staged = [] if self.stages is None else [part.tolist() for part in self.stages.stages]
        told = repr((self.plan, self.shape, self.seed, self.numbers, self.rows, self.held_out, staged))
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def _store(self, path: Path) -> None:
        aside = path.with_name(path.name + ".part")
        state = {
            "identity": self._identity,
            "decoder": self.decoder.state_dict(),
            "best": self.best,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "counts": (self.epoch, self.step, self.judged, self.total, self.seconds),
            "losses": self.losses,
            "wrong": self.wrong,
        }
        torch.save(state, aside)
        aside.replace(path)

    def _resume(self, path: Path | None) -> None:
        if path is None or not path.is_file():
            return
        try:
            state: Any = torch.load(path, weights_only=True, map_location=self.device)
        except Exception:  # a file cut off by a kill: training starts again
            return
        if not isinstance(state, dict) or state.get("identity") != self._identity:
            return
        self.decoder.load_state_dict(state["decoder"])
        self.best, self.losses, self.wrong = state["best"], state["losses"], state["wrong"]
        self.epoch, self.step, self.judged, self.total, self.seconds = state["counts"]
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)


def _optimisers(decoder: MicroDecoder, plan: MicroPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in decoder.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in decoder.named_parameters() if p.dim() != 2 or "embed" in n]
    adam = torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [adam, Muon(matrices, lr=plan.matrix_rate)]
