"""Tuning of the slm rung: a pretrained causal language model learns a workload through a low-rank adapter.

peft makes and merges the adapter; the loop is our own. trl's SFTTrainer masks prompts too, but it takes its own view of
where an answer starts, ends only after whole steps of a schedule that a limit of minutes can't shorten, keeps whole
checkpoints where an adapter's best weights are wanted, and what it resumes depends on the state of data loaders.
The loop here is that of the micro rung: rows of similar length, answer tokens weighed alike over all rows of a step,
a schedule that ends with the time, and a checkpoint that goes on to the same result.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiercel.datasets.curriculum import Curriculum
from tiercel.errors import ConfigurationError, DataError, RunError
from tiercel.students.distillation import answer_and_rationale, next_token
from tiercel.students.held_out import known_nll
from tiercel.students.precision import bfloat16_is_fast
from tiercel.students.slm_adapter import attach_adapter, four_bits_work, load_model, save_adapter
from tiercel.students.slm_base import SlmBase, free_memory, tuning_bytes
from tiercel.students.slm_rows import ChatRow, TokenRow, encode_chat_rows, pad_rows, rationale_rows
from tiercel.students.slm_teaching import SlmTeaching

__all__ = ["SlmPlan", "SlmTraining", "train_slm"]

Progress = Callable[[int, int], None]

_MEASURED = 5
"""Steps after which the speed is taken, again and again."""
_JUDGED = 200
"""Held-out rows at most."""
_POOL = 50
"""Steps whose rows are sorted by length together."""


@dataclass(frozen=True, kw_only=True)
class SlmPlan:
    """Settings of tuning.

    Attributes:
        rank: of the adapter.
        alpha: over the root of the rank, the scale of the adapter.
        dropout: before the adapter; none on experts that lie in one tensor.
        learning_rate: peak; about ten times that of tuning all weights.
        batch: rows a step.
        at_once: rows that are read at a time; gradients are added up to a step.
        epochs: passes over the rows at most.
        minutes: limit of time; the steps that fit in are derived from those measured, and the schedule ends with them.
        warmup: share of the steps in which the rate rises.
        looks: at the held-out rows in an epoch.
        patience: looks without a lower loss after which training ends.
        context: tokens of a row at the most; what the model was trained for where that is less.
        checkpointing: make activations again in the backward pass, which is slower and takes less memory; None where
            memory asks for it.
        four_bits: keep the frozen weights in 4 bits (QLoRA), which needs a GPU and bitsandbytes; None where memory
            asks for it and it can be done.
        rationale: weight of rationales beside answers, where rows have them.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.05
    learning_rate: float = 2e-4
    batch: int = 16
    at_once: int = 4
    epochs: int = 3
    minutes: float | None = None
    warmup: float = 0.03
    looks: int = 4
    patience: int = 3
    context: int = 2048
    checkpointing: bool | None = None
    four_bits: bool | None = None
    rationale: float = 0.5


