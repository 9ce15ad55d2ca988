"""Speed of training against a bare torch loop: the micro rung on SNIPS, or the encoder rung on HEADLINES.

python benchmarks/training.py micro|encoder [--rows N] [--epochs E] [--size N] [--encoder FOLDER]

Both train the same model from the same start on the same batches in the same order. After each step of ours, the bare
loop takes the same step: what disturbs the machine disturbs both. Its batches are tensors that were made beforehand,
and it does nothing but forward, backward, clipping and the optimisers' steps; whatever else ours does (tokens, swapped
values, looks at held-out rows, checkpoints, progress) counts as its time. One thread; seconds are the processor's,
which other work on the machine changes little. That both did the same work is checked at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from _record import write_result
from micro import read
from tiercel.students.base_models import locate_encoder
from tiercel.students.batching import batches_by_length
from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan
from tiercel.students.micro_augmentation import ValueSwap
from tiercel.students.micro_model import MicroDecoder, MicroShape
from tiercel.students.micro_optimiser import Muon
from tiercel.students.micro_rows import Batch, batches, encode_rows, fit_context
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.students.micro_vocabulary import train_tokenizer
from tiercel.students.precision import bfloat16_is_fast

SEED = 0
HELD_OUT = 340
TARGET = 0.9
RESAMPLES = 4_000
PILOT_STEPS = 91
"""Of an epoch of the encoder in a pilot on HEADLINES: 2,900 training rows in batches of 32."""


@dataclass(kw_only=True)
class Pace:
    """Takes a step of the bare loop after each step of ours, and the processor's time of both.

    Attributes:
        bare: takes step i of the bare loop.
        ours: seconds of each of our steps, what came between it and the one before included.
        other: seconds of the bare ones.
    """

    bare: Callable[[int], None]
    ours: list[float] = field(default_factory=list[float])
    other: list[float] = field(default_factory=list[float])
    _left: float | None = None
    _state: Tensor | None = None

    def __call__(self, step: int, total: int) -> None:
        """Our loop is after `step` of `total` steps."""
        del total
        now = time.process_time()
        # Before the first step of ours lies what is done once: it is not timed.
        if self._left is not None:
            self.ours.append(now - self._left)
        mine = torch.get_rng_state()
        if self._state is not None:
            torch.set_rng_state(self._state)
        now = time.process_time()
        self.bare(step - 1)
        if self._left is not None:
            self.other.append(time.process_time() - now)
        self._state = torch.get_rng_state()
        torch.set_rng_state(mine)
        self._left = time.process_time()

    def speed(self, steps: int, an_epoch: int) -> tuple[float, float, float]:
        """Bare over ours, 1 is as fast and less is slower, with its interval by bootstrap over pairs of steps.

        Args:
            steps: of an epoch here.
            an_epoch: of the workload's own epochs, over which what lies between two of them is spread.
        """
        ours, other = np.array(self.ours), np.array(self.other)
        # The first step of an epoch carries what lies between two epochs.
        first = np.arange(len(ours)) % steps == steps - 1
        between = float(ours[first].mean() - ours[~first].mean())
        rng = np.random.default_rng(SEED)
        pairs = np.flatnonzero(~first)

        def ratio(chosen: np.ndarray) -> float:
            return float(other[chosen].mean() / (ours[chosen].mean() + between / an_epoch))

        drawn = [ratio(rng.choice(pairs, len(pairs))) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return ratio(pairs), float(low), float(high)


def micro(rows: int, epochs: int, size: int) -> tuple[Pace, int, float]:
    """Rounds on SNIPS, steps of an epoch, and how far the two losses at the end differ."""
    given = read("snips", "train.jsonl.gz")
    drawn = [given[i] for i in np.random.default_rng(SEED).permutation(len(given))]
    train, held = drawn[HELD_OUT : HELD_OUT + rows], drawn[:HELD_OUT]
    plan = MicroPlan(size=size, epochs=epochs, patience=epochs)
    with tempfile.TemporaryDirectory() as name:
        tokenizer = train_tokenizer(train, Path(name) / "tokenizer")
        fitting = fit_context(tokenizer, train, most=plan.context)
        assert len(fitting.rows) == len(train), fitting.warnings
        shape = MicroShape.of_size(plan.size, vocabulary=len(tokenizer), context=fitting.context, answer=fitting.answer)
        swap = ValueSwap(train, share=plan.swap)
        made = list[list[Batch]]()
        for epoch in range(epochs):
            seed = SEED * 1000 + epoch
            encoded = encode_rows(tokenizer, swap(train, seed), context=shape.context, answer=shape.answer)
            made.append([Batch.of(part, tokenizer.end_id) for part in batches(encoded, plan.batch, seed)])
        steps = len(made[0])
        ready = [batch for part in made for batch in part]
        torch.manual_seed(SEED)
        decoder = MicroDecoder(shape, dropout=plan.dropout, twins=tokenizer.twins)
        matrices = [p for n, p in decoder.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in decoder.named_parameters() if p.dim() != 2 or "embed" in n]
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
            Muon(matrices, lr=plan.matrix_rate),
        ]
        rates = [o.param_groups[0]["lr"] for o in optimisers]
        half = bfloat16_is_fast() and shape.width >= 128

        def bare(step: int) -> None:
            if step % steps == 0:
                torch.manual_seed(SEED * 1000 + step // steps)
            batch = ready[step]
            decoder.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = decoder.logits(decoder(batch.ids)[0][batch.answered])
            loss = functional.cross_entropy(logits.float(), batch.targets)
            decoder.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            share = min((step + 1) / plan.warmup, (len(ready) - step) / len(ready))
            for optimiser, rate in zip(optimisers, rates, strict=True):
                optimiser.param_groups[0]["lr"] = rate * share
                optimiser.step()

        pace = Pace(bare=bare)
        told = train_micro(
            train,
            held,
            Path(name) / "ours",
            plan,
            seed=SEED,
            tokenizer=tokenizer,
            checkpoint=Path(name) / "state",
            progress=pace,
        )
        judged = encode_rows(tokenizer, held, context=shape.context, answer=shape.answer)
        loss = _held_out(decoder.eval(), [Batch.of(b, tokenizer.end_id) for b in batches(judged, 128, 0)], half)
    return pace, steps, abs(loss - told.losses[-1])


@torch.no_grad()
def _held_out(decoder: MicroDecoder, held: Sequence[Batch], half: bool) -> float:
    total = 0.0
    for batch in held:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = decoder.logits(decoder(batch.ids)[0][batch.answered])
        total += float(functional.cross_entropy(logits.float(), batch.targets, reduction="sum"))
    return total / sum(len(batch.targets) for batch in held)


def encoder(rows: int, epochs: int, base: Path) -> tuple[Pace, int, float]:
    """Rounds on HEADLINES, steps of an epoch, and how far the two heads differ at the end."""
    given = read("headlines", "train.jsonl.gz")[:rows]
    names = sorted({answer for _, answer in given})
    texts = [request for request, _ in given]
    targets = np.array([[answer == name for name in names] for _, answer in given], dtype=np.float32)
    plan = TrainingPlan(epochs=epochs)
    trainer = EncoderTrainer(base, max_tokens=64, seed=SEED)
    twin = EncoderTrainer(base, max_tokens=64, seed=SEED)
    model: Any = twin.model
    order = list[list[int]]()
    lengths = [len(ids) for ids in twin.tokenizer(texts, truncation=True, max_length=64)["input_ids"]]
    for epoch in range(epochs):
        order += batches_by_length(lengths, plan.batch, SEED * 1000 + epoch)
    steps = len(order) // epochs
    encoded = [
        twin.tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=64, return_tensors="pt")
        for part in order
    ]
    ready = [
        (e["input_ids"], e["attention_mask"], torch.from_numpy(targets[p])) for e, p in zip(encoded, order, strict=True)
    ]
    torch.manual_seed(SEED)
    head = nn.Linear(int(model.config.hidden_size), len(names))
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    weights = [p for n, p in model.named_parameters() if "pooler" not in n]
    optimiser = torch.optim.AdamW(
        [
            {"params": weights, "lr": plan.learning_rate, "weight_decay": 0.01},
            {"params": head.parameters(), "lr": plan.learning_rate * 10, "weight_decay": 0.0},
        ]
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    total = len(ready)
    warm = max(1, int(plan.warmup * total))

    def bare(step: int) -> None:
        if step % steps == 0:
            model.train()
            torch.manual_seed(SEED * 1000 + step // steps)
        ids, mask, wanted = ready[step]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            there = mask[..., None].to(hidden.dtype)
            logits = head((hidden * there).sum(1) / there.sum(1))
        loss = functional.cross_entropy(logits.float(), wanted)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * min((step + 1) / warm, max(0.0, (total - step) / max(1, total - warm)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*weights, *head.parameters()], 1.0)
        optimiser.step()

    pace = Pace(bare=bare)
    with tempfile.TemporaryDirectory() as name:
        trainer.fine_tune(texts, targets, plan, checkpoint=Path(name) / "state", progress=pace)
    assert trainer.head is not None
    return pace, steps, float((trainer.head.weight - head.weight).detach().abs().max())


def said(name: str, pace: Pace, steps: int, an_epoch: int) -> list[tuple[str, str, str, bool | None]]:
    found, low, high = pace.speed(steps, an_epoch)
    ours, bare = (1000 * float(np.median(x)) for x in (pace.ours, pace.other))
    between = 1000 * float(np.mean(pace.ours[steps - 1 :: steps])) - ours
    return [
        (
            f"{name}: speed of training over a bare loop's, epochs of {an_epoch} steps",
            f">= {TARGET:.0%}",
            f"{found:.1%} [{low:.1%}, {high:.1%}]",
            found >= TARGET,
        ),
        (f"a step, ours and bare, medians of {len(pace.ours)}", "", f"{ours:.1f} ms, {bare:.1f} ms", None),
        ("between two epochs (rows made, held-out rows, checkpoint)", "", f"{between:.0f} ms", None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("micro", "encoder"))
    parser.add_argument("--rows", type=int, help="trained on: 6,400 of SNIPS, 320 of HEADLINES")
    parser.add_argument("--epochs", type=int, help="3 when left out")
    parser.add_argument("--size", type=int, default=150_000, help="parameters of the decoder; a larger one hides more")
    parser.add_argument("--encoder", help="folder of the encoder; all-MiniLM-L6-v2 when left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "micro":
        pace, steps, apart = micro(given.rows or 6_400, given.epochs or 3, given.size)
        # Rows are made and looked at in proportion to the steps, so that these epochs stand for longer ones.
        table = said(f"micro, {given.size:,} parameters at most", pace, steps, steps)
        same, most = "difference of the two held-out losses at the end", 1e-5
    else:
        pace, steps, apart = encoder(given.rows or 320, given.epochs or 3, locate_encoder(given.encoder))
        # A checkpoint takes as long after a short epoch as after one of a pilot on HEADLINES.
        table = said("encoder", pace, steps, PILOT_STEPS)
        # Ours steps with a fused optimiser, which rounds in another order.
        same, most = "largest difference of the two heads at the end", 1e-3
    table.append((same, f"< {most:g}", f"{apart:.1e}", apart < most))
    options = "".join(
        f" --{k} {getattr(given, k)}"
        for k in ("rows", "epochs", "size", "encoder")
        if getattr(given, k) != parser.get_default(k)
    )
    write_result(f"training-{given.what}", f"python benchmarks/training.py {given.what}{options}", table)


if __name__ == "__main__":
    main()
