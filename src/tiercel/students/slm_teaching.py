"""A larger pretrained model teaches a smaller one while that is tuned: three ways, each a loss of some rows of a step.

- `RecordedLogits`: the teacher's likeliest tokens at each place of the recorded answers, read once; the teacher is then
  gone from memory. Both need the same tokenizer.
- `OnPolicy`: a share of the rows is answered by the student itself and judged by the teacher (GKD). Same tokenizer.
- `AcrossTokenizers`: pieces of text at whose borders both tokenizers agree are compared (GOLD, by trl's loss).

The mean is over the answers' tokens; `train_slm` weighs it against the cross entropy of the recorded answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tiercel.errors import MissingExtraError
from tiercel.students.distillation import (
    IGNORED,
    Divergence,
    distillation_loss,
    forward_kl,
    jensen_shannon,
    next_token,
)
from tiercel.students.on_policy import on_policy_step
from tiercel.students.slm_adapter import load_model, quiet
from tiercel.students.slm_base import SlmBase
from tiercel.students.slm_rows import ChatRow, TokenRow, encode_chat_rows, pad_rows
from tiercel.students.teacher_logprobs import TopK, pack_top_k, top_k_of, unpack

__all__ = ["AcrossTokenizers", "OnPolicy", "RecordedLogits", "SlmTeaching", "same_tokenizer"]

KEPT = 20
"""Likeliest tokens that are recorded of each place."""
AT_ONCE = 8
"""Rows that a teacher reads at a time."""

Progress = Callable[[int, int], None]


class SlmTeaching(Protocol):
    """What a teacher adds to tuning."""

    weight: float
    """Of the teacher against the recorded answers, in [0, 1]."""
    said: str
    """What a report notes."""

    def loss(self, model: Any, rows: Sequence[TokenRow], step: int, total: int) -> Tensor:
        """Mean over the answer tokens of `rows`; a scalar with a gradient to `model`.

        Args:
            model: that is tuned.
            rows: that are read together.
            step: number of the step.
            total: steps in all.
        """
        ...


def same_tokenizer(first: SlmBase, second: SlmBase) -> bool:
    """Whether two models name their tokens alike, so that their probabilities speak of the same things."""
    return first.vocabulary == second.vocabulary and first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def _teacher_model(teacher: SlmBase) -> Any:
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return load_model(teacher, dtype).eval().requires_grad_(False)


def _padding(base: SlmBase) -> int:
    own = base.tokenizer.pad_token_id
    return own if own is not None else (base.tokenizer.eos_token_id or 0)


class RecordedLogits:
    """The teacher's likeliest tokens of the recorded answers.

    Args:
        base: that is tuned.
        teacher: with the same tokenizer.
        rows: that are trained on; each is read once.
        weight: of the teacher.
        context: tokens of a row at the most.
        progress: is told rows done and rows in all.
        temperature: flattens both sides; the gradient is scaled back by its square.
        divergence: from the teacher.
        more: what a report notes of these.
    """

    def __init__(
        self,
        base: SlmBase,
        teacher: SlmBase,
        rows: Sequence[ChatRow],
        *,
        weight: float,
        context: int,
        progress: Progress | None = None,
        temperature: float = 1.0,
        divergence: Divergence = forward_kl,
        more: str = "",
    ) -> None:
        self.base, self.weight, self.temperature, self.divergence = base, weight, temperature, divergence
        self.said = f"; taught by {teacher.name} (logits{more})"
        fit, _ = encode_chat_rows(base.tokenizer, rows, context=context, ends=base.ends)
        k = min(KEPT, base.vocabulary)
        ids = [np.zeros((0, k), dtype=np.int64)] * len(rows)
        logprobs = [np.zeros((0, k))] * len(rows)
        model = _teacher_model(teacher)
        order = sorted(fit.rows, key=lambda row: len(row.ids))
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            for row, kept in zip(part, _read(model, part, _padding(base), k), strict=True):
                ids[row.number], logprobs[row.number] = kept.ids.cpu().numpy(), kept.logprobs.double().cpu().numpy()
            if progress:
                progress(min(start + AT_ONCE, len(order)), len(order))
        self.told = pack_top_k(ids, logprobs, base.vocabulary)

    def loss(self, model: Any, rows: Sequence[TokenRow], step: int, total: int) -> Tensor:
        """See `SlmTeaching.loss`."""
        del step, total
        device = next(model.parameters()).device
        ids, mask, labels = (x.to(device) for x in pad_rows(rows, _padding(self.base)))
        logits, wanted = next_token(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels)
        counted = wanted != IGNORED
        # In the order of the rows, which is that of the places that count.
        told = [unpack(self.told, row.number) for row in rows]
        teacher = TopK(
            ids=torch.cat([t.ids for t in told]),
            logprobs=torch.cat([t.logprobs for t in told]),
            tail=torch.cat([t.tail for t in told]),
            vocabulary=self.told.vocabulary,
        ).to(device)
        found = logits[counted]
        everywhere = torch.ones(len(found), dtype=torch.bool, device=device)
        return self.temperature**2 * distillation_loss(
            found, teacher, everywhere, divergence=self.divergence, temperature=self.temperature
        )


@torch.no_grad()
def _read(model: Any, rows: Sequence[TokenRow], padding: int, k: int) -> list[TopK]:
    """What a model holds likely at each answer token of some rows; shapes (t, k) for each."""
    device = next(model.parameters()).device
    ids, mask, _ = (x.to(device) for x in pad_rows(rows, padding))
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [top_k_of(logits[i, r.start - 1 : len(r.ids) - 1].float(), k) for i, r in enumerate(rows)]


class OnPolicy:
    """The teacher judges what the student says.

    Args:
        base: that is tuned.
        teacher: with the same tokenizer; it stays in memory.
        weight: of the teacher.
        context: tokens of a row at the most.
        share: of the rows that the student answers itself.
        seed: of the draws.
        divergence: between student and teacher.
        temperature: flattens both sides; the gradient is scaled back by its square.
        more: what a report notes of these.
    """

    def __init__(
        self,
        base: SlmBase,
        teacher: SlmBase,
        *,
        weight: float,
        context: int,
        share: float = 0.5,
        seed: int = 0,
        divergence: Divergence = jensen_shannon,
        temperature: float = 1.0,
        more: str = "",
    ) -> None:
        self.base, self.weight, self.context, self.share, self.seed = base, weight, context, share, seed
        self.divergence, self.temperature = divergence, temperature
        self.said = f"; taught by {teacher.name} (on-policy{more})"
        self.model = _teacher_model(teacher)

    def loss(self, model: Any, rows: Sequence[TokenRow], step: int, total: int) -> Tensor:
        """See `SlmTeaching.loss`."""
        del total
        number = rows[0].number
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step * 7_919 + number) % 2**31)
        device = next(model.parameters()).device
        longest = max(len(r.ids) - r.start for r in rows)

        def sample(requests: Sequence[Tensor]) -> Sequence[Tensor]:
            return self._sampled(model, requests, longest, generator)

        found = on_policy_step(
            [torch.tensor(r.ids[: r.start]) for r in rows],
            [torch.tensor(r.ids[r.start :]) for r in rows],
            student=lambda ids, mask: model(input_ids=ids, attention_mask=mask, use_cache=False).logits,
            teacher=lambda ids, mask: self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits,
            sample=sample,
            share=self.share,
            pad=_padding(self.base),
            longest=self.context,
            divergence=self.divergence,
            temperature=self.temperature,
            generator=generator,
            device=device,
        )
        return self.temperature**2 * found.loss

    def _sampled(
        self, model: Any, requests: Sequence[Tensor], longest: int, generator: torch.Generator
    ) -> list[Tensor]:
        """The student's own answers, drawn; each ends with its first end token."""
        device, padding = next(model.parameters()).device, _padding(self.base)
        width = max(map(len, requests))
        ids = torch.full((len(requests), width), padding)
        mask = torch.zeros_like(ids)
        for i, request in enumerate(requests):
            ids[i, width - len(request) :] = request
            mask[i, width - len(request) :] = 1
        training = model.training
        model.eval()
        # transformers draws from the global generator.
        state = torch.random.get_rng_state()
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        with quiet():
            found: Tensor = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=longest,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                use_cache=True,
                pad_token_id=padding,
                eos_token_id=list(self.base.ends) or None,
            )
        torch.random.set_rng_state(state)
        model.train(training)
        return [_ended(row.tolist(), self.base.ends) for row in found[:, width:].cpu()]


