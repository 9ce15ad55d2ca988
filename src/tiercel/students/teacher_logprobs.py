"""What a teacher said of each answer token, kept as its k likeliest tokens and the mass of all others.

`TopK` is what the losses read, `PackedTopK` what lies on disk: 4 bytes a kept token where the vocabulary has at most
65,536 tokens, else 6, and 2 for the tail. Full logits of 150,000 tokens in half precision take 2,400 times as much
as the 20 likeliest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiercel.errors import DataError

__all__ = ["LEAST_TAIL", "PackedTopK", "TopK", "pack_top_k", "top_k_of", "unpack"]

LEAST_TAIL = 1e-6
"""Smallest mass that is recorded for the tokens that are not kept. Sums of rounded probabilities can't tell a smaller
one from 0, and at 0 a reverse divergence would be infinite."""

_SMALL_VOCABULARY = 1 << 16
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The teacher's likeliest tokens at each place, with the mass of the rest in one bucket.

    Attributes:
        ids: int64 tensor of shape (..., k), each place's distinct token ids; the first is always filled.
        logprobs: float tensor of shape (..., k); -inf marks a place in the list that is not filled, and its id is then
            of no account.
        tail: float tensor of shape (...), log of the mass of all tokens that are not kept; -inf where k = v.
        vocabulary: v, the size of the teacher's vocabulary.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor
    vocabulary: int

    def select(self, mask: Tensor) -> TopK:
        """The m places where `mask`, of the shape of `tail`, is true."""
        return TopK(ids=self.ids[mask], logprobs=self.logprobs[mask], tail=self.tail[mask], vocabulary=self.vocabulary)

    def to(self, device: torch.device) -> TopK:
        """The same on another device."""
        return TopK(
            ids=self.ids.to(device),
            logprobs=self.logprobs.to(device),
            tail=self.tail.to(device),
            vocabulary=self.vocabulary,
        )


def top_k_of(logits: Tensor, k: int) -> TopK:
    """The `k` likeliest tokens of full logits of shape (..., v), exactly.

    Raises:
        ValueError: `k` is not in [1, v].
    """
    vocabulary = logits.shape[-1]
    if not 1 <= k <= vocabulary:
        raise ValueError(f"k must be in [1, {vocabulary}], not {k}")
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    kept, ids = log_p.topk(k, dim=-1)
    rest = log_p.scatter(-1, ids, -math.inf)
    return TopK(ids=ids, logprobs=kept, tail=torch.logsumexp(rest, dim=-1), vocabulary=vocabulary)


@dataclass(frozen=True, kw_only=True)
class PackedTopK:
    """Teacher's records of many answers, one after the other.

    Attributes:
        ids: uint16 or uint32 array of shape (t, k), t the tokens of all answers together.
        logprobs: float16 array of shape (t, k); -inf where a place is not filled.
        tail: float16 array of shape (t,), log of the mass that is not kept.
        starts: int64 array of shape (n + 1,): tokens of answer i are `starts[i]` to `starts[i + 1]`.
        vocabulary: size of the teacher's vocabulary.
    """

    ids: NDArray[np.uint16 | np.uint32]
    logprobs: NDArray[np.float16]
    tail: NDArray[np.float16]
    starts: NDArray[np.int64]
    vocabulary: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the arrays."""
        return self.ids.nbytes + self.logprobs.nbytes + self.tail.nbytes + self.starts.nbytes

    def save(self, path: Path) -> None:
        """Write one .npz file; it is written aside and renamed, so that it is there whole or not at all."""
        aside = path.with_name(path.name + ".part")
        with aside.open("wb") as file:
            np.savez(
                file,
                ids=self.ids,
                logprobs=self.logprobs,
                tail=self.tail,
                starts=self.starts,
                head=np.array([_FORMAT, self.vocabulary], dtype=np.int64),
            )
        os.replace(aside, path)  # noqa: PTH105 - Path.replace reads as if the content were replaced

    @classmethod
    def load(cls, path: Path) -> PackedTopK:
        """Read what `save` wrote; no code in the file is run.

        Raises:
            DataError: the file is no record of teacher logprobs, is cut short, or is from a newer version.
        """
        names = ("ids", "logprobs", "tail", "starts", "head")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                ids, logprobs, tail, starts, head = (cast("NDArray[Any]", arrays[name]) for name in names)
            version, vocabulary = int(head[0]), int(head[1])
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror or error}); record the teacher again") from None
        except Exception:  # zipfile, zlib, KeyError, ValueError ...: numpy has no error of its own for a foreign file
            raise DataError(f"{path} is not a whole record of teacher logprobs; record the teacher again") from None
        if version > _FORMAT:
            raise DataError(f"{path} is of format {version}, this version reads up to {_FORMAT}; update tiercel")
        packed = cls(ids=ids, logprobs=logprobs, tail=tail, starts=starts, vocabulary=vocabulary)
        if problem := _problem(packed):
            raise DataError(f"{path} is damaged: {problem}; record the teacher again")
        return packed


