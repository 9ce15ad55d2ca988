"""The tagger rung as it serves: onnxruntime reads the request, a chain marks its words, the answer is put together."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.engines.onnx import HiddenStates
from tiercel.students.answer_form import AnswerForm, Compiled
from tiercel.students.chains import best_tags, spans_of
from tiercel.students.word_tokens import Tokens, WordTokenizer
from tiercel.types import Answer

__all__ = ["TAG_SIGNALS", "Tagged", "TaggerStudent", "pattern_of", "read_states"]

Floats = NDArray[np.float32]

TAG_SIGNALS = ("log_probability", "gap", "weakest_choice", "pattern", "spans", "length", "familiarity")
"""Signals that a tagger gives by itself, in the order of their columns."""


class _Record(Struct, frozen=True, kw_only=True):
    form: AnswerForm
    max_tokens: int
    precision: str
    patterns: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """A tagger's reading of n requests.

    Attributes:
        answers: put together.
        compiled: what they were put together from.
        signals: shape (n, 7), columns as in `TAG_SIGNALS`.
        embedding: mean hidden states, shape (n, d).
    """

    answers: list[Answer]
    compiled: list[Compiled]
    signals: NDArray[np.float64]
    embedding: Floats


def pattern_of(compiled: Compiled) -> str:
    """Which fields an answer fills, how often each, and which values it chose: what answers of a workload share."""
    filled = Counter(s.field for s in compiled.spans)
    return msgspec.json.encode((sorted(filled.items()), compiled.classes)).decode()


def read_states(
    texts: Sequence[str],
    tokens: Sequence[Tokens],
    states: Sequence[Floats],
    heads: dict[str, Floats],
    form: AnswerForm,
    patterns: dict[str, int],
) -> Tagged:
    """Answers and signals from hidden states; the same for the trained and the served encoder.

    Args:
        texts: n requests.
        tokens: of each.
        states: last hidden states of each, shape (t, d).
        heads: arrays as `TaggerTrainer.tagger_arrays` gives them.
        form: of the answers.
        patterns: how often each pattern occurred in training.
    """
    width = heads["tags"].shape[0]
    embedding = np.array([s.mean(axis=0) for s in states], dtype=np.float32).reshape(len(texts), width)
    emissions = [s[t.first] @ heads["tags"] + heads["tags_bias"] for s, t in zip(states, tokens, strict=True)]
    choices = embedding @ heads["classes"] + heads["classes_bias"]
    ends = np.cumsum([1 + len(f.values) for f in form.fields])
    parts = [_log_softmax(p) for p in np.split(choices, ends[:-1], axis=1)]
    classes = np.stack([p.argmax(axis=1) for p in parts], axis=1)
    sureness = np.stack([p.max(axis=1) for p in parts], axis=1)
    total = sum(patterns.values())
    answers, compiled, signals = list[Answer](), list[Compiled](), np.empty((len(texts), len(TAG_SIGNALS)))
    for i, (tags, log_probability, gap) in enumerate(best_tags(emissions, heads["steps"], heads["start"])):
        found = Compiled(spans_of(tags), tuple(int(c) for c in classes[i]))
        compiled.append(found)
        answers.append(form.render(texts[i], found, tokens[i].words))
        seen = patterns.get(pattern_of(found), 0)
        signals[i] = (
            log_probability + float(sureness[i].sum()),
            gap,
            float(sureness[i].min()),
            np.log((seen + 0.5) / (total + 1)),
            len(found.spans),
            np.log1p(len(tokens[i].words)),
            tokens[i].kept if tokens[i].kept >= 1 else tokens[i].kept - 1,
        )
    return Tagged(answers=answers, compiled=compiled, signals=signals, embedding=embedding)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


class TaggerStudent:
    """A served tagger.

    Args:
        folder: holds `tagger.onnx` and `tokenizer.json`.
        heads: arrays as `TaggerTrainer.tagger_arrays` gives them.
        form: of the answers.
        patterns: how often each pattern occurred in training.
        max_tokens: tokens of a request that are read; a longer one is cut, and its familiarity is below 0.
        precision: "int8" or "fp32", as exported.
        threads: of onnxruntime; None for all cores.
    """

    rung = "tagger"
    files = ("tagger.onnx", "tokenizer.json", "tagger.safetensors", "tagger.json")

    def __init__(
        self,
        folder: Path,
        heads: dict[str, Floats],
        form: AnswerForm,
        patterns: dict[str, int],
        *,
        max_tokens: int = 128,
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        self.folder = folder
        self.heads = heads
        self.form = form
        self.patterns = patterns
        self.max_tokens = max_tokens
        self.precision = precision
        self.tokenizer = WordTokenizer(folder / self.files[1], max_tokens)
        self.engine = HiddenStates(folder / self.files[0], threads=threads or os.cpu_count() or 1)

    def tag(self, texts: Sequence[str]) -> Tagged:
        """Answers for `texts`; what one text gets does not depend on the others in the batch."""
        tokens = self.tokenizer(texts)
        states = self.engine.run([t.ids for t in tokens], [t.cases for t in tokens])
        return read_states(texts, tokens, states, self.heads, self.form, self.patterns)

    def single_threaded(self) -> TaggerStudent:
        """The same student on one thread."""
        return TaggerStudent(
            self.folder,
            self.heads,
            self.form,
            self.patterns,
            max_tokens=self.max_tokens,
            precision=self.precision,
            threads=1,
        )

    def save(self, folder: Path) -> None:
        """Write heads and form into `folder` and copy model and tokenizer there."""
        from safetensors.numpy import save_file

        if folder.resolve() != self.folder.resolve():
            for name in self.files[:2]:
                shutil.copyfile(self.folder / name, folder / name)
        save_file({k: np.ascontiguousarray(v) for k, v in self.heads.items()}, folder / self.files[2])
        record = _Record(form=self.form, max_tokens=self.max_tokens, precision=self.precision, patterns=self.patterns)
        (folder / self.files[3]).write_bytes(msgspec.json.encode(record))

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> TaggerStudent:
        """The student that `save` wrote into `folder`."""
        from safetensors.numpy import load_file

        record = msgspec.json.decode((folder / cls.files[3]).read_bytes(), type=_Record)
        return cls(
            folder,
            load_file(folder / cls.files[2]),
            record.form,
            record.patterns,
            max_tokens=record.max_tokens,
            precision=record.precision,
            threads=threads,
        )
