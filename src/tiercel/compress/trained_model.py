"""A trained Hugging Face folder in torch: its prompts, what it holds likely, and its greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.engines.openai_form import messages_json
from tiercel.errors import BundleError, MissingExtraError
from tiercel.types import Message

__all__ = ["TrainedAnswer", "TrainedModel"]

Json = dict[str, Any]
Floats = NDArray[np.float64]

AT_ONCE = 32
"""Prompts that are answered together at the most."""


class TrainedAnswer(Struct, frozen=True, kw_only=True):
    """A greedy answer of the trained model."""

    ids: tuple[int, ...]
    """Without the token that ended it."""
    text: str
    ended: bool
    """Whether it ended by itself."""
    logprob: float
    """Sum over `ids`, in nats."""


class TrainedModel:
    """The model of a Hugging Face folder, in single precision. Answers that were given once are remembered.

    Args:
        folder: the trained model, its tokenizer and its chat template.

    Raises:
        BundleError: the folder can't be read.
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from None
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
            self.model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{folder}: the trained model can't be read ({error}); save it again") from None
        told = self.model.generation_config.eos_token_id
        self._ends = set(told) if isinstance(told, list) else {told}
        self._known: dict[tuple[tuple[int, ...], int], TrainedAnswer] = {}

    def prompt(self, messages: Sequence[Message], tools: list[Json] | None = None) -> tuple[str, list[int]]:
        """The rendered prompt and its token ids, as in training."""
        made = messages_json(messages)
        for message in made:
            for call in message.get("tool_calls") or ():
                # Chat templates are written for arguments as an object.
                call["function"]["arguments"] = msgspec.json.decode(call["function"]["arguments"])
        text = self.tokenizer.apply_chat_template(made, tools=tools, tokenize=False, add_generation_prompt=True)
        return text, self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def logprobs(self, ids: Sequence[int], said: Sequence[int]) -> Floats:
        """Log probabilities of all tokens at each of the t places of `said` behind the prompt `ids`, shape (t, v)."""
        import torch

        if not said:
            return np.zeros((0, 1))
        path = [*ids, *said]
        with torch.inference_mode():
            logits = self.model(torch.tensor([path])).logits[0, len(ids) - 1 : len(path) - 1]
            return torch.log_softmax(logits.double(), dim=-1).numpy()

    def answer_many(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[TrainedAnswer]:
        """Greedy answers to prompts of token ids, of at most `max_tokens`."""
        keys = [(tuple(ids), max_tokens) for ids in prompts]
        # Of like length together: what fills a row up costs as much as the row.
        new = sorted({key[0] for key in keys if key not in self._known}, key=len)
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            for ids, found in zip(part, self._answered(part, max_tokens), strict=True):
                self._known[ids, max_tokens] = found
        return [self._known[key] for key in keys]

    def _answered(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[TrainedAnswer]:
        import torch

        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        there = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            there[row, width - len(prompt) :] = 1
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=there,
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
            said = out.sequences[:, width:]
            each = [
                torch.log_softmax(logits.double(), dim=-1).gather(1, said[:, at : at + 1])
                for at, logits in enumerate(out.logits)
            ]
        chosen: Floats = torch.cat(each, dim=1).numpy()
        return [self._read(row, known) for row, known in zip(said.tolist(), chosen, strict=True)]

    def _read(self, said: list[int], logprobs: Floats) -> TrainedAnswer:
        stop = next((at for at, token in enumerate(said) if token in self._ends), None)
        ids = said[:stop]
        return TrainedAnswer(
            ids=tuple(ids),
            text=self.tokenizer.decode(ids, skip_special_tokens=True),
            ended=stop is not None,
            logprob=float(logprobs[: len(ids)].sum()),
        )