def _ended(ids: list[int], ends: Sequence[int]) -> Tensor:
    """Token ids up to the first that ends an answer, it included."""
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
    return torch.tensor(ids[: stop + 1])


class AcrossTokenizers:
    """A teacher with another tokenizer, on the recorded answers.

    Source: trl's GOLD loss (Patiño et al., "Unlocking on-policy distillation for any model family", 2025), without
    its hybrid part: the probabilities of each piece of text are compared in falling order, whatever tokens are called.

    Args:
        base: that is tuned.
        teacher: of any tokenizer; it stays in memory.
        rows: that are trained on.
        weight: of the teacher.
        context: tokens of the teacher's rows at the most.
        more: what a report notes of the way.

    Raises:
        MissingExtraError: trl is not installed.
    """

    def __init__(
        self,
        base: SlmBase,
        teacher: SlmBase,
        rows: Sequence[ChatRow],
        *,
        weight: float,
        context: int,
        more: str = "",
    ) -> None:
        self.base, self.teacher, self.weight, self.rows = base, teacher, weight, rows
        self.said = f"; taught by {teacher.name} (gold{more})"
        fit, _ = encode_chat_rows(teacher.tokenizer, rows, context=context, ends=teacher.ends)
        self.known = {row.number: row for row in fit.rows}
        self.model = _teacher_model(teacher)
        self.compare = _gold(base.tokenizer, teacher.tokenizer, next(self.model.parameters()).device)

    def loss(self, model: Any, rows: Sequence[TokenRow], step: int, total: int) -> Tensor:
        """See `SlmTeaching.loss`; rows that are too long for the teacher add nothing."""
        del step, total
        mine = [row for row in rows if row.number in self.known]
        device = next(model.parameters()).device
        if not mine:
            return torch.zeros((), device=device)
        theirs = [self.known[row.number] for row in mine]
        ids, mask, labels = (x.to(device) for x in pad_rows(mine, _padding(self.base)))
        ids_t, mask_t, labels_t = (x.to(device) for x in pad_rows(theirs, _padding(self.teacher)))
        with torch.no_grad():
            judged = self.model(input_ids=ids_t, attention_mask=mask_t, use_cache=False).logits
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        offsets = (self._offsets(self.base.tokenizer, mine), self._offsets(self.teacher.tokenizer, theirs))
        found = self.compare(
            logits.float(), judged.float(), labels, labels_t, ids, ids_t, *(o.to(device) for o in offsets)
        )
        return found.reshape(())

    def _offsets(self, tokenizer: Any, rows: Sequence[TokenRow]) -> Tensor:
        """First and last byte of each answer token in its answer, shape (b, t, 2); zero elsewhere."""
        found = torch.zeros((len(rows), max(len(r.ids) for r in rows), 2), dtype=torch.long)
        for i, row in enumerate(rows):
            ends = _answer_ends(tokenizer, self.rows[row.number].answer, row)
            found[i, row.start : len(row.ids)] = torch.tensor(list(zip([0, *ends], ends, strict=False)))
        return found