@dataclass(frozen=True, kw_only=True)
class SlmTraining:
    """What came out of tuning.

    Attributes:
        losses: mean loss of an answer token on held-out rows, in nats, before the first step and at each look.
        steps: that were taken.
        seconds: of wall-clock time, those before an interruption included.
        answer: tokens of the longest answer, its end included.
        longest: tokens of the longest row.
        ends: tokens that end answers as the template writes them.
        adapted: parameters that were trained.
        method: "LoRA" or "QLoRA".
        warnings: what a user should know, a line each.
        held_out_nll: negative log likelihood of each held-out answer that was looked at, under the weights that were
            kept, in nats; None where one does not fit.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    answer: int
    longest: int
    ends: tuple[int, ...]
    adapted: int
    method: str
    warnings: tuple[str, ...]
    held_out_nll: tuple[float | None, ...] = ()


def train_slm(
    base: SlmBase,
    rows: Sequence[ChatRow],
    held_out: Sequence[ChatRow],
    folder: Path,
    plan: SlmPlan | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    difficulty: Sequence[float] | None = None,
    teaching: SlmTeaching | None = None,
    rationales: Sequence[str] | None = None,
) -> SlmTraining:
    """Tune an adapter on `base` and write it into `folder`; `merge_adapter` makes a model of the two.

    Args:
        base: the pretrained model.
        rows: requests and answers to train on.
        held_out: rows that decide which weights are kept and when to stop.
        folder: takes the adapter.
        plan: settings.
        seed: of initialisation, dropout and the order of rows.
        threads: of torch; None leaves its setting.
        checkpoint: file that keeps the state at each look; training goes on from it when it is there and of the same
            base, rows, plan and seed.
        progress: is told steps done and steps in all, which may become fewer where a time limit asks for it.
        difficulty: of each row; training goes in stages from the easiest third to all rows. None mixes all from the
            start.
        teaching: of a larger model, which adds to the loss of each step; None learns from the answers alone.
        rationales: why each row's answer is right, or empty; the model learns to say it where it is asked for it, which
            it is in training alone.

    Raises:
        ConfigurationError: the model does not fit into memory, or its template can't be trained with.
        DataError: no row can be trained on, or none is held out.
        MissingExtraError: peft is not installed.
        RunError: training diverged.
    """
    plan = plan or SlmPlan()
    if threads:
        torch.set_num_threads(threads)
    context = min(plan.context, base.context)
    fit, ends = encode_chat_rows(base.tokenizer, rows, context=context, ends=base.ends)
    looked_at = held_out[:_JUDGED]
    judged, _ = encode_chat_rows(base.tokenizer, looked_at, context=context, ends=base.ends)
    if not fit.rows and fit.long:
        raise DataError(
            f"the context of {context} tokens is too small for every training row: the shortest with its answer takes "
            f"{fit.shortest_long}; choose a model with a longer one"
        )
    if not fit.rows:
        raise DataError("no training row has an answer; check that the answers were logged")
    if not judged.rows:
        raise DataError("no held-out row can be used to tell when to stop; hold out rows with answers")
    reasons = list[TokenRow]()
    if rationales is not None:
        told_why = rationale_rows(rows, rationales)
        reasons += encode_chat_rows(base.tokenizer, told_why, context=context, ends=base.ends)[0].rows
    dtype = torch.bfloat16 if bfloat16_is_fast() and base.width >= 128 else torch.float32
    at_once = min(plan.at_once, len(fit.rows))
    tokens = at_once * fit.longest
    if reasons:
        # Answers and rationales are read side by side.
        tokens = 2 * at_once * max(fit.longest, *(len(row.ids) for row in reasons))
    way, told = _affordable(base, plan, tokens, dtype)
    torch.manual_seed(seed)
    model = load_model(base, dtype, four_bits=way.four_bits)
    model, targets = attach_adapter(
        model, rank=plan.rank, alpha=plan.alpha, dropout=plan.dropout, four_bits=way.four_bits
    )
    if targets.left_out:
        told.append(f"LoRA leaves out {', '.join(targets.left_out)} of {base.name}")
    if way.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    stages = None
    if difficulty is not None:
        stages = Curriculum.of(np.array([difficulty[i] for i in fit.numbers], dtype=np.float64))
    run = _Run(
        model,
        base,
        plan,
        fit.rows,
        judged.rows,
        seed=seed,
        dtype=dtype,
        stages=stages,
        teaching=teaching,
        reasons={row.number: row for row in reasons},
    )
    run.train(checkpoint, progress)
    save_adapter(model, base, folder)
    nll = np.full(len(looked_at), np.nan)
    nll[list(judged.numbers)] = run.answer_nll()
    return SlmTraining(
        losses=tuple(run.losses),
        steps=run.step,
        seconds=run.seconds,
        answer=fit.answer,
        longest=fit.longest,
        ends=ends,
        adapted=sum(p.numel() for p in run.trained.values()),
        method="QLoRA" if way.four_bits else "LoRA",
        warnings=(*fit.warnings(context), *told),
        held_out_nll=known_nll(nll),
    )


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How memory is used."""

    four_bits: bool
    checkpointing: bool