def _problem(packed: PackedTopK) -> str | None:
    """What is wrong with arrays that were read from a file; None when nothing is."""
    ids, starts = packed.ids, packed.starts
    if ids.ndim != 2 or packed.logprobs.shape != ids.shape or packed.tail.shape != ids.shape[:1]:
        return f"shapes {ids.shape}, {packed.logprobs.shape}, {packed.tail.shape} do not belong together"
    if starts.ndim != 1 or not starts.size or starts[0] != 0 or starts[-1] != len(ids) or (np.diff(starts) < 0).any():
        return "the starts of the answers do not part its tokens"
    if ids.size and int(ids.max()) >= packed.vocabulary:
        return f"token {int(ids.max())} is not in a vocabulary of {packed.vocabulary}"
    if np.isnan(packed.logprobs).any() or np.isnan(packed.tail).any():
        return "some logprobs are not numbers"
    return None


def pack_top_k(
    ids: Sequence[NDArray[np.int64]], logprobs: Sequence[NDArray[np.float64]], vocabulary: int
) -> PackedTopK:
    """Pack what a teacher reported, from an API's `top_logprobs` or from `top_k_of`.

    Tokens of a place are sorted by falling probability. The tail is 1 minus what is kept, and at least `LEAST_TAIL`
    unless the whole vocabulary is kept.

    Args:
        ids: for each of n answers an int array of shape (t, k), ids of the kept tokens.
        logprobs: for each answer a float array of shape (t, k), natural logarithms at temperature 1; -inf where the
            teacher reported fewer than k tokens.
        vocabulary: size of the teacher's vocabulary.

    Raises:
        DataError: shapes differ, an id is outside the vocabulary or repeated, a place has no token, a logprob is NaN,
            or the probabilities of a place sum to more than 1.
    """
    if len(ids) != len(logprobs):
        raise DataError(f"{len(ids)} answers have token ids but {len(logprobs)} have logprobs; give both for each")
    widths = {a.shape[1] for a in ids if a.ndim == 2}
    if len(widths) > 1 or any(a.ndim != 2 or a.shape != b.shape for a, b in zip(ids, logprobs, strict=True)):
        raise DataError("ids and logprobs of an answer must have one shape (tokens, k), with the same k everywhere")
    width = widths.pop() if widths else 1
    flat = np.concatenate([*ids, np.empty((0, width), np.int64)])
    values = np.concatenate([*(np.asarray(a, np.float64) for a in logprobs), np.empty((0, width))])
    _check(flat, values, vocabulary)
    order = np.argsort(-values, axis=1, kind="stable")
    flat, values = np.take_along_axis(flat, order, 1), np.take_along_axis(values, order, 1)
    flat = np.where(np.isneginf(values), flat[:, :1], flat)
    mass = np.exp(values).sum(axis=1)
    complete = np.isfinite(values).sum(axis=1) == vocabulary
    with np.errstate(divide="ignore"):
        tail = np.where(complete, -np.inf, np.log(np.clip(1 - mass, LEAST_TAIL, None)))
    return PackedTopK(
        ids=flat.astype(np.uint16 if vocabulary <= _SMALL_VOCABULARY else np.uint32),
        logprobs=values.astype(np.float16),
        tail=tail.astype(np.float16),
        starts=np.cumsum([0, *(len(a) for a in ids)], dtype=np.int64),
        vocabulary=vocabulary,
    )


def _check(ids: NDArray[np.int64], logprobs: NDArray[np.float64], vocabulary: int) -> None:
    """Raise a DataError that names the first token at which the teacher's record is wrong."""
    filled = ~np.isneginf(logprobs)
    unique = np.where(filled, ids, -1 - np.arange(ids.shape[1]))
    repeated = (np.diff(np.sort(unique, axis=1), axis=1) == 0).any(axis=1)
    mass = np.exp(logprobs).sum(axis=1)
    for wrong, what in (
        (np.isnan(logprobs).any(axis=1), "a logprob that is not a number"),
        (~filled.any(axis=1), "no token with a logprob"),
        ((filled & ((ids < 0) | (ids >= vocabulary))).any(axis=1), f"an id outside the vocabulary of {vocabulary}"),
        (repeated, "one id twice"),
        (mass > 1 + 1e-3, "probabilities that sum to more than 1 (are these natural logarithms?)"),
    ):
        if wrong.any():
            raise DataError(f"token {int(np.argmax(wrong))} of the teacher's record has {what}; record it again")


def unpack(packed: PackedTopK, row: int) -> TopK:
    """The teacher's record of answer `row` for the losses; shapes (t, k) and (t,), float32.

    Rounding to half precision moves a place's total mass by up to a thousandth; it is brought back to exactly 1.
    """
    tokens = slice(int(packed.starts[row]), int(packed.starts[row + 1]))
    logprobs = torch.from_numpy(packed.logprobs[tokens].astype(np.float32))
    tail = torch.from_numpy(packed.tail[tokens].astype(np.float32))
    total = torch.logsumexp(torch.cat([logprobs, tail[:, None]], dim=1), dim=1)
    return TopK(
        ids=torch.from_numpy(packed.ids[tokens].astype(np.int64)),
        logprobs=logprobs - total[:, None],
        tail=tail - total,
        vocabulary=packed.vocabulary,
    )
