"""A recogniser of personal data that was taught by marked texts: names, addresses, what patterns can't find.

An encoder reads how words stand and are written, a chain of BIO tags marks them (`TaggerTrainer`); onnxruntime serves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.datasets.personal_data import Span
from tiercel.engines.onnx import HiddenStates
from tiercel.errors import BundleError
from tiercel.students.answer_form import AnswerForm, Compiled, Field
from tiercel.students.answer_form import Span as WordSpan
from tiercel.students.chains import best_tags, spans_of
from tiercel.students.word_tokens import Tokens, WordTokenizer

__all__ = ["SpanModel", "form_of", "marked_words"]

Floats = NDArray[np.float32]
Words = Sequence[tuple[int, int]]

FORMAT = 1
PIECE = 600
"""Characters that are read at once."""
SHARED = 120
"""Characters that a piece shares with the next: what one cuts in two stands whole in the other."""
BATCH = 64
"""Pieces under way at a time, so that memory does not grow with the text."""
SCORE = 0.9
"""Of every span: less than a checksum's 1."""


class _Record(Struct, frozen=True, kw_only=True):
    format: int
    kinds: tuple[str, ...]
    max_tokens: int
    precision: str


def form_of(kinds: Sequence[str]) -> AnswerForm:
    """The form of an answer whose fields are spans of each kind."""
    return AnswerForm(calls=False, fields=tuple(Field(path=(k,)) for k in kinds))


def marked_words(spans: Sequence[Span], words: Words, kinds: Sequence[str]) -> Compiled:
    """The words that spans touch, as a tagger learns them.

    Args:
        spans: of a text; those of other kinds are left, and of two that share a word the earlier one is kept.
        words: where each word of the text begins and ends, in characters.
        kinds: that are marked; a span's number is its kind's place here.
    """
    found, free = list[WordSpan](), 0
    for span in sorted(spans):
        touched = [i for i, (start, end) in enumerate(words) if start < span.end and span.start < end and i >= free]
        if touched and span.kind in kinds:
            found.append(WordSpan(kinds.index(span.kind), touched[0], touched[-1]))
            free = touched[-1] + 1
    return Compiled(tuple(found), (0,) * len(kinds))


class SpanModel:
    """Finds the kinds of personal data that marked texts taught it; a `Recogniser`, safe to share between threads.

    Args:
        folder: holds `spans.onnx` and `tokenizer.json`.
        heads: arrays as `TaggerTrainer.tagger_arrays` gives them.
        kinds: that it finds.
        max_tokens: tokens of a piece that are read; a piece that has more is halved until none is cut.
        precision: "int8" or "fp32", as exported.
        threads: of onnxruntime; None for all cores.
    """

    files = ("spans.onnx", "tokenizer.json", "spans.safetensors", "spans.json")

    def __init__(
        self,
        folder: Path,
        heads: dict[str, Floats],
        kinds: Sequence[str],
        *,
        max_tokens: int,
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        self.folder = folder
        self.name = folder.name
        self.heads = heads
        self.kinds: Sequence[str] = tuple(kinds)
        self.precision = precision
        self.tokenizer = WordTokenizer(folder / self.files[1], max_tokens)
        self._engine = HiddenStates(folder / self.files[0], threads=threads or os.cpu_count() or 1)

    def find(self, text: str) -> Iterator[Span]:
        """Spans in a text of any length, in order; those of neighbouring pieces may overlap."""
        pieces = self._pieces(text)
        while batch := list(islice(pieces, BATCH)):
            tokens = [read for _, read in batch]
            for (start, read), marked in zip(batch, self.marked(tokens), strict=True):
                for span in marked:
                    first, last = read.words[span.first][0], read.words[span.last][1]
                    yield Span(start=start + first, end=start + last, kind=self.kinds[span.field], score=SCORE)

    def marked(self, tokens: Sequence[Tokens]) -> list[tuple[WordSpan, ...]]:
        """The words that are marked in each of n texts."""
        return self.marks(tokens, self._engine.run([t.ids for t in tokens], [t.cases for t in tokens]))

    def marks(self, tokens: Sequence[Tokens], states: Sequence[Floats]) -> list[tuple[WordSpan, ...]]:
        """The words that are marked in each of n texts, from its last hidden states of shape (t, d)."""
        emissions = [
            s[t.first] @ self.heads["tags"] + self.heads["tags_bias"] for s, t in zip(states, tokens, strict=True)
        ]
        return [spans_of(tags) for tags, *_ in best_tags(emissions, self.heads["steps"], self.heads["start"])]

    def _pieces(self, text: str) -> Iterator[tuple[int, Tokens]]:
        """Tokens of each piece of a text, and where the piece begins."""
        at = 0
        while True:
            end = _at_blank(text, at + PIECE, at + PIECE // 2)
            yield from self._whole(text[at:end], at)
            if end >= len(text):
                return
            at = _at_blank(text, end - SHARED, end - 2 * SHARED)

    def _whole(self, piece: str, offset: int) -> Iterator[tuple[int, Tokens]]:
        (read,) = self.tokenizer([piece])
        if read.kept == 1.0 or len(piece) < 2:
            yield offset, read
            return
        middle = _at_blank(piece, len(piece) // 2, len(piece) // 4)
        yield from self._whole(piece[:middle], offset)
        yield from self._whole(piece[middle:], offset + middle)

    def save(self, folder: Path) -> None:
        """Write heads and record into `folder` and copy model and tokenizer there."""
        from safetensors.numpy import save_file

        if folder.resolve() != self.folder.resolve():
            for name in self.files[:2]:
                shutil.copyfile(self.folder / name, folder / name)
        save_file({k: np.ascontiguousarray(v) for k, v in self.heads.items()}, folder / self.files[2])
        record = _Record(
            format=FORMAT, kinds=tuple(self.kinds), max_tokens=self.tokenizer.max_tokens, precision=self.precision
        )
        (folder / self.files[3]).write_bytes(msgspec.json.encode(record))

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> SpanModel:
        """The model that `save` wrote into `folder`.

        Raises:
            BundleError: the folder holds none, a part of one, or one of a newer version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            record = msgspec.json.decode((folder / cls.files[3]).read_bytes(), type=_Record)
            heads = load_file(folder / cls.files[2])
        except (OSError, msgspec.MsgspecError, SafetensorError) as error:
            raise BundleError(
                f"{folder}: no recogniser can be read there ({type(error).__name__}); make one with: tiercel recogniser"
            ) from None
        if record.format > FORMAT:
            raise BundleError(f"{folder}: the recogniser was made by a newer version; update tiercel")
        return cls(
            folder, heads, record.kinds, max_tokens=record.max_tokens, precision=record.precision, threads=threads
        )


def _at_blank(text: str, wanted: int, least: int) -> int:
    """One past the last blank of text[least:wanted], or `wanted` where it has none; the end where that is nearer."""
    if wanted >= len(text):
        return len(text)
    blank = max(text.rfind(" ", least, wanted), text.rfind("\n", least, wanted))
    return blank + 1 if blank >= 0 else wanted
