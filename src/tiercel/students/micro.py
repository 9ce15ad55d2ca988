"""The micro rung read in torch: greedy answers, for tests and for parity with the engine that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tiercel.students.micro_model import KeyValues, MicroDecoder, load_decoder
from tiercel.students.micro_tokenizer import MicroTokenizer

__all__ = ["Generated", "MicroStudent"]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One answer.

    Attributes:
        text: the answer.
        logprobs: natural logarithm of the probability of each token that was chosen, the one that ends it included.
        finish_reason: "stop", or "length" when its place was full before the answer ended.
    """

    text: str
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


class MicroStudent:
    """A trained decoder and its tokenizer.

    Args:
        decoder: trained; put into evaluation mode.
        tokenizer: that it was trained with.
    """

    rung = "micro"

    def __init__(self, decoder: MicroDecoder, tokenizer: MicroTokenizer) -> None:
        self.decoder = decoder.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path) -> MicroStudent:
        """The student that training wrote into `folder`.

        Raises:
            BundleError: a file is missing or damaged.
        """
        return cls(load_decoder(folder), MicroTokenizer(folder))

    @torch.no_grad()
    def generate(self, texts: Sequence[str], *, max_tokens: int | None = None, batch: int = 64) -> list[Generated]:
        """The likeliest token after the other, for each request.

        Args:
            texts: n requests; what is longer than its place in the context is cut behind, as in training.
            max_tokens: of an answer, its end included; None for what training left to answers.
            batch: requests that are read at a time.
        """
        shape = self.decoder.shape
        limit = min(max_tokens or shape.answer, shape.answer)
        prompts = [self.tokenizer.prompt(i[: shape.context - shape.answer - 2]) for i in self.tokenizer.encode(texts)]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Generated] = {}
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            found.update(zip(part, self._answers([prompts[i] for i in part], limit), strict=True))
        return [found[i] for i in range(len(texts))]

    @torch.no_grad()
    def sample(self, prompts: Sequence[list[int]], generator: torch.Generator) -> list[list[int]]:
        """Answers that are drawn token by token, by the decoder's own probabilities.

        Args:
            prompts: token ids of requests between their markers.
            generator: of the draws, on the CPU.

        Returns:
            Token ids of each answer, its end included where it came to one.
        """
        answers = self._continued(prompts, self.decoder.shape.answer, generator)
        return [
            [*tokens, answers.end] if ended else tokens
            for tokens, ended in zip(answers.tokens, answers.ended, strict=True)
        ]

    def _answers(self, prompts: Sequence[list[int]], limit: int) -> list[Generated]:
        answers = self._continued(prompts, limit, None)
        return [
            Generated(text=self.tokenizer.decode(t), logprobs=tuple(p), finish_reason="stop" if ended else "length")
            for t, p, ended in zip(answers.tokens, answers.logprobs, answers.ended, strict=True)
        ]

    def _continued(self, prompts: Sequence[list[int]], limit: int, generator: torch.Generator | None) -> _Answers:
        """The likeliest tokens, or drawn ones where there is a generator."""
        end, device = self.tokenizer.end_id, self.decoder.model.norm.weight.device
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), end)
        there = torch.zeros((len(prompts), longest), dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            # Padding is in front: the last token of every row is then in the last column.
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            there[i, longest - len(prompt) :] = True
        ids, there = ids.to(device), there.to(device)
        answers = _Answers(len(prompts), end)
        past: KeyValues | None = None
        for _ in range(limit):
            positions = (there.cumsum(1) - 1).clamp(min=0)
            read = ids.shape[1]
            hidden, past = self.decoder(
                ids, mask=self._mask(there, positions, read), positions=positions[:, -read:], past=past
            )
            said = self.decoder.logits(hidden[:, -1]).float().log_softmax(-1)
            if generator is None:
                logprobs, best = said.max(-1)
            else:
                best = torch.multinomial(said.exp().cpu(), 1, generator=generator).to(device)[:, 0]
                logprobs = said.gather(1, best[:, None])[:, 0]
            answers.add(best.tolist(), logprobs.tolist())
            if answers.all_ended:
                break
            ids = best[:, None]
            there = torch.cat([there, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        return answers

    def _mask(self, there: Tensor, positions: Tensor, read: int) -> Tensor:
        """What each of the last `read` tokens sees, shape (b, 1, read, t)."""
        distance = positions[:, -read:, None] - positions[:, None, :]
        keys = torch.arange(there.shape[1], device=there.device)
        seen = there[:, None, :] & (keys[None, None, :] <= keys[None, -read:, None])
        if self.decoder.shape.window is not None:
            seen = seen & (distance < self.decoder.shape.window)
        # Padding sees itself: a softmax over nothing would be no number.
        return (seen | (keys[None, None, :] == keys[None, -read:, None]))[:, None]


class _Answers:
    """Tokens as they come, for each row until its end."""

    def __init__(self, rows: int, end: int) -> None:
        self.end = end
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]
        self.ended = [False] * rows

    def add(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if self.ended[i]:
                continue
            self.logprobs[i].append(logprob)
            if token == self.end:
                self.ended[i] = True
            else:
                self.tokens[i].append(token)

    @property
    def all_ended(self) -> bool:
        return all(self.ended)