def _affordable(base: SlmBase, plan: SlmPlan, tokens: int, dtype: torch.dtype) -> tuple[_Way, list[str]]:
    """The fastest way in which so many tokens at once fit into memory, and what to warn of.

    Raises:
        ConfigurationError: none does.
    """
    told = list[str]()
    works = four_bits_work()
    if plan.four_bits and not works:
        told.append("4 bits (QLoRA) need a GPU and bitsandbytes, which are not here: LoRA is used")
    bits = [bool(plan.four_bits) and works] if plan.four_bits is not None else [False, True] if works else [False]
    checkpoints = [plan.checkpointing] if plan.checkpointing is not None else [False, True]
    free, least = free_memory(), 2**63
    for four_bits in bits:
        for checkpointing in checkpoints:
            need = tuning_bytes(
                base,
                weight_bytes=0.6 if four_bits else dtype.itemsize,
                adapted=plan.rank * base.adapter_unit,
                tokens=tokens,
                checkpointing=checkpointing,
                value_bytes=dtype.itemsize,
            )
            if need <= free:
                return _Way(four_bits=four_bits, checkpointing=checkpointing), told
            least = min(least, need)
    raise ConfigurationError(
        f"{base.name} has {base.parameters / 1e9:.2g} billion parameters and takes about {least / 1e9:.3g} GB to tune, "
        f"{free / 1e9:.3g} GB are free; a model of about {base.parameters * free / least / 1e9:.2g} billion would fit"
    )


def _learnt(rows: Sequence[TokenRow]) -> int:
    """Tokens of some rows that are learnt."""
    return sum(len(row.ids) - row.start for row in rows)


