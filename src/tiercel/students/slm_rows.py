"""Rows of a workload as a chat model sees them: prompt and answer by its own template, and what of them is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from tiercel.errors import ConfigurationError
from tiercel.students.distillation import IGNORED
from tiercel.types import Message

__all__ = ["WHY", "ChatRow", "RowFit", "TokenRow", "encode_chat_rows", "pad_rows", "rationale_rows"]

WHY = "Do not answer; say what in this request leads to the answer."
"""Asked behind a request."""


class ChatRow(NamedTuple):
    """One row."""

    messages: tuple[Message, ...]
    """The request, ready for the assistant's turn."""
    answer: str


class TokenRow(NamedTuple):
    """One row as token ids."""

    ids: list[int]
    start: int
    """Where the answer starts in `ids`."""
    number: int = -1
    """Of the row among those that were given."""


@dataclass(frozen=True, kw_only=True)
class RowFit:
    """What became of rows.

    Attributes:
        rows: that can be trained on.
        numbers: of these rows among those that were given.
        empty: rows left out since they have no answer.
        long: rows left out since request and answer are longer than the context.
        shortest_long: tokens of the shortest of them; 0 where there is none.
        answer: tokens of the longest answer, its end included.
        longest: tokens of the longest row.
    """

    rows: tuple[TokenRow, ...]
    numbers: tuple[int, ...]
    empty: int
    long: int
    shortest_long: int
    answer: int
    longest: int

    def warnings(self, context: int) -> list[str]:
        """What was left out, a line each."""
        said = list[str]()
        if self.empty:
            said.append(f"{self.empty} rows without an answer are not trained on")
        if self.long:
            said.append(f"{self.long} rows are longer than the context of {context} tokens and are not trained on")
        return said


def rationale_rows(rows: Sequence[ChatRow], rationales: Sequence[str]) -> list[ChatRow]:
    """Rows of their own in which the model says why instead of answering; the rationale is empty where there is none.

    The question stands behind the request, so that a request alone is still answered as before.

    Args:
        rows: n requests and answers.
        rationales: of each, or empty.
    """
    found = list[ChatRow]()
    for row, rationale in zip(rows, rationales, strict=True):
        *before, last = row.messages
        asked = msgspec.structs.replace(last, content=f"{last.text}\n\n{WHY}")
        found.append(ChatRow((*before, asked), rationale))
    return found


def encode_chat_rows(
    tokenizer: Any, rows: Sequence[ChatRow], *, context: int, ends: Sequence[int]
) -> tuple[RowFit, tuple[int, ...]]:
    """Token ids of rows, and the tokens that end their answers.

    An answer is what the template writes from its first character to the token that ends it. What a template puts
    before an answer and not into the prompt that it is generated from (the empty thoughts of Qwen3) is left out, since
    the served model will not have written it.

    Args:
        tokenizer: of the model, with a chat template.
        rows: n requests and answers.
        context: tokens of a row at the most.
        ends: tokens at which the model stops by itself.

    Raises:
        ConfigurationError: the template does not begin a finished chat with the prompt that it was generated from, or
            leaves an answer out, changes or does not end it.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder) | set(ends)
    found, numbers, closing = list[TokenRow](), list[int](), dict[int, None]()
    empty = answer = 0
    long = list[int]()
    for number, row in enumerate(rows):
        if not row.answer.strip():
            empty += 1
            continue
        prompt, told = _rendered(tokenizer, row)
        ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole: list[int] = tokenizer(prompt + told, add_special_tokens=False)["input_ids"]
        if whole[: len(ids)] != ids:
            # The last token of the prompt merges with the answer's first; serving can't merge them.
            whole = ids + tokenizer(told, add_special_tokens=False)["input_ids"]
        end = _end(tokenizer, whole, len(ids), row.answer, special, set(ends))
        whole = whole[: end + 1]
        if len(whole) > context:
            long.append(len(whole))
            continue
        closing[whole[-1]] = None
        answer = max(answer, len(whole) - len(ids))
        found.append(TokenRow(whole, len(ids), number))
        numbers.append(number)
    fit = RowFit(
        rows=tuple(found),
        numbers=tuple(numbers),
        empty=empty,
        long=len(long),
        shortest_long=min(long, default=0),
        answer=answer,
        longest=max((len(r.ids) for r in found), default=0),
    )
    return fit, tuple(closing)


def _rendered(tokenizer: Any, row: ChatRow) -> tuple[str, str]:
    """The prompt, and what follows it from the answer's first character on."""
    messages = [{"role": m.role, "content": m.text} for m in row.messages]
    prompt: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole: str = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": row.answer}], tokenize=False, add_generation_prompt=False
    )
    if not whole.startswith(prompt):
        at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise ConfigurationError(
            f"the chat template writes {whole[at : at + 20]!r} where the prompt has {prompt[at : at + 20]!r}, so that "
            "what is trained is not what is served; mend the template so that a chat begins with its prompt"
        )
    told = whole[len(prompt) :]
    start = told.find(row.answer.strip())
    if start < 0:
        raise ConfigurationError(
            f"the chat template does not write the answer {row.answer[:40]!r} as it is; mend the template"
        )
    # Blanks before the answer are the answer's own, or the template took them away.
    return prompt, told[start:]


def _end(tokenizer: Any, whole: list[int], start: int, answer: str, special: set[int], ends: set[int]) -> int:
    """Place of the token that ends the answer: the first special one behind the answer's own text."""
    written = len(answer.strip())
    for place in range(start, len(whole)):
        if whole[place] not in special:
            continue
        if whole[place] in ends or len(tokenizer.decode(whole[start:place]).strip()) >= written:
            return place
    raise ConfigurationError(
        "the chat template does not end an answer with a token of its own, so that the model would never stop; mend "
        "the template so that it writes the end token behind each answer"
    )


def pad_rows(rows: Sequence[TokenRow], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows side by side, filled up on the right.

    Args:
        rows: b rows of at most t tokens.
        padding: id to fill with.

    Returns:
        Ids, mask and labels, each int64 of shape (b, t); labels are `IGNORED` but for answers.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), padding)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        there = torch.tensor(row.ids)
        ids[i, : len(row.ids)] = there
        mask[i, : len(row.ids)] = 1
        labels[i, row.start : len(row.ids)] = there[row.start :]
    return ids, mask, labels
