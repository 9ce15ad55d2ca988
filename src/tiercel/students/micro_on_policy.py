"""A larger decoder judges what a smaller one says while it learns (GKD), for `train_micro`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tiercel.errors import ConfigurationError
from tiercel.students.distillation import Divergence, jensen_shannon
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_model import MicroDecoder
from tiercel.students.micro_rows import EncodedRow
from tiercel.students.on_policy import on_policy_step

__all__ = ["MicroOnPolicy"]


class MicroOnPolicy:
    """A further loss of a training step: the divergence from the teacher, on answers that are partly the student's own.

    A student that is trained from scratch first babbles, and a teacher's view of that is worth nothing: until
    `begin` of the training is done, the teacher judges recorded answers alone.

    Args:
        teacher: trained; its tokenizer is the student's.
        weight: of the divergence beside the cross entropy of the recorded answers.
        share: of the rows that the student answers itself.
        rows: of a step's that are judged, at the most: to answer them takes time.
        begin: share of the training from which the student answers.
        seed: of the draws.
        divergence: between student and teacher.
        temperature: flattens both sides; the gradient is scaled back by its square.

    Raises:
        ConfigurationError: a number can't be.
    """

    def __init__(
        self,
        teacher: MicroStudent,
        *,
        weight: float = 0.5,
        share: float = 0.5,
        rows: int = 16,
        begin: float = 0.4,
        seed: int = 0,
        divergence: Divergence = jensen_shannon,
        temperature: float = 1.0,
    ) -> None:
        if not (weight > 0 and 0 <= share <= 1 and rows > 0 and temperature > 0):
            raise ConfigurationError(
                f"weight {weight}, share {share}, rows {rows}, temperature {temperature}: give above 0, but a share of "
                "0 to 1"
            )
        self.teacher, self.weight, self.share, self.rows, self.begin = teacher, weight, share, rows, begin
        self.seed, self.divergence, self.temperature = seed, divergence, temperature

    def __call__(self, decoder: MicroDecoder, rows: Sequence[EncodedRow], step: int, total: int) -> Tensor:
        """The loss of one step; a scalar with a gradient to `decoder`.

        Args:
            decoder: that is trained.
            rows: of the step.
            step: its number.
            total: steps in all.
        """
        # From seed and step alone, so that a run that was taken up draws the same.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**31)
        chosen = [rows[i] for i in torch.randperm(len(rows), generator=generator)[: self.rows].tolist()]
        device = next(decoder.parameters()).device
        teacher = self.teacher.decoder.to(device)

        def sample(requests: Sequence[Tensor]) -> Sequence[Tensor]:
            training = decoder.training
            said = MicroStudent(decoder, self.teacher.tokenizer).sample([r.tolist() for r in requests], generator)
            decoder.train(training)
            return [torch.tensor(ids) for ids in said]

        found = on_policy_step(
            [torch.tensor(r.ids[: r.answer]) for r in chosen],
            [torch.tensor(r.ids[r.answer :]) for r in chosen],
            student=lambda ids, _: decoder.logits(decoder(ids)[0]),
            teacher=lambda ids, _: teacher.logits(teacher(ids)[0]),
            sample=sample,
            share=self.share if step >= self.begin * total else 0.0,
            pad=self.teacher.tokenizer.end_id,
            longest=min(decoder.shape.context, teacher.shape.context),
            divergence=self.divergence,
            temperature=self.temperature,
            generator=generator,
            device=device,
        )
        return self.weight * self.temperature**2 * found.loss