class _Run:
    """The state of training, and how it is stored and taken up."""

    def __init__(
        self,
        model: Any,
        base: SlmBase,
        plan: SlmPlan,
        rows: Sequence[TokenRow],
        held_out: Sequence[TokenRow],
        *,
        seed: int,
        dtype: torch.dtype,
        stages: Curriculum | None = None,
        teaching: SlmTeaching | None = None,
        reasons: Mapping[int, TokenRow],
    ) -> None:
        self.stages, self.teaching, self.reasons = stages, teaching, reasons
        self.model, self.base, self.plan, self.rows, self.held_out, self.seed = model, base, plan, rows, held_out, seed
        self.trained: dict[str, Any] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trained.values())).device
        self.dtype = dtype
        tokenizer = base.tokenizer
        self.padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.epoch_steps = math.ceil(len(rows) / plan.batch)
        self.total = self.epoch_steps * plan.epochs
        self.every = max(1, round(self.epoch_steps / plan.looks))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.best = self._weights()

    def train(self, checkpoint: Path | None, progress: Progress | None) -> None:
        """Train to the end of the schedule, and leave the best weights in the model."""
        if not self._resume(checkpoint):
            self._judge()
        before, started = self.seconds, time.perf_counter()
        judged = self.step
        while self.step < self.total and not self._is_stale:
            self._train_step()
            self.seconds = before + time.perf_counter() - started
            if self.step % _MEASURED == 0:
                self._keep_time()
            if self.step % self.every == 0 or self.step >= self.total:
                self._judge()
                judged = self.step
                if checkpoint and self.step < self.total:
                    self._store(checkpoint)
            if progress:
                progress(self.step, self.total)
        if judged < self.step:
            self._judge()
        self.seconds = before + time.perf_counter() - started
        with torch.no_grad():
            for name, weight in self.best.items():
                self.trained[name].copy_(weight)
        self.model.eval()
        if checkpoint:
            checkpoint.unlink(missing_ok=True)

    @property
    def _is_stale(self) -> bool:
        """Whether the lowest loss lies as many looks back as patience allows."""
        if self.stages is not None and not self.stages.is_whole(self.step / self.total):
            return False
        return len(self.losses) - 1 - self.losses.index(min(self.losses)) >= self.plan.patience

    @cached_property
    def _orders(self) -> dict[int, list[list[int]]]:
        return {}

    def _step_rows(self) -> list[TokenRow]:
        """Rows of the current step: random, but of similar length."""
        epoch, place = divmod(self.step, self.epoch_steps)
        if epoch not in self._orders:
            self._orders.clear()
            rng = np.random.default_rng((self.seed, epoch))
            if self.stages is None:
                order = rng.permutation(len(self.rows)).tolist()
            else:
                # By passes and not by time, so that a run that was taken up draws the same.
                order = self.stages.rows(epoch / self.plan.epochs, rng).tolist()
            size, steps = self.plan.batch, list[list[int]]()
            for start in range(0, len(order), size * _POOL):
                pool = sorted(order[start : start + size * _POOL], key=lambda i: len(self.rows[i].ids))
                steps += [pool[k : k + size] for k in range(0, len(pool), size)]
            self._orders[epoch] = [steps[i] for i in rng.permutation(len(steps))]
        return [self.rows[i] for i in self._orders[epoch][place]]

    def _train_step(self) -> None:
        self.model.train()
        # Dropout depends on seed and step alone, so that a run that was taken up draws the same.
        torch.manual_seed((self.seed * 1_000_003 + self.step) % 2**31)
        rows = self._step_rows()
        tokens, why = _learnt(rows), _learnt(self._reasons(rows))
        for start in range(0, len(rows), self.plan.at_once):
            part = rows[start : start + self.plan.at_once]
            loss = self._loss(part, tokens, self._reasons(part), why)
            if self.teaching is not None:
                share = _learnt(part) / tokens
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                    taught = self.teaching.loss(self.model, part, self.step, self.total)
                loss = (1 - self.teaching.weight) * loss + self.teaching.weight * share * taught
            loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        warm = max(1, round(self.plan.warmup * self.total))
        rate = min((self.step + 1) / warm, max(0.0, (self.total - self.step) / max(1, self.total)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1

    def _reasons(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """The rationales of some rows."""
        return [self.reasons[row.number] for row in rows if row.number in self.reasons]

    def _loss(self, answers: Sequence[TokenRow], tokens: int, reasons: Sequence[TokenRow] = (), why: int = 0) -> Tensor:
        """Cross-entropy of the rows' answers over `tokens`, and that of rationales over `why`, weighed."""
        rows = [*answers, *reasons]
        ids, mask, labels = (x.to(self.device) for x in pad_rows(rows, self.padding))
        # Logits before the first answer of the rows are not made: a vocabulary is wide.
        first = max(1, min(row.start for row in rows)) - 1
        places = torch.arange(first, ids.shape[1], device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=places, use_cache=False).logits
        logits, wanted = next_token(logits, labels[:, first:])
        says_why = (torch.arange(len(rows), device=self.device) >= len(answers))[:, None].expand(wanted.shape)
        return answer_and_rationale(
            logits, wanted, says_why, weight=self.plan.rationale, tokens=tokens, rationale_tokens=why
        )

    @torch.no_grad()
    def _judge(self) -> None:
        """Loss on held-out rows; the weights are kept if it is the lowest."""
        self.model.eval()
        rows = sorted(self.held_out, key=lambda row: len(row.ids))
        tokens = _learnt(rows)
        total = 0.0
        for start in range(0, len(rows), self.plan.at_once):
            total += float(self._loss(rows[start : start + self.plan.at_once], tokens))
        if not math.isfinite(total):
            raise RunError("tuning diverged; give a lower learning rate, or another seed")
        self.losses.append(total)
        if total == min(self.losses):
            self.best = self._weights()

    @torch.no_grad()
    def answer_nll(self) -> list[float]:
        """Negative log likelihood of each held-out answer, in nats."""
        self.model.eval()
        return [float(self._loss([row], 1)) for row in self.held_out]

    def _keep_time(self) -> None:
        """Shorten the schedule to what the time limit allows at the speed so far."""
        if self.plan.minutes is not None and self.step < self.total:
            left = 60 * self.plan.minutes - self.seconds
            self.total = min(self.total, self.step + max(0, math.floor(left * self.step / self.seconds)))

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.trained.items()}

    @cached_property
    def _identity(self) -> str:
        """Tells whether a checkpoint is of this very training."""
        staged = [] if self.stages is None else [part.tolist() for part in self.stages.stages]
        told = repr(
            (self.base.folder.resolve(), self.base.parameters, self.plan, self.seed, self.rows, self.held_out, staged)
        ) + repr(self.reasons)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def _store(self, path: Path) -> None:
        aside = path.with_name(path.name + ".part")
        state = {
            "identity": self._identity,
            "weights": self._weights(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "counts": (self.step, self.total, self.seconds),
            "losses": self.losses,
        }
        torch.save(state, aside)
        aside.replace(path)

    def _resume(self, path: Path | None) -> bool:
        if path is None or not path.is_file():
            return False
        try:
            state: Any = torch.load(path, weights_only=True, map_location=self.device)
        except Exception:  # a file cut off by a kill: training starts again
            return False
        if not isinstance(state, dict) or state.get("identity") != self._identity:
            return False
        with torch.no_grad():
            for name, weight in state["weights"].items():
                self.trained[name].copy_(weight)
        self.best, self.losses = state["best"], state["losses"]
        self.step, self.total, self.seconds = state["counts"]
        self.optimiser.load_state_dict(state["optimiser"])
        return True
