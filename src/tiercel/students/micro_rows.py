"""Rows of a workload as token ids: what fits, what is left out and why, and batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.students.batching import batches_by_length
from tiercel.students.micro_model import GRAIN
from tiercel.students.micro_tokenizer import MicroTokenizer

__all__ = ["Batch", "EncodedRow", "Fitting", "batches", "encode_rows", "fit_context"]

_FEWEST = 32


class EncodedRow(NamedTuple):
    """One row."""

    ids: list[int]
    """Request with its markers, answer, end."""
    answer: int
    """Where the answer starts in `ids`."""
    number: int
    """Of the row among those that were given; -1 for a row that was changed, of which no teacher has spoken."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How rows fit into a context.

    Attributes:
        context: tokens of request and answer together, markers included.
        answer: tokens of an answer, its end included.
        rows: numbers of the rows that can be trained on.
        empty: rows left out since they have no answer.
        long: rows left out since their answers have more tokens than `answer`.
        cut: rows whose requests are cut.
    """

    context: int
    answer: int
    rows: tuple[int, ...]
    empty: int
    long: int
    cut: int

    @property
    def warnings(self) -> list[str]:
        """What was left out, a line each."""
        said = list[str]()
        if self.empty:
            said.append(f"{self.empty} rows without an answer are not trained on")
        if self.long:
            said.append(f"{self.long} answers of {self.answer} tokens or more are not trained on")
        if self.cut:
            said.append(f"{self.cut} requests are cut to {self.context - self.answer - 2} tokens")
        return said


def fit_context(tokenizer: MicroTokenizer, rows: Sequence[tuple[str, str]], *, most: int) -> Fitting:
    """The context that nearly all rows fit into, and what happens to the others.

    Args:
        tokenizer: of the workload.
        rows: requests and answers.
        most: tokens that a context may have; half of them are for the answer.

    Raises:
        DataError: too few rows are left to train on.
    """
    requests, answers = (np.array([len(i) for i in tokenizer.encode(t)]) for t in zip(*rows, strict=True))
    answer = min(most // 2, _room(answers) + 1)
    context = min(most, 32 * math.ceil((_room(requests) + 2 + answer) / 32))
    empty = np.array([not answer.strip() for _, answer in rows])
    long = ~empty & (answers + 1 > answer)
    kept = np.flatnonzero(~empty & ~long)
    if len(kept) < max(_FEWEST, len(rows) // 2):
        raise DataError(
            f"{len(kept)} of {len(rows)} rows can be trained on ({int(empty.sum())} have no answer, {int(long.sum())} "
            f"answers are longer than {answer} tokens); give more rows, {_FEWEST} at least, or try another rung"
        )
    return Fitting(
        context=context,
        answer=answer,
        rows=tuple(int(i) for i in kept),
        empty=int(empty.sum()),
        long=int(long.sum()),
        cut=int((requests[kept] + 2 + answer > context).sum()),
    )


def _room(lengths: NDArray[np.int64]) -> int:
    """Half as much again as nearly all take: tomorrow's may be longer."""
    return 8 + math.ceil(1.5 * float(np.quantile(lengths, 0.999)))


def encode_rows(
    tokenizer: MicroTokenizer,
    rows: Sequence[tuple[str, str]],
    *,
    context: int,
    answer: int,
    numbers: Sequence[int] | None = None,
) -> list[EncodedRow]:
    """Rows as ids; a request that is too long is cut behind, an answer that is empty or too long leaves no row.

    Args:
        tokenizer: of the workload.
        rows: requests and answers.
        context: tokens of a row.
        answer: tokens of an answer, its end included.
        numbers: of the rows; None numbers them from 0.
    """
    requests = tokenizer.encode([request for request, _ in rows])
    answers = tokenizer.encode([answer for _, answer in rows])
    found = list[EncodedRow]()
    for number, request, given in zip(numbers or range(len(rows)), requests, answers, strict=True):
        if given and len(given) < answer:
            prompt = tokenizer.prompt(request[: context - answer - 2])
            found.append(EncodedRow([*prompt, *given, tokenizer.end_id], len(prompt), number))
    return found


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of similar length, padded behind.

    Attributes:
        ids: tokens, shape (b, t).
        answered: True where the next token belongs to an answer, shape (b, t).
        targets: those next tokens, shape (a,) for a answer tokens in the batch.
        rows: number of the row of each, shape (a,); see `EncodedRow`.
        asked: True where the next token belongs to a request, shape (b, t).
    """

    ids: torch.Tensor
    answered: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    asked: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[EncodedRow], padding: int) -> Batch:
        """The batch of some rows; `padding` is a token that is never looked at."""
        lengths, starts = (np.array(x)[:, None] for x in ([len(r.ids) for r in rows], [r.answer for r in rows]))
        # A kernel is compiled and kept for each new shape: few lengths, little memory.
        longest = -(-(int(lengths.max()) - 1) // GRAIN) * GRAIN + 1
        places = np.arange(longest)
        ids = np.full((len(rows), longest), padding, dtype=np.int64)
        ids[places < lengths] = np.fromiter(chain.from_iterable(r.ids for r in rows), dtype=np.int64)
        answered = (places[:-1] >= starts - 1) & (places[:-1] < lengths - 1)
        told = np.repeat(np.array([r.number for r in rows]), answered.sum(axis=1))
        return cls(
            ids=torch.from_numpy(ids[:, :-1]),
            answered=torch.from_numpy(answered),
            targets=torch.from_numpy(ids[:, 1:][answered]),
            rows=torch.from_numpy(told),
            asked=torch.from_numpy(places[:-1] < starts - 2),
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def batches(rows: Sequence[EncodedRow], size: int, seed: int) -> Iterator[list[EncodedRow]]:
    """The rows in random batches of similar length."""
    for numbers in batches_by_length([len(row.ids) for row in rows], size, seed):
        yield [rows[i] for i in numbers]