def _answer_ends(tokenizer: Any, answer: str, row: TokenRow) -> list[int]:
    """Where each answer token ends in the bytes of the answer; markers end where the answer does.

    Found by decoding ever longer beginnings, which every tokenizer can; a part of a character ends with it.
    """
    text = answer.strip()
    size, ends = len(text.encode("utf-8", "replace")), list[int]()
    before = tokenizer.decode(row.ids[: row.start])
    for stop in range(row.start + 1, len(row.ids) + 1):
        told = tokenizer.decode(row.ids[:stop])[len(before) :].lstrip().rstrip("\ufffd")
        ends.append(max(ends[-1] if ends else 0, min(size, len(told.encode("utf-8", "replace")))))
    return ends


def _gold(student: Any, teacher: Any, device: torch.device) -> Any:
    """Trl's loss, with shared tokens compared as such."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from trl.experimental.gold.gold_trainer import ULDLoss
    except ImportError:
        raise MissingExtraError("trl", "tune") from None
    plan: Any = SimpleNamespace(
        uld_crossentropy_weight=0.0,
        uld_distillation_weight=1.0,
        uld_student_temperature=1.0,
        uld_teacher_temperature=1.0,
        uld_skip_student_eos=True,
        uld_skip_teacher_eos=True,
        use_extended_uld=True,
        # Probabilities of the tokens that came, multiplied over a piece: the other way reads one place too late.
        uld_token_merge_strategy="bayesian",
        # Not hybrid, which is trl's default too: where a teacher has one token for a label and the student three, the
        # last of which the teacher knows by another meaning, the hybrid punishes the student for the right answer.
        uld_use_hybrid_loss=False,
    )
    return ULDLoss(plan, student_tokenizer=student, teacher_tokenizer=teacher, device=device)
